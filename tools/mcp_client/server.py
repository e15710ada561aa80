"""One supervised connection to a tool server: started, watched, restarted, ended.

Whatever a server does wrong ends in its `ServerState` or in a `ToolServerError` of one call;
nothing of it reaches another server.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import anyio
import mcp_types as types
from mcp import Client, MCPError
from mcp.shared.dispatcher import ProgressFnT
from pydantic import ValidationError

from tools.errors import ToolServerError
from tools.mcp_client.catalogue import (
    OfferedTool,
    Staleness,
    list_tools,
    listen_for_changes,
    offer_tools,
    usable_tools,
)
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.names import exposed_name
from tools.mcp_client.pins import Pins, why_held
from tools.mcp_client.process import ServerProcess
from tools.mcp_client.remote import RemoteServer
from tools.mcp_client.wire import from_mcp_result
from tools.spec import JsonObject, ToolResult, ToolSpec
from tools.toolset import CallContext

logger = logging.getLogger(__name__)

Status = Literal["starting", "ready", "restarting", "failed", "disabled"]

# What the SDK raises when a server is missing, ends, or answers with what it must not.
_FAILURES = (
    MCPError,
    ToolServerError,
    ValidationError,
    RuntimeError,
    OSError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
)
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
        pid: its process, while it is ready; None for a server at a URL.
        held_tools: tools, by the server's own names, that are not offered because their
            definition has changed since it was approved.
    """

    status: Status
    reason: str | None = None
    num_tools: int = 0
    protocol_version: str | None = None
    pid: int | None = None
    held_tools: tuple[str, ...] = ()


def _ignore_change() -> None:
    pass


