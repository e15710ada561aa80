"""Serves any `Toolset` as an MCP server, both protocol eras; knows nothing of transports."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import anyio
import mcp_types as types
from mcp import MCPError
from mcp.server import Server, ServerRequestContext

from tools.errors import UnknownToolError, ZondaError
from tools.mcp_client.wire import to_mcp_result, to_mcp_tool
from tools.spec import ToolResult
from tools.toolset import CallContext, ProgressCallback, Toolset

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 0.2
"""At most five progress notifications a second for each call."""


def build_server(
    name: str, toolset: Toolset, *, version: str = "", instructions: str | None = None
) -> Server:
    """Build a server that offers the tools of `toolset`.

    The toolset checks the arguments. A cancelled request is cancelled where the tool awaits;
    an unknown tool is a protocol error, every other failure a result with `isError`.
    """

    async def list_tools(
        context: ServerRequestContext, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[to_mcp_tool(x) for x in await toolset.list_tools()])

    async def call_tool(
        context: ServerRequestContext, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        progress = throttle_progress(context.session.report_progress)
        return to_mcp_result(
            await _call(toolset, params.name, params.arguments or {}, CallContext(progress))
        )

    return Server(
        name,
        version=version,
        instructions=instructions,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def throttle_progress(
    report: ProgressCallback, now: Callable[[], float] = anyio.current_time
) -> ProgressCallback:
    """Pass on at most one report per `PROGRESS_INTERVAL_S`, and always the last (done == total)."""
    next_time = -math.inf

    async def report_progress(done: float, total: float | None, message: str | None) -> None:
        nonlocal next_time
        time = now()
        if time < next_time and done != total:
            return
        next_time = time + PROGRESS_INTERVAL_S
        await report(done, total, message)

    return report_progress


async def _call(
    toolset: Toolset, name: str, arguments: dict[str, object], context: CallContext
) -> ToolResult:
    """Call a tool; the one place where exceptions become what an MCP client sees."""
    try:
        return await toolset.call_tool(name, arguments, context)
    except UnknownToolError as exc:
        raise MCPError(types.INVALID_PARAMS, str(exc)) from exc
    except ZondaError as exc:
        return ToolResult.from_text(str(exc), is_error=True)
    except Exception:
        logger.exception("tool=%s failed", name)
        return ToolResult.from_text(f"{name} failed inside the server; see its log", is_error=True)
