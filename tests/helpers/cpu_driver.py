"""Programs of CPU operators in another process: for machines that only an emulator runs.

The process is `tests/arm/driver.cpp`. It gets a copy of the memory that a program works on, and
what it changed there is copied back.
"""

from __future__ import annotations

import atexit
import bisect
import ctypes
import struct
import subprocess
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from runtime.kernels.cpu.structs import Batch, Op

Arrays = Sequence[npt.NDArray[Any]]

_ALIGNMENT = 64
_BATCH_COUNTS = 5
"""Numbers of a `Batch` before its first pointer."""


class Driver:
    """A running driver: its instruction sets, and one program after the other."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        atexit.register(self.close)
        assert self._process.stdout is not None
        op_bytes, batch_bytes, *names = self._process.stdout.readline().decode().split()
        assert (int(op_bytes), int(batch_bytes)) == (ctypes.sizeof(Op), ctypes.sizeof(Batch))
        self.variants: list[str] = names

    def run(
        self,
        ops: Sequence[Op],
        batch: Batch,
        memory: Arrays,
        *,
        first_row_op: int,
        row_block: int,
        variant: str,
        num_threads: int,
    ) -> None:
        """Run a program; `memory` is all that its operators and the batch point at."""
        image = _Image(memory)
        copies = [image.relocated_op(op) for op in ops]
        index = self.variants.index(variant)
        numbers = (index, num_threads, first_row_op, row_block, len(ops), len(image.content))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        parts = [struct.pack("=6q", *numbers), bytes(image.relocated_batch(batch))]
        parts += [bytes(op) for op in copies]
        self._process.stdin.write(b"".join((*parts, image.content)))
        self._process.stdin.flush()
        changed = self._process.stdout.read(len(image.content))
        if len(changed) < len(image.content):
            raise RuntimeError(f"the driver stopped, exit status {self._process.wait()}")
        image.copy_back(changed)

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class _Image:
    """A copy of some memory in one piece; places keep their alignment."""

    def __init__(self, memory: Arrays) -> None:
        self._spans = _merge(memory)
        self._offsets: list[int] = []
        end = _ALIGNMENT  # offset 0 is null
        for start, stop in self._spans:
            offset = -(-end // _ALIGNMENT) * _ALIGNMENT + start % _ALIGNMENT
            self._offsets.append(offset)
            end = offset + stop - start
        self.content = bytearray(end)
        for (start, stop), offset in zip(self._spans, self._offsets, strict=True):
            self.content[offset : offset + stop - start] = ctypes.string_at(start, stop - start)

    def relocated_op(self, op: Op) -> Op:
        copy = Op.from_buffer_copy(op)
        copy.p[:] = [self._offset_of(pointer) for pointer in op.p]
        return copy

    def relocated_batch(self, batch: Batch) -> Batch:
        copy = Batch.from_buffer_copy(batch)
        for name, *_ in Batch._fields_[_BATCH_COUNTS:]:
            setattr(copy, name, self._offset_of(getattr(batch, name)))
        return copy

    def copy_back(self, changed: bytes) -> None:
        """Write what differs: memory that was only read may be read-only."""
        for (start, stop), offset in zip(self._spans, self._offsets, strict=True):
            part = changed[offset : offset + stop - start]
            if part != self.content[offset : offset + stop - start]:
                ctypes.memmove(start, part, stop - start)

    def _offset_of(self, pointer: int | None) -> int | None:
        if pointer is None:
            return None
        index = bisect.bisect_right(self._spans, (pointer, 1 << 64)) - 1
        start, stop = self._spans[index]
        assert start <= pointer < stop, "an operator points at memory that the test did not name"
        return self._offsets[index] + pointer - start


def _merge(memory: Arrays) -> list[tuple[int, int]]:
    """Start and end of what the arrays occupy, in order, overlaps made one."""
    spans: list[tuple[int, int]] = []
    # numpy's empty arrays have a byte, too.
    for start, size in sorted((array.ctypes.data, max(1, array.nbytes)) for array in memory):
        if spans and start <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(spans[-1][1], start + size)
        else:
            spans.append((start, start + size))
    return spans
