"""Records operators as a list and plans where their results lie. Knows no operator's meaning.

What operators compute with meanwhile are shapes: the first dimension of a `Buffer` is how many
tokens or logits rows a step has, which is known only when the program runs.

A *region* is what the threads do between two barriers: one operator, or a run of operators that
each need only their own row of what the ones before them wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from runtime.kernels.cpu.lazy_memory import reserve_memory
from runtime.kernels.cpu.structs import Domain, Op, OpKind, make_op
from runtime.kernels.cpu.values import Constant, KvPages, PackedPart
from runtime.kernels.forward_batch import ForwardBatch, SamplingBatch

_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Dim:
    """A size that only a step knows: its tokens, or its logits rows."""

    domain: Domain


@dataclass(eq=False, slots=True)
class Buffer:
    """Rows that one recorded operator writes and others read.

    Attributes:
        recorder: what records the operators on it.
        shape: `Dim`, then what a row is made of.
        row_bytes: size of one row.
        num_bytes: size of the whole, where it is not a number of rows.
        address: where it starts, once the program was planned.
        quantized: its rows as int8, once something multiplied them by quantised weights.
    """

    recorder: Recorder
    shape: tuple[Dim | int, ...]
    row_bytes: int
    num_bytes: int = 0
    address: int = 0
    quantized: Buffer | None = None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return self.row_bytes // 4

    @property
    def domain(self) -> Domain:
        rows = self.shape[0]
        assert isinstance(rows, Dim)
        return rows.domain


@dataclass(frozen=True, eq=False, slots=True)
class StepArray:
    """One of the step's own arrays, by its name in `ForwardBatch` or `SamplingBatch`."""

    recorder: Recorder
    name: str
    domain: Domain

    @property
    def shape(self) -> tuple[Dim]:
        return (Dim(self.domain),)

    @property
    def ndim(self) -> int:
        return 1


