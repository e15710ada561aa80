"""Runs a tool server as a process group of its own, and carries MCP messages over its pipes.

Written because the SDK's transport takes up to four seconds to end a server, leaves the
children of one that ended by itself, and reads lines without bound. POSIX only.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import IO

import anyio
import mcp_types as types
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage

from tools.errors import ToolServerError
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.confinement import confined_command, limit_process

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 16 * 1024 * 1024
"""Longest message that a server may send; a longer one ends the connection."""

# Together under a second: a server gets its time to end by itself, and not more.
_FLUSH_S = 0.05
_EXIT_S = 0.4
_TERMINATE_S = 0.25
_REAP_S = 0.2
_POLL_S = 0.01

# A server that does not read must not hold up whoever gives a call up: the SDK waits until the
# cancellation is sent.
_MAX_QUEUED_MESSAGES = 256

_CHUNK_BYTES = 64 * 1024
_MAX_STDERR_LINE_BYTES = 4096
_MAX_STDERR_LINES_PER_S = 50
_MAX_STDOUT_LINES_PER_S = 1000
_MAX_QUOTED_CHARACTERS = 200

Incoming = SessionMessage | Exception
Streams = tuple[MemoryObjectReceiveStream[Incoming], MemoryObjectSendStream[SessionMessage]]


class ServerProcess:
    """A tool server from its start to its end; used once.

    `lost` is set as soon as nothing more will come from it. What its output said on the way
    is kept for `describe_end`.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.lost = anyio.Event()
        self._has_written = anyio.Event()
        self._has_logged = anyio.Event()
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._has_ended_itself = False
        self._end_status: int | None = None
        self._is_line_too_long = False
        self._num_junk_lines = 0
        self._first_junk_line = ""
        self._last_stderr_line = ""

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Streams]:
        """Start the server, yield the streams that `mcp.Client` takes, and end it.

        Raises:
            ToolServerError: it cannot be started; the message is the rest of a sentence.
        """
        self._process = process = _start(self._config)
        logger.info("server=%s started: pid=%d", self._config.name, process.pid)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        # No await before the task group: a cancellation there would leave the process behind.
        sink, incoming = anyio.create_memory_object_stream[Incoming]()
        outgoing, source = anyio.create_memory_object_stream[SessionMessage](_MAX_QUEUED_MESSAGES)
        async with anyio.create_task_group() as group:
            group.start_soon(self._read, process.stdout, sink)
            group.start_soon(self._write, process.stdin, source)
            group.start_soon(self._log, process.stderr)
            try:
                yield incoming, outgoing
            finally:
                with anyio.CancelScope(shield=True):
                    incoming.close()
                    outgoing.close()
                    with anyio.move_on_after(_FLUSH_S):
                        await self._has_written.wait()
                    await self._stop(process)
                    with anyio.move_on_after(_FLUSH_S):
                        await self._has_logged.wait()
                for pipe in (process.stdin, process.stdout, process.stderr):
                    _close(pipe)
                group.cancel_scope.cancel()

    def describe_end(self) -> str:
        """Say why a server that was started is there no more, as the rest of a sentence."""
        if self._is_line_too_long:
            text = f"sent a message of more than {MAX_LINE_BYTES} bytes"
        elif not self._has_ended_itself:
            text = f"did not answer within {self._config.timeouts.connect_s:g} s"
        elif self._end_status is None:
            text = "closed its output"
        elif self._end_status < 0:
            text = f"was killed by signal {-self._end_status}"
        else:
            text = f"exited with status {self._end_status}"
        if self._num_junk_lines:
            text += (
                f"; lines of its stdout that are not JSON-RPC: {self._num_junk_lines}, the first "
                f"is {self._first_junk_line!r}"
            )
        if self._last_stderr_line:
            text += f"; the last line of its stderr is {self._last_stderr_line!r}"
        return text

    async def _read(self, pipe: IO[bytes], sink: MemoryObjectSendStream[Incoming]) -> None:
        """Carry messages from stdout; read on when the client left, lest the server blocks."""
        lines, pace = _Lines(pipe, MAX_LINE_BYTES), Pace(_MAX_STDOUT_LINES_PER_S)
        async with sink:
            while line := await lines.read():
                if not pace.allows():  # the pipe fills up: a server that floods waits, alone
                    await anyio.sleep_until(pace.window_end)
                if len(line) == MAX_LINE_BYTES:
                    self._is_line_too_long = True
                    break
                if (message := self._parse(line)) is not None:
                    with suppress(anyio.BrokenResourceError):
                        await sink.send(message)
            self.lost.set()

    async def _write(
        self, pipe: IO[bytes], source: MemoryObjectReceiveStream[SessionMessage]
    ) -> None:
        """Carry the client's messages to stdin, one in each line."""
        try:
            async with source:
                async for item in source:
                    text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
                    await _write_all(pipe, text.encode() + b"\n")
        except (OSError, ValueError, anyio.ClosedResourceError):  # ValueError: pipe closed by us
            self.lost.set()
        self._has_written.set()

    async def _log(self, pipe: IO[bytes]) -> None:
        """Carry stderr to the log, at most so many lines a second."""
        lines, pace = _Lines(pipe, _MAX_STDERR_LINE_BYTES), Pace(_MAX_STDERR_LINES_PER_S)
        while line := await lines.read():
            is_shown = pace.allows()
            if text := line.decode(errors="replace").strip():
                self._last_stderr_line = text[:_MAX_QUOTED_CHARACTERS]
                if is_shown:
                    logger.info("server=%s stderr: %s", self._config.name, text)
            if not is_shown:
                lines.skip()
                await anyio.sleep(_POLL_S)
        self._has_logged.set()

    def _parse(self, line: bytes) -> SessionMessage | None:
        try:
            message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError:
            if text := line.decode(errors="replace").strip():
                if self._num_junk_lines == 0:
                    self._first_junk_line = text[:_MAX_QUOTED_CHARACTERS]
                    logger.warning(
                        "server=%s prints lines to stdout that are not JSON-RPC; they are ignored",
                        self._config.name,
                    )
                self._num_junk_lines += 1
            return None
        return SessionMessage(message)

    async def _stop(self, process: subprocess.Popen[bytes]) -> None:
        """End the whole process group within a second: close stdin, terminate, kill."""
        assert process.stdin is not None
        self._has_ended_itself = self.lost.is_set()
        _close(process.stdin)
        await _wait_until(lambda: process.poll() is not None, _EXIT_S)
        self._end_status = process.poll()
        # Children may outlive the server, so the group is signalled even when it exited.
        if _signal_group(process, signal.SIGTERM) and not await _wait_until(
            lambda: not _signal_group(process, 0), _TERMINATE_S
        ):
            _signal_group(process, signal.SIGKILL)
        await _wait_until(lambda: process.poll() is not None, _REAP_S)
        logger.info("server=%s ended: status=%s", self._config.name, process.returncode)