class ServerConnection:
    """Keeps one server connected while `run` runs, and calls its tools.

    `on_change` is called when it offers other tools than before. Without `pins` every definition
    counts as approved.
    """

    def __init__(
        self,
        config: ServerConfig,
        on_change: Callable[[], None] = _ignore_change,
        pins: Pins | None = None,
    ) -> None:
        self._config = config
        self._pins = pins
        self._on_change = on_change
        self._state = ServerState("starting")
        self._changed = anyio.Event()
        self._client: Client | None = None
        self._listed: Sequence[types.Tool] = ()
        self._held: tuple[str, ...] = ()
        self._stamp = 0
        self._tools: Mapping[str, OfferedTool] = {}
        self._told_tools: Sequence[ToolSpec] = []

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def state(self) -> ServerState:
        return self._state

    @property
    def tools(self) -> Sequence[ToolSpec]:
        """What the server offers, by name; nothing unless it is ready or will be again."""
        if self._state.status not in {"ready", "restarting"}:
            return []
        return [tool.spec for tool in self._tools.values()]

    @property
    def held_names(self) -> Sequence[str]:
        """The names under which the tools that are held back would be offered."""
        return [exposed_name(self.name, own_name) for own_name in self._held]

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
            self._set(state)
            if state.status == "restarting" and anyio.current_time() - began > _STABLE_AFTER_S:
                delay_s = _FIRST_DELAY_S
            await anyio.sleep(delay_s * random.uniform(0.8, 1.2))  # noqa: S311  spreads retries
            delay_s = min(2 * delay_s, _MOST_DELAY_S)

    async def call(self, name: str, arguments: JsonObject, context: CallContext) -> ToolResult:
        """Call the tool offered as `name`; progress keeps a slow call alive.

        Raises:
            ToolServerError: the server is not there, was lost, was silent for too long or
                answered with something that is no result.
        """
        client = await self._ready_client()
        idle_s, total_s = self._config.timeouts.idle_s, self._config.timeouts.total_s
        last = anyio.current_time() + total_s
        best = -math.inf
        with anyio.CancelScope(deadline=min(anyio.current_time() + idle_s, last)) as scope:

            async def on_progress(
                progress: float, total: float | None, message: str | None
            ) -> None:
                nonlocal best
                scope.deadline = min(anyio.current_time() + idle_s, last)
                if progress > best:  # the wire does not keep the order
                    best = progress
                    await context.report_progress(progress, total, message)

            return await self._request(client, name, arguments, on_progress)
        is_over = anyio.current_time() >= last
        what = f"took more than {total_s:g} s" if is_over else f"was silent for {idle_s:g} s"
        raise ToolServerError(
            f"server {self.name!r} {what}, so the call of {name} was given up; "
            "it may still have had an effect"
        )

    async def _ready_client(self) -> Client:
        with anyio.move_on_after(self._config.timeouts.connect_s):
            await self.wait_for("ready", "failed", "disabled")
        if self._client is None:
            reason = self._state.reason or f"is {self._state.status}"
            raise ToolServerError(f"server {self.name!r} is not available: it {reason}")
        return self._client

    async def _request(
        self, client: Client, name: str, arguments: JsonObject, on_progress: ProgressFnT
    ) -> ToolResult:
        if (tool := self._tools.get(name)) is None:
            raise ToolServerError(f"server {self.name!r} does not offer {name} any more")
        try:
            result = await client.call_tool(tool.own_name, arguments, progress_callback=on_progress)
            return from_mcp_result(result)
        except MCPError as exc:
            if exc.error.code != types.CONNECTION_CLOSED and self._client is client:
                message = f"server {self.name!r} refused the call of {name}: {exc.error.message}"
                raise ToolServerError(message) from exc
            failure: Exception = exc
            self._lose(client)
        except (ValidationError, RuntimeError) as exc:
            if self._client is client:
                message = f"server {self.name!r} answered {name} with what is no result: {exc}"
                raise ToolServerError(message) from exc
            failure = exc
        raise ToolServerError(
            f"the connection to server {self.name!r} was lost during the call of {name}; "
            "whether it had an effect is unknown"
        ) from failure

    async def _connect(self) -> ServerState:
        """Hold one connection until it ends; return the state that follows."""
        server = RemoteServer(self._config) if self._config.url else ServerProcess(self._config)
        deadline = anyio.current_time() + self._config.timeouts.connect_s
        status: Status = "failed"
        failures: list[BaseException] = []
        stale = Staleness()
        with anyio.CancelScope(deadline=deadline) as scope:
            try:
                async with Client(server.run(), message_handler=stale.hear) as client:
                    self._take(usable_tools(self.name, await list_tools(client)))
                    scope.deadline = math.inf
                    self._become_ready(client, server.pid)
                    status = "restarting"
                    try:
                        await self._stay(client, stale, server.lost)
                    finally:  # a lost HTTP connection cancels the wait
                        self._lose(client)
            except* _FAILURES as group:
                failures.extend(_leaves(group))
        told = [_tell(failure) for failure in failures if not _is_loss(failure)]
        is_told = told and status == "failed" and not scope.cancelled_caught
        return ServerState(status, told[0] if is_told else server.describe_end())

    def _become_ready(self, client: Client, pid: int | None) -> None:
        version, num_tools = client.protocol_version, len(self._tools)
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
                listed = await self._next_list(client, stale)
            except _FAILURES as exc:  # a lost connection ends elsewhere; the rest may pass
                logger.warning("server=%s: its tools could not be listed anew: %s", self.name, exc)
            else:
                if self._client is client:
                    self._take(listed)
            await anyio.sleep(_LIST_INTERVAL_S)

    async def _next_list(self, client: Client, stale: Staleness) -> Sequence[types.Tool]:
        """Wait until the list has changed, or something in it was approved; return the list."""
        is_stale = False
        while not is_stale:
            with anyio.move_on_after(_LOOK_FOR_APPROVAL_S if self._held else math.inf):
                await stale.wait()
                is_stale = True
            if not is_stale and self._approval_stamp() != self._stamp:
                return self._listed
        with anyio.fail_after(self._config.timeouts.connect_s):
            return usable_tools(self.name, await list_tools(client))

    def _approval_stamp(self) -> int:
        return 0 if self._pins is None else self._pins.stamp(self._config)

    def _take(self, listed: Sequence[types.Tool]) -> None:
        """Offer these tools but those whose definition is not the approved one."""
        held = () if self._pins is None else self._pins.hold(self._config, listed)
        self._stamp = self._approval_stamp()
        tools = offer_tools(self.name, listed, held)
        if new := sorted(set(held) - set(self._held)):
            logger.warning("server=%s: %s", self.name, why_held(self.name, new))
        is_other = (tools, held) != (self._tools, self._held)
        self._listed, self._held, self._tools = listed, held, tools
        if is_other and self._state.status == "ready":
            logger.info("server=%s offers other tools: %d in all", self.name, len(tools))
            self._set(replace(self._state, num_tools=len(tools), held_tools=held))

    def _lose(self, client: Client) -> None:
        """Let later calls wait for the next connection; the first to see the loss says so."""
        if self._client is client:
            self._client = None
            self._set(ServerState("restarting", "was lost"))

    def _set(self, state: ServerState) -> None:
        self._state = state
        self._changed.set()
        self._changed = anyio.Event()
        tools = self.tools
        if tools != self._told_tools:
            self._told_tools = tools
            self._on_change()


def _leaves(group: BaseExceptionGroup[Exception]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


def _tell(failure: BaseException) -> str:
    if isinstance(failure, ToolServerError):
        return str(failure)
    return f"answers with something that cannot be used: {failure}"


def _is_loss(failure: BaseException) -> bool:
    return isinstance(failure, MCPError) and failure.error.code == types.CONNECTION_CLOSED
