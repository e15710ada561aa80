"""A tool server whose tools do nothing, over our own transports: what is left is the protocol.

`python -m mcp_servers.cli.bench_probe stdio|http`; over HTTP it prints its URL first.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import anyio

from tools.spec import JsonObject, TextContent, ToolResult, ToolSpec
from tools.toolset import CallContext, find_tool

ANSWER, COUNT = "answer", "count"
NUM_REPORTS = 200
"""Progress notifications of one call of `count`."""


class ProbeToolset:
    """`answer` answers; `count` reports progress first, each report as if it were the last.

    The last report of a call is never held back, so all of them go out.
    """

    def __init__(self) -> None:
        schema: JsonObject = {"type": "object"}
        self._tools = [ToolSpec(name, "Does nothing.", schema) for name in (ANSWER, COUNT)]

    async def list_tools(self) -> Sequence[ToolSpec]:
        return self._tools

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> ToolResult:
        find_tool(self._tools, name)
        if name == COUNT:
            for number in range(1, NUM_REPORTS + 1):
                await context.report_progress(number, number, "counting")
        return ToolResult((TextContent("done"),))


async def _serve_stdio() -> None:
    from mcp.server.stdio import stdio_server

    from mcp_servers.toolset_server import build_server

    server = build_server("probe", ProbeToolset())
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


async def _serve_http() -> None:
    from mcp_servers.guard import make_access
    from mcp_servers.model_server.web import HttpServer, http_config, listen, url_of
    from mcp_servers.service_state import ServiceState
    from mcp_servers.toolset_server import build_server
    from mcp_servers.web_app import open_web_app
    from runtime.agent.tool_tally import ToolCallTally

    def state() -> ServiceState:
        return ServiceState(0, 0, {}, ToolCallTally(), {})

    server = build_server("probe", ProbeToolset())
    access = make_access("127.0.0.1", ())
    async with open_web_app(server, access, lambda: "ready", state) as app:
        listener = listen("127.0.0.1", 0)
        print(url_of(listener), flush=True)
        await HttpServer(http_config(app.asgi)).serve([listener])


if __name__ == "__main__":
    anyio.run(_serve_http if sys.argv[1:] == ["http"] else _serve_stdio)