class _Lines:
    """Lines of a pipe, however they arrive; a piece of `max_bytes` counts as a line."""

    def __init__(self, pipe: IO[bytes], max_bytes: int) -> None:
        self._pipe = pipe
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    async def read(self) -> bytes:
        """Return the next line, its newline included if it has one; empty at the end."""
        num_searched = 0
        while (end := self._buffer.find(b"\n", num_searched) + 1) == 0:
            num_searched = len(self._buffer)
            if num_searched >= self._max_bytes:
                break
            if not (chunk := await _read_chunk(self._pipe)):
                end = num_searched
                break
            self._buffer += chunk
        end = min(end or self._max_bytes, self._max_bytes)
        line = bytes(self._buffer[:end])
        del self._buffer[:end]
        return line

    def skip(self) -> None:
        """Drop the lines that are here, but for the last."""
        del self._buffer[: self._buffer.rfind(b"\n", 0, len(self._buffer) - 1) + 1]


class Pace:
    """Counts lines in windows of a second."""

    def __init__(self, max_per_s: int) -> None:
        self._max_per_s = max_per_s
        self._num_lines = 0
        self.window_end = 0.0

    def allows(self) -> bool:
        """Count a line; return False when this second had its share."""
        if anyio.current_time() > self.window_end:
            self.window_end, self._num_lines = anyio.current_time() + 1, 0
        self._num_lines += 1
        return self._num_lines <= self._max_per_s


def _start(config: ServerConfig) -> subprocess.Popen[bytes]:
    command = confined_command(config)
    try:
        process = subprocess.Popen(  # noqa: S603  the operator's command, and no shell
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(config.env),
            cwd=config.cwd,
            start_new_session=True,
        )
    except FileNotFoundError as exc:
        if config.cwd is not None and not config.cwd.is_dir():
            raise ToolServerError(
                f"cannot be started: its folder {str(config.cwd)!r} does not exist"
            ) from exc
        raise ToolServerError(
            f"cannot be started: its command {config.command!r} was not found; install it or "
            "give its full path"
        ) from exc
    except (OSError, ValueError) as exc:
        raise ToolServerError(
            f"cannot be started: its command {config.command!r} fails with {exc}"
        ) from exc
    limit_process(process.pid, config.name, config.options.limits)
    for pipe in (process.stdin, process.stdout, process.stderr):
        assert pipe is not None
        os.set_blocking(pipe.fileno(), False)
    return process


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    """Signal the process group (0 only asks); return False when it has no member left."""
    process.poll()  # reaps the leader, else its zombie is a member
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # a member changed its user, or a zombie on macOS: no proof that all ended
    return True


async def _wait_until(is_true: Callable[[], bool], limit_s: float) -> bool:
    deadline = anyio.current_time() + limit_s
    while not is_true():
        if anyio.current_time() > deadline:
            return False
        await anyio.sleep(_POLL_S)
    return True


async def _read_chunk(pipe: IO[bytes]) -> bytes:
    """Return what the pipe holds, at least a byte; nothing when it is closed on either side."""
    while not pipe.closed:
        try:
            await anyio.wait_readable(pipe)
            return os.read(pipe.fileno(), _CHUNK_BYTES)
        except BlockingIOError:
            continue
        except anyio.ClosedResourceError:
            break
    return b""


async def _write_all(pipe: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        await anyio.wait_writable(pipe)
        with suppress(BlockingIOError):
            view = view[os.write(pipe.fileno(), view) :]


def _close(pipe: IO[bytes]) -> None:
    if not pipe.closed:
        anyio.notify_closing(pipe)
        pipe.close()
