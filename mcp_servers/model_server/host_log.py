"""Log records of one host's session, on their way to that host's relay.

A host shows what its server writes to stderr. What its own tool servers, runs and calls log in
the engine process has to come out there, and nothing of another host's. A record carries no
session, so the task's context has to say whose it is.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

import anyio

from mcp_servers.model_server.line_streams import LineWriter
from mcp_servers.sharing.wire import log_line

MAX_WAITING = 1000
"""Records that wait for a relay; of more the oldest are lost (all are in the engine's log)."""

_HOST: ContextVar[HostLog | None] = ContextVar("_HOST", default=None)


class HostLog:
    """Collects one session's records, from any thread, and sends them to its relay."""

    def __init__(self, level: int) -> None:
        self.level = level
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._bell, self._listener = socket.socketpair()
        self._bell.settimeout(0)
        self._listener.settimeout(0)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Take what this task and those that it starts log."""
        token = _HOST.set(self)
        try:
            yield
        finally:
            _HOST.reset(token)

    def put(self, line: bytes) -> None:
        """Add a line; never waits."""
        self._waiting.append(line)
        with suppress(OSError):  # rung already, or closed
            self._bell.send(b"x")

    async def run(self, writer: LineWriter) -> None:
        """Send what is put, as it comes; the body of a task."""
        while True:
            await self.flush(writer)
            await anyio.wait_readable(self._listener)
            self._listener.recv(4096)

    async def flush(self, writer: LineWriter) -> None:
        """Send what waits."""
        while self._waiting:
            await writer.write(self._waiting.popleft())

    def close(self) -> None:
        """Take no more; `run` has ended."""
        self._bell.close()
        self._listener.close()


class HostLogHandler(logging.Handler):
    """Gives each record to the session that it belongs to, if any."""

    def emit(self, record: logging.LogRecord) -> None:
        host = _HOST.get()
        if host is not None and record.levelno >= host.level:
            host.put(log_line(record))


def leave_session() -> None:
    """Let this task's records belong to no session: it works for all of them."""
    _HOST.set(None)
