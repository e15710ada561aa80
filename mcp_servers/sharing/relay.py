"""The relay: a host's lines from stdin to the engine process, and its answers to stdout.

Imports neither the SDK nor an event loop, so that a host which starts one for each
conversation waits for nothing. When the engine process is lost, every request that waits gets
an error, and the session is opened anew in the next process.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, NoReturn

from mcp_servers.message_rules import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    MAX_MESSAGE_BYTES,
    Refusal,
    find_id,
    find_problem,
    read_message,
)
from mcp_servers.sharing.ledger import Ledger
from mcp_servers.sharing.lines import Lines, TooLong, read_some, write_all
from mcp_servers.sharing.place import EnginePlace, connect_or_start, last_words
from mcp_servers.sharing.wire import PRIVATE, Hello, read_private
from runtime.config import Config
from tools.errors import ConfigurationError, UnavailableError, ZondaError

logger = logging.getLogger(__name__)

GRACE_S = 0.8
"""How long the host's runs and tool servers get to end; hosts are promised 1 s."""

WELCOME_WITHIN_S = 60.0
"""Imports take half a second; on a machine that starts all its programs at once, longer."""

NUM_ATTEMPTS = 3
"""An engine process may end, because it was idle, just when a relay comes. One that is lost
this often before it answered `initialize` is not started for it again."""

LIVED_S = 10.0
"""A process that was lost sooner is started again only when the host wants something."""

MAX_ANSWER_BYTES = 64 * 1024 * 1024

LOST = (
    "the engine process that all hosts share ended while this request waited: it was killed or "
    "crashed, and the request's work is lost. It is started again; send the request once more"
)


class Relay:
    """Carries one host's session; `run` is the process's main thread.

    Invariant: `_ledger` and what follows it are touched under `_changed` only; `_link` is None
    while no engine process is connected, and lines are sent by the main thread only.
    """

    def __init__(
        self,
        place: EnginePlace,
        config: Config,
        hello: Hello,
        connection: socket.socket,
        fail: Callable[[Exception], NoReturn],
    ) -> None:
        """Make the relay; `fail` ends the process when the engine at `connection` refuses us."""
        self._connection: socket.socket | None = connection
        self._place = place
        self._config = config
        self._hello = hello
        self._fail = fail
        self._output = threading.Lock()
        self._left = threading.Event()
        self._changed = threading.Condition()
        self._ledger = Ledger()
        self._link: _Link | None = None
        self._problem: str | None = None
        self._is_wanted = True
        self._is_ending = False
        self._num_lost_early = 0

    def run(self) -> None:
        """Carry lines until the input ends or a signal comes; the session has ended then."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        threading.Thread(target=self._serve_engines, daemon=True).start()
        lines = Lines(partial(read_some, 0), MAX_MESSAGE_BYTES)
        try:
            while (line := lines.next()) is not None:
                self._take(line)
            why = "the input ended"
        except _Stopped as exc:
            why = f"stopped by {exc}"
        except OSError as exc:
            why = f"the host is gone: {exc}"
        self._leave()
        logger.info("%s", why)

    def _take(self, line: bytes | TooLong) -> None:
        """Send one line of the host to the engine process, once there is one."""
        message = _check(line)
        if isinstance(message, Refusal):
            self._refuse(message)
            return
        if message is None or isinstance(line, TooLong):
            return
        with self._changed:
            link = self._wait_for_link()
            if link is None:
                text = f"the engine process cannot be had: {self._problem}"
                taken: bytes | Refusal | None = Refusal(INTERNAL_ERROR, text, message.get("id"))
            else:
                taken = self._ledger.from_host(message, line + b"\n")
        if isinstance(taken, Refusal):
            if "method" in message and "id" in message:
                self._refuse(taken)
        elif taken is not None and link is not None:
            link.send(taken)

    def _wait_for_link(self) -> _Link | None:
        """Return the connection; None when it cannot be had, and `_problem` says why."""
        if self._link is None:
            self._problem = None
            self._is_wanted = True
            self._changed.notify_all()
        self._changed.wait_for(lambda: self._link is not None or self._problem is not None)
        return self._link

    def _leave(self) -> None:
        """End the session in the engine process; its runs and tool servers get `GRACE_S`."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        with self._changed:
            self._is_ending = True
            link = self._link
        if link is not None:
            link.finish()
            self._left.wait(GRACE_S)

    def _serve_engines(self) -> None:
        """Connect to one engine process after the other; the body of the second thread."""
        try:
            is_first = True
            while not self._is_ending:
                with self._changed:
                    self._changed.wait_for(lambda: self._is_wanted)
                    self._is_wanted = False
                try:
                    link = self._open()
                except ZondaError as exc:
                    if is_first:
                        self._fail(exc)
                    self._give_up(str(exc))
                    continue
                is_first = False
                self._serve(link)
        except OSError:
            logger.info("nobody reads the output")
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as exc:  # noqa: BLE001 - the top of the thread; without it nothing goes on
            self._fail(exc)
        self._left.set()

    def _serve(self, link: _Link) -> None:
        """Carry the answers of one engine process until it is lost."""
        began = time.monotonic()
        with self._changed:
            self._link = link
            self._changed.notify_all()
        while (line := link.next()) is not None:
            self._pass_on(line)
        link.close()
        with self._changed:
            if self._is_ending:
                return
            self._link = None
            is_early = time.monotonic() - began < LIVED_S
            self._num_lost_early = self._num_lost_early + 1 if is_early else 0
            told = self._ledger.lose(LOST, keep_opening=self._num_lost_early < NUM_ATTEMPTS)
            self._is_wanted = self._ledger.is_opening or not is_early
        logger.warning("the engine process ended; %d requests got an error", len(told))
        for line in told:
            self._tell(line)

    def _pass_on(self, line: bytes) -> None:
        if line.startswith(PRIVATE):
            kind, value = read_private(line)
            if kind == "log":
                name, level, text = value
                logging.getLogger(name).log(level, "%s", text)
            return
        with self._changed:
            told = self._ledger.from_engine(line + b"\n")
        if told is not None:
            self._tell(told)

    def _give_up(self, problem: str) -> None:
        logger.error("no engine process: %s", problem)
        with self._changed:
            self._problem = problem
            self._is_wanted = False
            self._changed.notify_all()

    def _open(self) -> _Link:
        """Return a connection to an engine process that knows the session.

        Raises:
            ConfigurationError: it refuses this host, and says why.
            UnavailableError: there is none, or it does not answer.
        """
        for _ in range(NUM_ATTEMPTS):
            first, self._connection = self._connection, None
            link = _Link(first or connect_or_start(self._place, self._config))
            link.send(self._hello.to_line())
            if (pid := link.read_welcome()) is None:
                continue
            logger.info("the engine is process %d, model %s", pid, self._config.model)
            if self._reopen_session(link):
                return link
        words = last_words(self._place)
        log = self._config.state_dir / "logs" / "engine.log"
        said = f" with {words!r}" if words else ""
        raise UnavailableError(f"the engine process ended{said} as it started; its log is {log}")

    def _reopen_session(self, link: _Link) -> bool:
        """Repeat what opened the session; return False when the process is lost meanwhile."""
        with self._changed:
            lines = self._ledger.replay()
        for line, request_id in lines:
            link.send(line)
            while request_id is not None:
                if (answer := link.next()) is None:
                    return False
                if not answer.startswith(PRIVATE) and json.loads(answer).get("id") == request_id:
                    break
                self._pass_on(answer)
        return True

    def _refuse(self, refusal: Refusal) -> None:
        self._tell(json.dumps(refusal.to_message()).encode() + b"\n")

    def _tell(self, line: bytes) -> None:
        with self._output:
            write_all(1, line)


