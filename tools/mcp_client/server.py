"""One supervised connection to a tool server: started, watched, restarted, ended.

Whatever a server does wrong ends in its `ServerState` or in a `ToolServerError` of one call;
nothing of it reaches another server.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar

import anyio
import mcp_types as types
from mcp import Client, MCPError
from mcp.client.client import ConnectMode
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from tools.errors import ToolServerError
from tools.mcp_client import content
from tools.mcp_client.catalogue import (
    OfferedTool,
    Staleness,
    has_resources,
    list_tools,
    listen_for_changes,
    offer_tools,
    usable_tools,
)
from tools.mcp_client.catalogue_store import Catalogue, CatalogueStore
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.exchange import Exchange
from tools.mcp_client.failures import FAILURES, tell_first
from tools.mcp_client.inquiries import Inquiries
from tools.mcp_client.names import exposed_name
from tools.mcp_client.oauth import REFUSED
from tools.mcp_client.pins import Pins, why_held
from tools.mcp_client.process import ServerProcess
from tools.mcp_client.remote import RemoteServer
from tools.mcp_client.resource_tools import call_resource_tool, resource_tools
from tools.mcp_client.token_store import TokenStore
from tools.resources import Resource
from tools.sampling import Sampler
from tools.spec import Content, JsonObject, ResourceLink, ToolResult, ToolSpec
from tools.toolset import CallContext

logger = logging.getLogger(__name__)

Status = Literal["starting", "ready", "restarting", "failed", "disabled"]

T = TypeVar("T")

_FIRST_DELAY_S = 0.2
_MOST_DELAY_S = 30.0
_STABLE_AFTER_S = 60.0
_LOOK_FOR_APPROVAL_S = 1.0
_LIST_INTERVAL_S = 0.5
"""A server that says again and again that its tools changed is asked this often at most."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """Where a server stands.

    starting: first attempt under way; ready: its tools can be called; restarting: it was
    ready and was lost, calls wait; failed: the last attempt failed, another follows unless
    its configuration is the reason; disabled: switched off by its configuration.

    Attributes:
        reason: why it is not ready, as the rest of a sentence about the server.
        protocol_version: as negotiated, or when it was last connected.
        pid: its process, while it is ready; None for a server at a URL.
        held_tools: tools, by the server's own names, that are not offered because their
            definition has changed since it was approved.
        is_started: False for one that is ready to be started on first use.
        num_restarts: how often it was lost after it had been ready.
        last_error: the reason of its last failure, which it may have got over.
    """

    status: Status
    reason: str | None = None
    num_tools: int = 0
    protocol_version: str | None = None
    pid: int | None = None
    held_tools: tuple[str, ...] = ()
    is_started: bool = True
    num_restarts: int = 0
    last_error: str | None = None

    def describe(self) -> JsonObject:
        """Return what a status report says of it; what there is nothing to say of is left out."""
        version = self.protocol_version
        era = "modern" if version in MODERN_PROTOCOL_VERSIONS else "handshake"
        told: JsonObject = {
            "state": self.status,
            "tools": self.num_tools,
            "started": self.is_started,
            "restarts": self.num_restarts,
        }
        more = {
            "protocol": version,
            "era": era if version else None,
            "reason": self.reason and f"it {self.reason}",
            "last_error": self.last_error and f"it {self.last_error}",
            "held_tools": list(self.held_tools),
        }
        return told | {key: value for key, value in more.items() if value}


def _ignore_change() -> None:
    pass


class ServerConnection:
    """Keeps one server connected while `run` runs, and calls its tools.

    `on_change` is called when it offers other tools than before. Without `pins` every definition
    counts as approved, without `store` it is started at once, without `sampler` it gets no text
    of ours, without `tokens` no login is kept.
    """

    def __init__(
        self,
        config: ServerConfig,
        on_change: Callable[[], None] = _ignore_change,
        pins: Pins | None = None,
        *,
        store: CatalogueStore | None = None,
        sampler: Sampler | None = None,
        tokens: TokenStore | None = None,
    ) -> None:
        self._config = config
        self._pins = pins
        self._store = store
        self._tokens = tokens
        self._lost = anyio.Event()
        self._on_change = on_change
        self._inquiries = Inquiries(config, sampler)
        self._turns = anyio.Semaphore(config.options.max_parallel, fast_acquire=True)
        self._state = ServerState("starting")
        self._changed = anyio.Event()
        self._wanted = anyio.Event()
        self._client: Client | None = None
        self._is_known = False
        self._has_resources = False
        self._has_linked = False
        self._listed: Sequence[types.Tool] = ()
        self._held: tuple[str, ...] = ()
        self._stamp = 0
        self._tools: Mapping[str, OfferedTool] = {}
        self._readers = {spec.name: spec for spec in resource_tools(config.name)}
        self._told_tools: Sequence[ToolSpec] = []

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def state(self) -> ServerState:
        return self._state

    @property
    def tools(self) -> Sequence[ToolSpec]:
        """What the server offers, by name; nothing unless it is ready or will be again.

        Where it has resources, also our tools that read them, unless it has one of that name.
        """
        is_there = self._is_known and self._state.status not in {"failed", "disabled"}
        return self._offered() if is_there else []

    @property
    def held_names(self) -> Sequence[str]:
        """The names under which the tools that are held back would be offered."""
        return [exposed_name(self.name, own_name) for own_name in self._held]

    async def wait_until_known(self) -> None:
        """Wait until it is known what the server offers, or that it offers nothing."""
        while self._state.status == "starting" and not self._is_known:
            await self._changed.wait()

    async def wait_for(self, *statuses: Status) -> ServerState:
        """Wait until the server has one of the statuses."""
        while self._state.status not in statuses:
            await self._changed.wait()
        return self._state

    async def run(self) -> None:
        """Keep the server connected until cancelled; never raises for what it does."""
        if self._config.problem is not None:
            self._set(ServerState("failed", f"cannot be used: {self._config.problem}"))
            return
        if not self._config.is_enabled:
            self._set(ServerState("disabled", "is disabled in its configuration"))
            return
        await self._wait_for_use()
        delay_s = _FIRST_DELAY_S
        while True:
            began = anyio.current_time()
            try:
                state = await self._connect()
            except Exception:
                logger.exception("server=%s: unexpected failure", self.name)
                state = ServerState("failed", "failed in an unexpected way; see the log")
            if state.reason != self._state.reason:  # an attempt that fails as before is not news
                logger.warning("server=%s %s: it %s", self.name, state.status, state.reason)
            self._set(replace(state, last_error=state.reason))
            if state.status == "restarting" and anyio.current_time() - began > _STABLE_AFTER_S:
                delay_s = _FIRST_DELAY_S
            await self._pause(delay_s * random.uniform(0.8, 1.2))  # noqa: S311  spreads retries
            delay_s = min(2 * delay_s, _MOST_DELAY_S)

    async def _wait_for_use(self) -> None:
        """Offer what the server is known to offer, and wait until somebody wants it."""
        if self._store is None or not self._config.options.is_lazy:
            return
        if (known := self._store.load(self._config)) is None:
            return
        self._has_resources = known.has_resources
        self._take(usable_tools(self.name, known.tools))
        version, num_tools = known.protocol_version, len(self._offered())
        logger.info("server=%s is started on first use: %d tools", self.name, num_tools)
        self._set(
            ServerState("ready", None, num_tools, version, None, self._held, is_started=False)
        )
        while not self._wanted.is_set():
            with anyio.move_on_after(_LOOK_FOR_APPROVAL_S if self._held else math.inf):
                await self._wanted.wait()
            if self._approval_stamp() != self._stamp:
                self._take(self._listed)

    async def _pause(self, delay_s: float) -> None:
        """Wait before another attempt; a login of the operator's ends the wait."""
        last = anyio.current_time() + delay_s
        before = self._login_stamp()
        while anyio.current_time() < last and self._login_stamp() == before:  # noqa: ASYNC110  a file
            await anyio.sleep(min(delay_s, _LOOK_FOR_APPROVAL_S))

    def _login_stamp(self) -> int:
        if self._tokens is None or not self._config.url:
            return 0
        return self._tokens.stamp(self._config.url)

    async def call(self, name: str, arguments: JsonObject, context: CallContext) -> ToolResult:
        """Call the tool offered as `name`; progress keeps a slow call alive.

        Raises:
            ToolServerError: the server is not there, was lost, was silent for too long or
                answered with something that is no result.
        """
        if name in self._readers and name not in self._tools:
            read = partial(self.read_resource, context=context)
            reader = self._readers[name]
            return await call_resource_tool(
                reader, arguments, partial(self.list_resources, context), read
            )
        ask = partial(self._call, name, arguments)
        return await self.ask(f"the call of {name}", context, ask)

    async def list_resources(self, context: CallContext) -> Sequence[Resource]:
        """Return what the server has to read.

        Raises:
            ToolServerError: as of `call`.
        """
        return await self.ask("the list of resources", context, content.list_resources)

    async def read_resource(self, uri: str, context: CallContext) -> Sequence[Content]:
        """Read a resource.

        Raises:
            ToolServerError: as of `call`.
        """
        read = partial(content.read_resource, uri=uri)
        return await self.ask(f"reading {uri}", context, read)

    async def ask(
        self, what: str, context: CallContext, ask: Callable[[Exchange], Awaitable[T]]
    ) -> T:
        """Ask the server something, in its turn; `what` says in messages what it is.

        Raises:
            ToolServerError: as of `call`.
        """
        limits = self._config.timeouts
        await self._ready_client()
        with anyio.move_on_after(limits.total_s) as waiting:
            await self._turns.acquire()
        if waiting.cancelled_caught:
            busy = f"server {self.name!r} was busy with other calls for {limits.total_s:g} s"
            raise ToolServerError(f"{busy}, so {what} was given up; it was not made")
        try:
            client = await self._ready_client()
            exchange = Exchange(client, context, limits, self._inquiries.answer)
            with exchange.scope, self._inquiries.during(exchange):
                return await self._send(client, what, partial(ask, exchange))
        finally:
            self._turns.release()
        long = f"took more than {limits.total_s:g} s"
        why = long if exchange.is_over else f"was silent for {limits.idle_s:g} s"
        raise ToolServerError(
            f"server {self.name!r} {why}, so {what} was given up; it may still have had an effect"
        )

    async def _ready_client(self) -> Client:
        if not self._state.is_started:
            self._set(replace(self._state, status="starting", is_started=True))
        self._wanted.set()
        with anyio.move_on_after(self._config.timeouts.connect_s):
            await self.wait_for("ready", "failed", "disabled")
        if self._client is None:
            reason = self._state.reason or f"is {self._state.status}"
            raise ToolServerError(f"server {self.name!r} is not available: it {reason}")
        return self._client

    async def _call(self, name: str, arguments: JsonObject, exchange: Exchange) -> ToolResult:
        if (tool := self._tools.get(name)) is None:
            raise ToolServerError(f"server {self.name!r} does not offer {name} any more")
        send = partial(content.call_tool, exchange, tool.own_name, arguments)
        try:
            return self._note_links(await send(), exchange.client)
        except MCPError as exc:
            if exc.error.code == types.HEADER_MISMATCH:  # its schema is another than was listed
                await self._learn(exchange.client)
            elif not await self._inquiries.has_gone_where(exc.error, exchange):
                raise
            return await send()

    def _note_links(self, result: ToolResult, client: Client) -> ToolResult:
        """Let a model read what a result links to, also of a server that lists no resources."""
        is_linking = any(isinstance(part, ResourceLink) for part in result.content)
        if is_linking and client.server_capabilities.resources and not self._has_resources:
            self._has_linked = self._has_resources = True
            self._set(replace(self._state, num_tools=len(self._offered())))
        return result

    async def _send(self, client: Client, what: str, send: Callable[[], Awaitable[T]]) -> T:
        """Send something; the one place where what a server does wrong becomes an error of ours."""
        try:
            return await send()
        except MCPError as exc:
            if exc.error.code != types.CONNECTION_CLOSED and self._client is client:
                message = f"server {self.name!r} refused {what}: {exc.error.message}"
                if exc.error.code == REFUSED:  # connected anew, it will say so in its state
                    self._lost.set()
                raise ToolServerError(message) from exc
            failure: Exception = exc
            self._lose(client)
        except (ValidationError, RuntimeError) as exc:
            if self._client is client:
                message = f"server {self.name!r} answered {what} with what is no result: {exc}"
                raise ToolServerError(message) from exc
            failure = exc
        raise ToolServerError(
            f"the connection to server {self.name!r} was lost during {what}; "
            "whether it had an effect is unknown"
        ) from failure

    async def _connect(self) -> ServerState:
        """Hold one connection until it ends; return the state that follows."""
        if not self._config.url:
            return await self._attempt(ServerProcess(self._config))
        if self._config.is_sse:
            return await self._attempt_older()
        server = RemoteServer(self._config, self._tokens)
        state = await self._attempt(server)
        if state.status == "failed" and server.is_older:
            older = await self._attempt_older()
            return state if older.status == "failed" else older
        return state

    async def _attempt_older(self) -> ServerState:
        return await self._attempt(RemoteServer(self._config, self._tokens, is_sse=True), "legacy")

    async def _attempt(
        self, server: ServerProcess | RemoteServer, mode: ConnectMode = "auto"
    ) -> ServerState:
        self._lost = server.lost
        deadline = anyio.current_time() + self._config.timeouts.connect_s
        status: Status = "failed"
        told: str | None = None
        stale = Staleness()
        with anyio.CancelScope(deadline=deadline) as scope:
            try:
                async with self._inquiries.make_client(server.run(), stale.hear, mode) as client:
                    await self._learn(client)
                    scope.deadline = math.inf
                    self._become_ready(client, server.pid)
                    status = "restarting"
                    try:
                        await self._stay(client, stale, server.lost)
                    finally:  # a lost HTTP connection cancels the wait
                        self._lose(client)
            except* FAILURES as group:
                told = tell_first(group)
        is_told = told is not None and status == "failed" and not scope.cancelled_caught
        return ServerState(status, told if is_told else server.describe_end())

    def _become_ready(self, client: Client, pid: int | None) -> None:
        version, num_tools = client.protocol_version, len(self._offered())
        logger.info("server=%s ready: %d tools, protocol %s", self.name, num_tools, version)
        self._client = client
        self._set(ServerState("ready", None, num_tools, version, pid, self._held))

    async def _stay(self, client: Client, stale: Staleness, lost: anyio.Event) -> None:
        """Keep the list of tools as the server has it, until the server is lost."""
        async with anyio.create_task_group() as group:
            group.start_soon(listen_for_changes, client, self.name, stale)
            group.start_soon(self._keep_listed, client, stale)
            await lost.wait()
            group.cancel_scope.cancel()

    async def _keep_listed(self, client: Client, stale: Staleness) -> None:
        while True:
            try:
                await self._learn_next(client, stale)
            except FAILURES as exc:  # a lost connection ends elsewhere; the rest may pass
                logger.warning("server=%s: its tools could not be listed anew: %s", self.name, exc)
            await anyio.sleep(_LIST_INTERVAL_S)

    async def _learn_next(self, client: Client, stale: Staleness) -> None:
        """Wait until the list has changed, or something in it was approved, and take it."""
        is_stale = False
        while not is_stale:
            with anyio.move_on_after(_LOOK_FOR_APPROVAL_S if self._held else math.inf):
                await stale.wait()
                is_stale = True
            if not is_stale and self._approval_stamp() != self._stamp:
                self._take(self._listed)
                return
        with anyio.fail_after(self._config.timeouts.connect_s):
            await self._learn(client)

    def _offered(self) -> list[ToolSpec]:
        own = [tool.spec for tool in self._tools.values()]
        readers = self._readers if self._has_resources else {}
        ours = [spec for name, spec in readers.items() if name not in self._tools]
        return sorted([*own, *ours], key=lambda spec: spec.name)

    def _approval_stamp(self) -> int:
        return 0 if self._pins is None else self._pins.stamp(self._config)

    async def _learn(self, client: Client) -> None:
        """Take what the server offers now, and keep it for the next start."""
        usable = usable_tools(self.name, await list_tools(client))
        readable = self._has_linked or await has_resources(client)
        if self._client is not None and self._client is not client:
            return  # it was lost meanwhile, and another is there
        self._has_resources = readable
        self._take(usable)
        if self._store is not None:
            catalogue = Catalogue(usable, client.protocol_version, readable)
            self._store.save(self._config, catalogue)

    def _take(self, listed: Sequence[types.Tool]) -> None:
        """Offer these tools but those whose definition is not the approved one."""
        held = () if self._pins is None else self._pins.hold(self._config, listed)
        self._stamp = self._approval_stamp()
        tools = offer_tools(self.name, listed, held)
        if new := sorted(set(held) - set(self._held)):
            logger.warning("server=%s: %s", self.name, why_held(self.name, new))
        is_other = held != self._held
        self._listed, self._held, self._tools = listed, held, tools
        self._is_known = True
        offered = self._offered()
        if self._state.status == "ready" and (is_other or offered != self._told_tools):
            logger.info("server=%s offers other tools: %d in all", self.name, len(offered))
            self._set(replace(self._state, num_tools=len(offered), held_tools=held))

    def _lose(self, client: Client) -> None:
        """Let later calls wait for the next connection; the first to see the loss says so."""
        if self._client is client:
            self._client = None
            num_restarts = self._state.num_restarts + 1
            self._set(ServerState("restarting", "was lost", num_restarts=num_restarts))

    def _set(self, state: ServerState) -> None:
        """Take a state; what happened before and what is offered stay known."""
        before = self._state
        self._state = replace(
            state,
            num_restarts=max(before.num_restarts, state.num_restarts),
            last_error=state.last_error or before.last_error,
        )
        self._changed.set()
        self._changed = anyio.Event()
        if (tools := self.tools) != self._told_tools:
            self._told_tools = tools
            self._on_change()
