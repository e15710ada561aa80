"""The engine process's socket: lets relays in, and closes when none was there for long enough."""

from __future__ import annotations

import logging
import select
import socket
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

from mcp_servers.sharing.place import EnginePlace, try_locked

logger = logging.getLogger(__name__)

AGAIN_S = 0.05
"""Until closing is tried again that somebody who comes just now has prevented."""

NO_ROOM_S = 0.5
"""Until the next connection is accepted when the system has no room for one."""


class EngineDoor:
    """Counts the hosts that are here.

    Invariant: the socket is closed only while no host is here, nobody waits to be let in and
    nobody else holds the lock that a relay holds while it looks for the process.
    """

    def __init__(self, place: EnginePlace, listener: socket.socket, idle_s: float) -> None:
        """Watch a socket that listens; `idle_s` holds until a host has left."""
        self._place = place
        self._listener = listener
        self._idle_s = idle_s
        self._num_hosts = 0
        self._changed = anyio.Event()
        self._inode = place.socket.stat().st_ino
        listener.settimeout(0)

    async def accept(
        self, group: TaskGroup, serve: Callable[[socket.socket, int], Awaitable[float | None]]
    ) -> None:
        """Let hosts in until cancelled; `serve` says how long to stay once its host has left."""
        number = 0
        while True:
            await anyio.wait_readable(self._listener)
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                continue
            except OSError as exc:
                logger.error("no relay can be let in: %s", exc)  # noqa: TRY400 - not our failure
                await anyio.sleep(NO_ROOM_S)
                continue
            number += 1
            self._count(1)
            group.start_soon(self._serve, serve, connection, number)

    async def wait_until_idle(self) -> None:
        """Return when no host was here for long enough, with the socket closed."""
        while True:
            changed = self._changed
            if self._num_hosts:
                await changed.wait()
                continue
            with anyio.move_on_after(self._idle_s):
                await changed.wait()
                continue
            if self.try_close():
                return
            await anyio.sleep(AGAIN_S)

    def try_close(self) -> bool:
        """Close the socket unless somebody comes just now."""
        with try_locked(self._place) as is_ours:
            if not is_ours or select.select([self._listener], [], [], 0)[0]:
                return False
            self.close()
        return True

    def close(self) -> None:
        """Close the socket; whoever waits to be let in starts another process."""
        try:
            if self._place.socket.stat().st_ino == self._inode:
                self._place.socket.unlink()
                self._place.pid.unlink(missing_ok=True)
        except FileNotFoundError:
            logger.info("the socket was removed already")
        self._listener.close()

    async def _serve(
        self,
        serve: Callable[[socket.socket, int], Awaitable[float | None]],
        connection: socket.socket,
        number: int,
    ) -> None:
        idle_s = None
        try:
            idle_s = await serve(connection, number)
        finally:
            self._idle_s = self._idle_s if idle_s is None else idle_s
            self._count(-1)

    def _count(self, change: int) -> None:
        self._num_hosts += change
        self._changed.set()
        self._changed = anyio.Event()
