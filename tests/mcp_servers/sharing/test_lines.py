"""Tests of lines from pipes: however they are cut, and over the limit."""

from __future__ import annotations

import os
import random
import threading

import pytest

from mcp_servers.sharing.lines import KEPT_BYTES, Lines, TooLong, read_some, write_all


def lines_of(data: bytes, max_bytes: int, seed: int) -> list[bytes | TooLong]:
    """Read all lines of data that comes in pieces of random sizes."""
    choices, rest = random.Random(seed), bytearray(data)

    def read(num_bytes: int) -> bytes:
        size = min(choices.randint(1, 7), num_bytes)
        piece = bytes(rest[:size])
        del rest[:size]
        return piece

    lines, found = Lines(read, max_bytes), []
    while (line := lines.next()) is not None:
        found.append(line)
    assert lines.next() is None
    return found


LONG = b"a" + b"x" * 5000 + b"z"
CASES = [
    (b"", []),
    (b"\n", [b""]),
    (b"a\nbc\n", [b"a", b"bc"]),
    (b"a\n\nlast", [b"a", b"", b"last"]),
    (b"12345678\n123456789\n1", [b"12345678", TooLong(9, b"123456789", b"123456789"), b"1"]),
    (LONG + b"\nafter\n", [TooLong(5002, LONG[:KEPT_BYTES], LONG[-KEPT_BYTES:]), b"after"]),
    (LONG, [TooLong(5002, LONG[:KEPT_BYTES], LONG[-KEPT_BYTES:])]),
]


@pytest.mark.parametrize(("data", "expected"), CASES)
@pytest.mark.parametrize("seed", range(5))
def test_lines_are_the_same_however_they_arrive(
    data: bytes, expected: list[bytes | TooLong], seed: int
) -> None:
    assert lines_of(data, 8, seed) == expected


def test_pipe_that_its_other_owner_made_non_blocking_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    data = bytes(range(256)) * 4096  # more than a pipe holds
    thread = threading.Thread(target=write_all, args=(writer, data))
    thread.start()
    found = b""
    while len(found) < len(data):
        found += read_some(reader, 65536)
    thread.join(5)
    os.close(writer)
    assert (found, read_some(reader, 1)) == (data, b"")
    os.close(reader)
