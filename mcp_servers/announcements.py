"""Tells MCP clients what changed: lists of tools, prompts and resources, and what resources say.

Clients of the handshake era are told on their connection, later ones on the streams that they
opened with `subscriptions/listen`. Knows no resource: who asks what one says passes a function.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Hashable, Iterable
from typing import Any

import anyio
import mcp_types as types
from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

WATCH_INTERVAL_S = 0.5
"""How often a resource that somebody subscribed to is looked at."""

SEND_WITHIN_S = 1.0
"""How long a client may keep the others from being told."""

MAX_URIS_EACH = 64
"""Resources that one connection or stream may subscribe to."""


PrincipalOf = Callable[[ServerRequestContext], str]
VersionOf = Callable[[str, str], Hashable]
"""Gives, cheaply, a value that changes once what a principal sees at a URI does; None where that
never changes. Raises `MCPError` where the principal has no such resource."""


Wanted = tuple[str, str]
"""A URI, and the principal who sees it."""


class Announcements:
    """Knows who is connected and what they subscribed to.

    Invariant: `_wanted` counts each (URI, principal) once for every connection and stream that
    wants it.
    """

    def __init__(self, version_of: VersionOf, principal_of: PrincipalOf) -> None:
        self._version_of = version_of
        self._principal_of = principal_of
        self._bus = InMemorySubscriptionBus()
        self._listen = ListenHandler(self._bus)
        self._connections: dict[Connection, set[Wanted]] = {}
        self._wanted: Counter[Wanted] = Counter()
        self._was_wanted = anyio.Event()

    def attach(self, server: Server[Any]) -> None:
        """Serve subscriptions, and note every handshake-era client of a server."""
        server.middleware.append(self._note)
        server.add_request_handler(
            "subscriptions/listen", types.SubscriptionsListenRequestParams, self._serve_listen
        )
        server.add_request_handler(
            "resources/subscribe", types.SubscribeRequestParams, self._subscribe
        )
        server.add_request_handler(
            "resources/unsubscribe", types.UnsubscribeRequestParams, self._unsubscribe
        )

    async def tools_changed(self) -> None:
        """Tell every client that there are other tools."""
        await self._tell(ToolsListChanged(), lambda one: one.send_tool_list_changed())

    async def prompts_changed(self) -> None:
        """Tell every client that there are other prompts."""
        await self._tell(PromptsListChanged(), lambda one: one.send_prompt_list_changed())

    async def resources_changed(self) -> None:
        """Tell every client that there are other resources."""
        await self._tell(ResourcesListChanged(), lambda one: one.send_resource_list_changed())

    async def resource_updated(self, uri: str) -> None:
        """Tell who subscribed to a resource that it says something else."""
        await self._tell(
            ResourceUpdated(uri=uri),
            lambda one: one.send_resource_updated(uri),
            lambda wanted: any(one == uri for one, _ in wanted),
        )

    async def watch(self, interval_s: float = WATCH_INTERVAL_S) -> None:
        """Tell of every change of a subscribed resource, until cancelled."""
        seen: dict[Wanted, Hashable] = {}
        while True:
            while not self._wanted:
                self._was_wanted = anyio.Event()
                await self._was_wanted.wait()
            now = {wanted: self._version(wanted) for wanted in self._wanted}
            changed = [one for one in now if one in seen and seen[one] != now[one]]
            for uri in dict.fromkeys(uri for uri, _ in changed):
                await self.resource_updated(uri)
            seen = now
            await anyio.sleep(interval_s)

    def _version(self, wanted: Wanted) -> Hashable:
        try:
            return self._version_of(*wanted)
        except MCPError:
            return None  # such as a run that has expired

    async def _subscribe(
        self, context: ServerRequestContext, params: types.SubscribeRequestParams
    ) -> types.EmptyResult:
        wanted = (params.uri, self._principal_of(context))
        self._version_of(*wanted)
        kept = self._connections.setdefault(_connection_of(context), set())
        if wanted not in kept:
            _check_number(len(kept) + 1)
            kept.add(wanted)
            self._want([wanted])
        return types.EmptyResult()

    async def _unsubscribe(
        self, context: ServerRequestContext, params: types.UnsubscribeRequestParams
    ) -> types.EmptyResult:
        wanted = (params.uri, self._principal_of(context))
        kept = self._connections.get(_connection_of(context), set())
        if wanted in kept:
            kept.remove(wanted)
            self._forget([wanted])
        return types.EmptyResult()

    async def _serve_listen(
        self, context: ServerRequestContext, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """Listen, but to nothing that the principal cannot read."""
        principal = self._principal_of(context)
        uris = list(dict.fromkeys(params.notifications.resource_subscriptions or ()))
        _check_number(len(uris))
        wanted = [(uri, principal) for uri in uris if self._is_readable(uri, principal)]
        readable = {"resource_subscriptions": [uri for uri, _ in wanted]}
        honoured = params.notifications.model_copy(update=readable)
        self._want(wanted)
        try:
            allowed = params.model_copy(update={"notifications": honoured})
            return await self._listen(context, allowed)
        finally:
            self._forget(wanted)

    def _is_readable(self, uri: str, principal: str) -> bool:
        try:
            self._version_of(uri, principal)
        except MCPError:
            return False
        return True

    async def _note(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Remember the connection of a client that has finished its handshake, until it closes."""
        if (
            ctx.method == "notifications/initialized"
            and ctx.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS
        ):
            connection = _connection_of(ctx)
            if connection not in self._connections:
                self._connections[connection] = set()
                connection.exit_stack.callback(self._drop, connection)
        return await call_next(ctx)

    def _drop(self, connection: Connection) -> None:
        self._forget(self._connections.pop(connection, set()))

    def _want(self, wanted: Iterable[Wanted]) -> None:
        self._wanted.update(wanted)
        self._was_wanted.set()

    def _forget(self, wanted: Iterable[Wanted]) -> None:
        self._wanted.subtract(wanted)
        self._wanted = +self._wanted

    async def _tell(
        self,
        event: ServerEvent,
        send: Callable[[Connection], Coroutine[Any, Any, None]],
        is_for: Callable[[set[Wanted]], bool] = lambda wanted: True,
    ) -> None:
        await self._bus.publish(event)
        told = [one for one, wanted in self._connections.items() if is_for(wanted)]
        with anyio.move_on_after(SEND_WITHIN_S):
            async with anyio.create_task_group() as group:
                for connection in told:
                    group.start_soon(send, connection)


def _connection_of(context: ServerRequestContext) -> Connection:
    # The session is another object for each request; only the connection behind it lasts, and
    # the SDK has no public name for it.
    return context.session._connection


def _check_number(num_uris: int) -> None:
    if num_uris > MAX_URIS_EACH:
        message = f"{num_uris} resources are subscribed to, at most {MAX_URIS_EACH} may be"
        raise MCPError(types.INVALID_PARAMS, message)
