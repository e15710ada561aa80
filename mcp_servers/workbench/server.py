"""The bundled tool server: offline tools over stdio, for demos, tests and first steps."""

from __future__ import annotations

from pathlib import Path

from mcp.server.stdio import stdio_server

from mcp_servers.toolset_server import build_server
from tools.builtin.calculator import calculator_toolset
from tools.builtin.clock import clock_toolset
from tools.builtin.files import files_toolset
from tools.builtin.notes import notes_toolset
from tools.toolset import CombinedToolset


def workbench_toolset(root: Path) -> CombinedToolset:
    """Build the workbench's tools; the file tools read under `root`."""
    return CombinedToolset(
        clock_toolset(), calculator_toolset(), notes_toolset(), files_toolset(root)
    )


async def serve(root: Path) -> None:
    """Serve the workbench over this process's stdin and stdout until the input ends."""
    server = build_server("workbench", workbench_toolset(root))
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())
