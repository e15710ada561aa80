"""Hosts of an engine process that is in this process: each a relay's end of a socket."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup, UNIXSocketStream

from mcp_servers.model_server.admin import Models
from mcp_servers.model_server.admission import Admission, AdmissionLimits
from mcp_servers.model_server.background import Background
from mcp_servers.model_server.line_streams import LineReader
from mcp_servers.model_server.service import AgentSetup
from mcp_servers.model_server.shared_engine import Sessions
from mcp_servers.model_server.shared_models import SharedModels
from mcp_servers.sharing.wire import PRIVATE, Hello, read_private
from runtime.config import Config
from tests.helpers.model_service import ScriptedModels

DIGEST = "of these settings"


def greeting(*, digest: str = DIGEST, environ: dict[str, str] | None = None) -> Hello:
    own = Path("/nowhere/mcp.json")
    return Hello(digest, environ or {}, Path("/"), own, None, logging.INFO, Config(engine_idle_s=7))


class EngineHost:
    """Speaks as a relay does; what the engine process says to relays alone is in `private`."""

    def __init__(self, stream: UNIXSocketStream) -> None:
        self._stream = stream
        self._lines = LineReader(stream)
        self._num_requests = 0
        self.private: list[tuple[str, Any]] = []

    async def send(self, line: bytes) -> None:
        await self._stream.send(line + b"\n")

    async def next(self) -> Any:
        """Return the next message that is not for the relay; None at the end."""
        while (line := await self._lines.next()) is not None:
            if not line.startswith(PRIVATE):
                return json.loads(line)
            self.private.append(read_private(line))
        return None

    async def ask(self, method: str, params: Any) -> Any:
        """Send a request; return its answer, result or error."""
        self._num_requests += 1
        request = {"jsonrpc": "2.0", "id": self._num_requests, "method": method, "params": params}
        await self.send(json.dumps(request).encode())
        while True:
            message = await self.next()
            assert message is not None, f"{method} was not answered: {self.private}"
            if message.get("id") == self._num_requests:
                return message.get("result", message.get("error"))

    async def open(self) -> None:
        """Shake hands."""
        client = {"name": "test", "version": "1"}
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
        await self.ask("initialize", params)
        await self.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')

    async def call(self, tool: str, **arguments: Any) -> Any:
        return await self.ask("tools/call", {"name": tool, "arguments": arguments})


class Engine:
    """The sessions of an engine process over scripted models.

    `idle_s` is what the host wanted that left last.
    """

    def __init__(self, sessions: Sessions, group: TaskGroup) -> None:
        self._sessions = sessions
        self._group = group
        self._num_hosts = 0
        self.idle_s: float | None = None

    @asynccontextmanager
    async def connect(self, hello: Hello | bytes | None = None) -> AsyncIterator[EngineHost]:
        """Let a host come; leaving closes its connection and waits for its session's end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._num_hosts += 1
        ended = anyio.Event()

        async def serve(number: int) -> None:
            self.idle_s = await self._sessions.serve(theirs, number)
            ended.set()

        self._group.start_soon(serve, self._num_hosts)
        async with await UNIXSocketStream.from_socket(ours) as stream:
            host = EngineHost(stream)
            said = greeting() if hello is None else hello
            await host.send(said if isinstance(said, bytes) else said.to_line().rstrip(b"\n"))
            yield host
        await ended.wait()


@asynccontextmanager
async def open_engine(
    models: ScriptedModels,
    make_agent: Callable[[Hello], AgentSetup | None] = lambda hello: None,
    limits: AdmissionLimits | None = None,
) -> AsyncIterator[Engine]:
    """Serve hosts in this process; every wait is bounded."""
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            opened = Background[Models]("the models", models.opened)
            group.start_soon(opened.run)
            shared = SharedModels(opened, group)
            config = Config(model="scripted")
            sessions = Sessions(config, DIGEST, shared, Admission(limits), make_agent, "1")
            yield Engine(sessions, group)
            group.cancel_scope.cancel()