Operand = Buffer | Constant | PackedPart | KvPages | None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program's buffers have room for.

    Attributes:
        max_tokens: tokens of a step.
        max_sequences: sequences of a step.
        context_length: tokens of a sequence.
        row_block: logits rows that are computed at once.
    """

    max_tokens: int
    max_sequences: int
    context_length: int
    row_block: int = 32


@dataclass(frozen=True, slots=True)
class _Node:
    """A recorded operator. `offset` bytes are added to the address of its last output."""

    kind: OpKind
    domain: Domain
    n: tuple[int, ...]
    f: tuple[float, ...]
    operands: tuple[Operand, ...]
    outputs: tuple[Buffer, ...]
    offset: int
    region: int
    joins: bool


@dataclass(frozen=True, slots=True)
class Recording:
    """Operators with their addresses, and the memory behind them."""

    ops: Sequence[Op]
    first_row_op: int
    arena: npt.NDArray[np.uint8]


class Recorder:
    """Collects the operators of one program, in order."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._nodes: list[_Node] = []
        self._kept: dict[object, Buffer] = {}

    def forward_batch(self) -> ForwardBatch:
        """The step's arrays as values to record with."""
        tokens = {name: StepArray(self, name, Domain.TOKENS) for name in ForwardBatch.__slots__}
        batch = ForwardBatch(**tokens)
        return replace(batch, logits_rows=StepArray(self, "logits_rows", Domain.ROWS))

    def sampling_batch(self) -> SamplingBatch:
        """As `forward_batch`, of how to draw."""
        names = SamplingBatch.__slots__
        return SamplingBatch(**{name: StepArray(self, name, Domain.ROWS) for name in names})

    def rows(self, domain: Domain, *shape: int) -> Buffer:
        """A buffer with a row of float32 numbers per token or logits row."""
        return Buffer(self, (Dim(domain), *shape), 4 * int(np.prod(shape)))

    def quantized_rows(self, domain: Domain, row_bytes: int) -> Buffer:
        """A buffer with a row of `row_bytes` per token or logits row."""
        return Buffer(self, (Dim(domain), row_bytes), row_bytes)

    def keep(self, key: object, num_bytes: int) -> tuple[Buffer, bool]:
        """The buffer of that key, and whether it is new: one that many operators share."""
        is_new = key not in self._kept
        if is_new:
            self._kept[key] = Buffer(self, (num_bytes,), 0, num_bytes)
        return self._kept[key], is_new

    def record(
        self,
        kind: OpKind,
        domain: Domain,
        operands: Sequence[Operand],
        outputs: Sequence[Buffer] = (),
        *,
        n: Sequence[int] = (),
        f: Sequence[float] = (),
        offset: int = 0,
    ) -> None:
        """Append an operator; `offset` bytes into its last output is where it writes."""
        last = self._nodes[-1] if self._nodes else None
        joins = last is not None and domain is not Domain.TASKS and last.domain is domain
        region = 0 if last is None else last.region + (not joins)
        node = _Node(
            kind, domain, tuple(n), tuple(f), tuple(operands), tuple(outputs), offset, region, joins
        )
        self._nodes.append(node)

    def finish(self) -> Recording:
        """Give every buffer its place; weights have theirs already."""
        arena = self._plan()
        ops = [_to_op(node) for node in self._nodes]
        rows = (index for index, node in enumerate(self._nodes) if self._is_of_rows(node))
        return Recording(ops, next(rows, len(ops)), arena)

    def _is_of_rows(self, node: _Node) -> bool:
        return any(
            isinstance(item, Buffer) and self._has_rows(item)
            for item in (*node.outputs, *node.operands)
        )

    def _has_rows(self, buffer: Buffer) -> bool:
        """Whether it holds a row per logits row."""
        return bool(buffer.row_bytes) and buffer.domain is Domain.ROWS

    def _plan(self) -> npt.NDArray[np.uint8]:
        """Lay the buffers out; those that are never needed in the same region may overlap."""
        lives = self._lifetimes()
        placed: list[tuple[int, int, Buffer]] = []  # start, end, whose
        end_of_all = 0
        for buffer, (first, last) in lives.items():
            size = -(-self._size(buffer) // _ALIGNMENT) * _ALIGNMENT
            start = 0
            for other_start, other_end, other in sorted(placed, key=lambda item: item[0]):
                overlaps = lives[other][0] <= last and first <= lives[other][1]
                if overlaps and start < other_end and other_start < start + size:
                    start = other_end
            placed.append((start, start + size, buffer))
            end_of_all = max(end_of_all, start + size)
        arena = reserve_memory(end_of_all)
        for start, _, buffer in placed:
            buffer.address = arena.ctypes.data + start
        return arena

    def _lifetimes(self) -> dict[Buffer, tuple[int, int]]:
        """First and last region of each buffer, in order of the first."""
        lives: dict[Buffer, tuple[int, int]] = {}
        end = self._nodes[-1].region
        for node in self._nodes:
            is_of_rows = self._is_of_rows(node)
            for buffer in (*node.outputs, *node.operands):
                if isinstance(buffer, Buffer):
                    first, last = lives.get(buffer, (node.region, 0))
                    # Operators of logits rows run once a block: the next one reads tokens again.
                    is_read_again = is_of_rows and not self._has_rows(buffer)
                    lives[buffer] = first, max(last, end if is_read_again else node.region)
        for buffer in self._kept.values():
            lives[buffer] = 0, end
        return lives

    def _size(self, buffer: Buffer) -> int:
        if not buffer.row_bytes:
            return buffer.num_bytes
        is_token = buffer.domain is Domain.TOKENS
        return buffer.row_bytes * (self.limits.max_tokens if is_token else self.limits.row_block)


def _to_op(node: _Node) -> Op:
    addresses = [None if operand is None else operand.address for operand in node.operands]
    addresses += [buffer.address for buffer in node.outputs]
    if node.offset:
        addresses[-1] = (addresses[-1] or 0) + node.offset
    return make_op(node.kind, node.domain, n=node.n, f=node.f, p=addresses, joins=node.joins)
