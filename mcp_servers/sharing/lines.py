"""Lines of a pipe or socket, however they arrive and however long; blocking, for threads."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from dataclasses import dataclass

KEPT_BYTES = 1024

_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class TooLong:
    """Stands for a line over the limit, of which the first and last `KEPT_BYTES` are kept."""

    num_bytes: int
    head: bytes
    tail: bytes


class Lines:
    """Splits what `read` gives, up to so many bytes a call, into lines without their ends."""

    def __init__(self, read: Callable[[int], bytes], max_bytes: int) -> None:
        self._read = read
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._is_over = False

    def next(self) -> bytes | TooLong | None:
        """Return the next line; None at the end of the input. A last line needs no end."""
        num_skipped = num_searched = 0
        head = b""
        while (end := self._buffer.find(b"\n", num_searched)) < 0:
            num_searched = len(self._buffer)
            if num_searched > max(self._max_bytes, KEPT_BYTES):
                head = head or bytes(self._buffer[:KEPT_BYTES])
                del self._buffer[:-KEPT_BYTES]
                num_skipped += num_searched - len(self._buffer)
                num_searched = len(self._buffer)
            chunk = b"" if self._is_over else self._read(_CHUNK_BYTES)
            if not chunk:
                self._is_over = True
                end = len(self._buffer)
                if end == 0:
                    return None
                break
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        if num_skipped or len(line) > self._max_bytes:
            head = head or line[:KEPT_BYTES]
            return TooLong(num_skipped + len(line), head, line[-KEPT_BYTES:])
        return line


def read_some(number: int, num_bytes: int) -> bytes:
    """Read from a file descriptor, also one that its other owner made non-blocking."""
    while True:
        try:
            return os.read(number, num_bytes)
        except BlockingIOError:
            select.select([number], [], [])


def write_all(number: int, data: bytes) -> None:
    """Write everything to a file descriptor, also one that is non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(number, view) :]
        except BlockingIOError:
            select.select([], [number], [])
