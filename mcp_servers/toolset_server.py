"""Serves any `Toolset`, resources and prompts as an MCP server, both protocol eras.

Knows of transports only who asks.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import mcp_types as types
from mcp import MCPError
from mcp.server import InitializationOptions, NotificationOptions, Server, ServerRequestContext
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from mcp_servers.announcements import Announcements
from mcp_servers.prompt_handlers import ListPrompts, Prompt, PromptHandlers
from mcp_servers.resource_handlers import Resource, ResourceHandlers, page_of
from tools.errors import UnknownToolError, ZondaError
from tools.mcp_client.wire import to_mcp_result, to_mcp_tool
from tools.spec import ToolResult
from tools.toolset import CallContext, ChangingToolset, ProgressCallback, Toolset

logger = logging.getLogger(__name__)
T = TypeVar("T")

PROGRESS_INTERVAL_S = 0.2
"""At most five progress notifications a second for each call."""


@dataclass(frozen=True, slots=True)
class Icons:
    """Pictures as `data:` URIs of SVG: the server's own, and those of tools by their names."""

    server: str
    tools: Mapping[str, str]


class OfferingServer(Server[Any]):
    """A server that says when it is met which of its lists may change, and shows its icon.

    Later results of the modern era bear its name without the icon, which would be in each.
    """

    def __init__(
        self, changing: NotificationOptions, resources: Sequence[Resource], **options: Any
    ) -> None:
        super().__init__(**options)
        self.add_request_handler("server/discover", types.RequestParams, self._discover)
        self._changing = changing
        self._resources = ResourceHandlers(resources, principal_of)
        self.announcements = Announcements(self._resources.version, principal_of)

    @property
    def server_info(self) -> types.Implementation:
        return super().server_info.model_copy(update={"icons": None})

    async def _discover(
        self, context: ServerRequestContext, params: types.RequestParams
    ) -> types.DiscoverResult:
        info = super().server_info.model_dump(by_alias=True, mode="json", exclude_none=True)
        return types.DiscoverResult(
            supported_versions=list(MODERN_PROTOCOL_VERSIONS),
            capabilities=self.get_capabilities(protocol_version=context.protocol_version),
            instructions=self.instructions,
            _meta={types.SERVER_INFO_META_KEY: info},
        )

    def offer(self, prompts: ListPrompts) -> None:
        """Serve resources, prompts, completion and subscriptions."""
        self._resources.attach(self)
        PromptHandlers(prompts, self._resources, principal_of).attach(self)
        self.announcements.attach(self)
        self.add_request_handler("logging/setLevel", types.SetLevelRequestParams, _ignore_level)

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        return super().create_initialization_options(
            notification_options or self._changing, experimental_capabilities, extensions
        )


def build_server(
    name: str,
    toolset: Toolset,
    *,
    version: str = "",
    title: str | None = None,
    instructions: str | None = None,
    icons: Icons | None = None,
    resources: Sequence[Resource] = (),
    prompts: Sequence[Prompt] | ListPrompts = (),
) -> OfferingServer:
    """Build a server that offers the tools of `toolset`, and what else there is.

    The toolset checks the arguments. A cancelled request is cancelled where the tool awaits;
    an unknown tool is a protocol error, every other failure a result with `isError`.

    The owner of a server whose lists change tells its `announcements` so, and runs their
    `watch` where resources have versions.
    """
    pictures = {} if icons is None else {tool: [_icon(of)] for tool, of in icons.tools.items()}

    async def list_tools(
        context: ServerRequestContext, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        tools = [to_mcp_tool(spec) for spec in await toolset.list_tools()]
        shown, cursor = page_of(tools, params.cursor if params else None)
        drawn = [tool.model_copy(update={"icons": pictures.get(tool.name)}) for tool in shown]
        return types.ListToolsResult(tools=drawn, next_cursor=cursor)

    async def call_tool(
        context: ServerRequestContext, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        progress = throttle_progress(context.session.report_progress)
        caller = CallContext(progress, principal_of(context))
        called = toolset.call_tool(params.name, params.arguments or {}, caller)
        return to_mcp_result(await result_of(params.name, called))

    is_changing = isinstance(toolset, ChangingToolset)
    server = OfferingServer(
        NotificationOptions(callable(prompts), is_changing, is_changing),
        resources,
        name=name,
        version=version,
        title=title,
        instructions=instructions,
        icons=None if icons is None else [_icon(icons.server)],
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
    if resources or prompts or is_changing:
        server.offer(prompts if callable(prompts) else _always(prompts))
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


async def _ignore_level(
    context: ServerRequestContext, params: types.SetLevelRequestParams
) -> types.EmptyResult:
    """Accept any level: nothing is logged over the protocol."""
    return types.EmptyResult()


def _always(prompts: Sequence[Prompt]) -> ListPrompts:
    async def list_prompts() -> Sequence[Prompt]:
        return prompts

    return list_prompts


def _icon(source: str) -> types.Icon:
    return types.Icon(src=source, mime_type="image/svg+xml", sizes=["any"])


async def result_of(name: str, called: Awaitable[T]) -> T | ToolResult:
    """Wait for a call of the tool `name`; here exceptions become what an MCP client sees.

    Raises:
        MCPError: there is no such tool.
    """
    try:
        return await called
    except UnknownToolError as exc:
        raise MCPError(types.INVALID_PARAMS, str(exc)) from exc
    except MCPError:
        raise
    except ZondaError as exc:
        return ToolResult.from_text(str(exc), is_error=True)
    except Exception:
        logger.exception("tool=%s failed", name)
        return ToolResult.from_text(f"{name} failed inside the server; see its log", is_error=True)
