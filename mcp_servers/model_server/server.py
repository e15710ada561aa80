"""The model server as MCP: what a host is told about it, and its tools."""

from __future__ import annotations

from typing import Any

from mcp.server import Server

from mcp_servers import toolset_server
from tools.toolset import Toolset

INSTRUCTIONS = (
    "Local language models on the user's own machine: private, free, small. Use extract when you "
    "need JSON, choose to classify, generate for text. Give each call one self-contained task: "
    "the model knows nothing of this conversation. A result with status 'running' is not an "
    "error: call run_result with its run_id."
)


def build_server(service: Toolset, *, version: str) -> Server[Any]:
    """Make the MCP server, both protocol eras, of what `open_service` gives."""
    return toolset_server.build_server("zonda", service, version=version, instructions=INSTRUCTIONS)