class _Link:
    """A connection to an engine process; one that is lost takes lines and gives none."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lines = Lines(self._read, MAX_ANSWER_BYTES)

    def send(self, line: bytes) -> None:
        try:
            self._socket.sendall(line)
        except OSError:  # whoever reads from it finds its end
            return

    def next(self) -> bytes | None:
        """Return the next line; None when the process is lost."""
        line = self._lines.next()
        if isinstance(line, TooLong):
            logger.error("the engine process sent a line of %d bytes", line.num_bytes)
            return None
        return line

    def read_welcome(self) -> int | None:
        """Return the process's number; None when it ended before it took us.

        Raises:
            ConfigurationError: it refuses us.
            UnavailableError: it does not answer.
        """
        self._socket.settimeout(WELCOME_WITHIN_S)
        try:
            line = self.next()
        except TimeoutError as exc:
            self.close()
            raise UnavailableError(
                f"the engine process has not answered for {WELCOME_WITHIN_S:g} s; end it, or use "
                "--no-share"
            ) from exc
        self._socket.settimeout(None)
        if line is None:
            self.close()
            return None
        kind, value = read_private(line)
        if kind == "refused":
            self.close()
            raise ConfigurationError(value)
        return int(value)

    def finish(self) -> None:
        """Say that nothing more comes."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        self._socket.close()

    def _read(self, num_bytes: int) -> bytes:
        try:
            return self._socket.recv(num_bytes)
        except TimeoutError:
            raise
        except OSError:
            return b""


class _Stopped(BaseException):
    """A signal came; its text is the signal's name."""


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise _Stopped(signal.Signals(number).name)


def _check(line: bytes | TooLong) -> dict[str, Any] | Refusal | None:
    """Return the message of a line, why it is refused, or nothing for an empty one."""
    if isinstance(line, TooLong):
        text = f"the line of {line.num_bytes} bytes is over the limit of {MAX_MESSAGE_BYTES}"
        return Refusal(INVALID_REQUEST, text, find_id(line.head, line.tail))
    if not line.strip():
        return None
    return find_problem(line, "line") or read_message(line, "line")
