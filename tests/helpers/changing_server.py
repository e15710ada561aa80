"""A tool server of the modern era, over stdio, whose tools change while it runs.

Run as a script, with the tools that it offers to begin with, beside itself: names and descriptions
as JSON, or a file of it. `become` takes what it offers from then on and says so to whoever listens.
Two tools a page. A tool `hang` does not answer; once such a call was cancelled there is another
tool, `was_cancelled`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio
import mcp_types as types
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged

BUS = InMemorySubscriptionBus()
TOOLS: dict[str, str] = {}
PAGE = 2


async def list_tools(
    context: ServerRequestContext, params: types.PaginatedRequestParams | None
) -> types.ListToolsResult:
    start = int(params.cursor) if params and params.cursor else 0
    named = [("become", "Offer these tools."), *TOOLS.items()]
    tools = [
        types.Tool(name=name, description=text, input_schema={"type": "object"})
        for name, text in named[start : start + PAGE]
    ]
    more = str(start + PAGE) if len(named) > start + PAGE else None
    return types.ListToolsResult(tools=tools, next_cursor=more)


async def call_tool(
    context: ServerRequestContext, params: types.CallToolRequestParams
) -> types.CallToolResult:
    if params.name == "become":
        TOOLS.clear()
        TOOLS.update((params.arguments or {})["tools"])
        await BUS.publish(ToolsListChanged())
    if params.name == "hang":
        try:
            await anyio.sleep_forever()
        finally:
            TOOLS["was_cancelled"] = "A call was."
            with anyio.CancelScope(shield=True):
                await BUS.publish(ToolsListChanged())
    return types.CallToolResult(content=[types.TextContent(text=params.name)])


async def main() -> None:
    server = Server(
        "changing",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_subscriptions_listen=ListenHandler(BUS),
    )
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    given = sys.argv[1]
    TOOLS |= json.loads(given if given.startswith("{") else Path(given).read_text("utf-8"))
    anyio.run(main)
