"""The model server as MCP: what a host is told about it, its tools and its resources."""

from __future__ import annotations

import json
from typing import Any

from mcp.server import Server

from mcp_servers import toolset_server
from mcp_servers.model_server.resources import SUPPORT_URI
from mcp_servers.model_server.run_calls import serve_runs
from mcp_servers.model_server.service import ModelService
from mcp_servers.resource_handlers import Asked, Resource

INSTRUCTIONS = (
    "Local language models on the user's own machine: private, free, small. Use extract when you "
    "need JSON, choose to classify, generate for text. Give each call one self-contained task: "
    "the model knows nothing of this conversation. A result with status 'running' is not an "
    "error: call run_result with its run_id."
)


def build_server(service: ModelService, *, version: str) -> Server[Any]:
    """Make the MCP server, both protocol eras, of what `open_service` gives."""

    async def read_support(asked: Asked) -> str:
        return json.dumps(await service.describe_support(), ensure_ascii=False, indent=2)

    support = Resource(
        uri=SUPPORT_URI,
        name="grammar-support",
        description="The output forms and JSON Schema keywords that the grammar enforces, and "
        "how strictly calls of each tool server's tools are decoded.",
        mime_type="application/json",
        read=read_support,
    )
    server = toolset_server.build_server(
        "zonda", service, version=version, instructions=INSTRUCTIONS, resources=[support]
    )
    serve_runs(server, service, num_waiting=lambda: service.num_waiting)
    return server
