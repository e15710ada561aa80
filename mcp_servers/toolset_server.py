"""Serves any `Toolset`, and resources, as an MCP server, both protocol eras.

Knows of transports only who asks.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio
import mcp_types as types
from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from tools.errors import UnknownToolError, ZondaError, suggest
from tools.mcp_client.wire import to_mcp_result, to_mcp_tool
from tools.spec import ToolResult
from tools.toolset import CallContext, ProgressCallback, Toolset

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 0.2
"""At most five progress notifications a second for each call."""


@dataclass(frozen=True, slots=True)
class TextResource:
    """A text that a host can read; `read` makes it anew each time."""

    uri: str
    name: str
    description: str
    mime_type: str
    read: Callable[[], Awaitable[str]]


def build_server(
    name: str,
    toolset: Toolset,
    *,
    version: str = "",
    instructions: str | None = None,
    resources: Sequence[TextResource] = (),
) -> Server:
    """Build a server that offers the tools of `toolset`, and `resources` where there are any.

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
        caller = CallContext(progress, principal_of(context))
        return to_mcp_result(await _call(toolset, params.name, params.arguments or {}, caller))

    server = Server(
        name,
        version=version,
        instructions=instructions,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
    if resources:
        _add_resources(server, resources)
    return server


def principal_of(context: ServerRequestContext) -> str:
    """Say who asks: the user a request was let in as, else its session, else nobody.

    A session's id counts on the handshake era only, where the transport has looked it up; a
    modern request could bear any.
    """
    request = context.request
    if request is None:
        return ""
    user = request.scope.get("user")
    if user is not None:
        return f"user {user.username}"
    session_id = request.headers.get("mcp-session-id")
    if session_id and context.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS:
        return f"session {session_id}"
    return ""


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


def _add_resources(server: Server, resources: Sequence[TextResource]) -> None:
    async def list_resources(
        context: ServerRequestContext, params: types.PaginatedRequestParams
    ) -> types.ListResourcesResult:
        return types.ListResourcesResult(
            resources=[
                types.Resource(
                    uri=resource.uri,
                    name=resource.name,
                    description=resource.description,
                    mime_type=resource.mime_type,
                )
                for resource in resources
            ]
        )

    async def list_templates(
        context: ServerRequestContext, params: types.PaginatedRequestParams
    ) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult(resource_templates=[])

    async def read_resource(
        context: ServerRequestContext, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        for resource in resources:
            if resource.uri == params.uri:
                text = await _read(resource)
                content = types.TextResourceContents(
                    uri=resource.uri, mime_type=resource.mime_type, text=text
                )
                return types.ReadResourceResult(contents=[content])
        known = [resource.uri for resource in resources]
        message = f"no resource is at {params.uri!r}{suggest(params.uri, known)}"
        raise MCPError(types.INVALID_PARAMS, message)

    server.add_request_handler("resources/list", types.PaginatedRequestParams, list_resources)
    server.add_request_handler(
        "resources/templates/list", types.PaginatedRequestParams, list_templates
    )
    server.add_request_handler("resources/read", types.ReadResourceRequestParams, read_resource)


async def _read(resource: TextResource) -> str:
    """Read a resource; the one place where its failures become what a client sees."""
    try:
        return await resource.read()
    except ZondaError as exc:
        raise MCPError(types.INTERNAL_ERROR, str(exc)) from exc
    except Exception as exc:
        logger.exception("resource=%s failed", resource.uri)
        message = f"{resource.uri} failed inside the server; see its log"
        raise MCPError(types.INTERNAL_ERROR, message) from exc


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
