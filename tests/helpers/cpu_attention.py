"""Sequences with queries, keys and values in KV pages, and attention over any part of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from runtime.kernels import ForwardBatch, reference
from runtime.kernels.cpu.native import load_library
from runtime.kernels.cpu.structs import Domain, KvType, OpKind
from tests.helpers.cpu_ops import Floats, Ints, nans, op, randn, run_ops
from tests.helpers.packed_weights import aligned_bytes

PAGE_SIZE = 16

Part = tuple[int, int, int]
"""A sequence and its first and last token (exclusive) that a step computes."""


@dataclass(frozen=True)
class Shape:
    """Heads, KV heads, their dimension, and how keys and values are stored."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    kv_type: KvType

    @property
    def page_bytes(self) -> int:
        size: int = load_library().zonda_kv_page_bytes(
            self.kv_type, self.num_kv_heads, self.head_dim
        )
        return size


@dataclass(frozen=True)
class Scoring:
    """As `runtime.kernels.paged_attention` has it."""

    scale: float = 0.3
    window: int = 0
    soft_cap: float = 0.0


@dataclass(frozen=True)
class Context:
    """S sequences; position p of sequence i is row `starts[i] + p` of `q`, `k` and `v`."""

    shape: Shape
    lengths: Sequence[int]
    starts: Sequence[int]
    tables: Ints
    q: Floats
    k: Floats
    v: Floats
    pages: npt.NDArray[np.uint8]

    def batch(self, parts: Sequence[Part]) -> ForwardBatch:
        """A step that computes these parts."""
        positions = np.concatenate([np.arange(start, end) for _, start, end in parts])
        slots = [self.slots(sequence, start, end) for sequence, start, end in parts]
        return ForwardBatch(
            np.zeros_like(positions),
            positions,
            np.concatenate(slots),
            np.cumsum([0, *(end - start for _, start, end in parts)]),
            np.array([end for _, _, end in parts]),
            self.tables[[sequence for sequence, _, _ in parts]],
            np.zeros(0, np.int64),
        )

    def slots(self, sequence: int, start: int, end: int) -> Ints:
        positions = np.arange(start, end)
        page_ids = self.tables[sequence, positions // PAGE_SIZE]
        return np.asarray(page_ids * PAGE_SIZE + positions % PAGE_SIZE, np.int64)

    def rows(self, values: Floats, parts: Sequence[Part]) -> Floats:
        chosen = [
            values[self.starts[sequence] + start : self.starts[sequence] + end]
            for sequence, start, end in parts
        ]
        return np.concatenate(chosen)


def build_context(
    shape: Shape, lengths: Sequence[int], *, shared_tokens: int = 0, variant: str, size: float = 1
) -> Context:
    """Write the keys and values of sequences whose first tokens are the same.

    The slots that nobody writes are full of NaN. `size` is that of queries and keys.
    """
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    total, num_pages = sum(lengths), sum(-(-length // PAGE_SIZE) for length in lengths)
    heads = (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)
    q, k, v = (randn(total, count, shape.head_dim, seed=count + i) for i, count in enumerate(heads))
    q, k = q * np.float32(size), k * np.float32(size)
    free = iter(np.random.default_rng(1).permutation(num_pages).tolist())
    tables = np.zeros((len(lengths), max(-(-length // PAGE_SIZE) for length in lengths)), np.int64)
    for i, length in enumerate(lengths):
        tables[i, : -(-length // PAGE_SIZE)] = [next(free) for _ in range(-(-length // PAGE_SIZE))]
        shared = min(shared_tokens, length) // PAGE_SIZE
        tables[i, :shared] = tables[0, :shared]
        for values in (k, v):
            values[starts[i] : starts[i] + shared * PAGE_SIZE] = values[: shared * PAGE_SIZE]
    pages = aligned_bytes(num_pages * shape.page_bytes)
    pages[:] = 0xFF
    context = Context(shape, lengths, starts, tables, q, k, v, pages)
    everything = [(i, 0, length) for i, length in enumerate(lengths)]
    write = op(OpKind.WRITE_KV, k, v, pages, n=(*k.shape[1:], shape.kv_type))
    run_ops([write], context.batch(everything), variant=variant)
    return context


def attend(
    context: Context,
    parts: Sequence[Part],
    scoring: Scoring,
    *,
    variant: str,
    num_threads: int = 1,
) -> tuple[Floats, int]:
    """Attention of one step: `[T, H * D]`, and the number of tasks per KV head."""
    shape, batch = context.shape, context.batch(parts)
    H, G, D = shape.num_heads, shape.num_kv_heads, shape.head_dim
    T = len(batch.positions)
    bounds = (T, len(parts), int(batch.seq_lens.max()))
    library = load_library()
    plan_bytes = library.zonda_attention_plan_bytes(*bounds, H, G)
    plan = np.zeros(plan_bytes, np.uint8)
    partials = nans(library.zonda_attention_partial_bytes(*bounds, H, D) // 4)
    q, out = context.rows(context.q, parts), nans(T, H * D)
    n = (H, G, D, shape.kv_type, scoring.window)
    run_ops(
        [
            op(
                OpKind.PLAN_ATTENTION,
                plan,
                domain=Domain.TASKS,
                n=(H, G, scoring.window, plan_bytes),
            ),
            op(
                OpKind.ATTENTION,
                *(q, context.pages, plan, partials, out),
                domain=Domain.TASKS,
                n=n,
                f=(scoring.scale, scoring.soft_cap),
            ),
            op(OpKind.MERGE_ATTENTION, partials, plan, out, n=(H, D)),
        ],
        batch,
        variant=variant,
        num_threads=num_threads,
    )
    return out, int(plan[:8].view(np.int64)[0])


def attend_by_reference(context: Context, parts: Sequence[Part], scoring: Scoring) -> Floats:
    """What `attend` is to give, up to rounding: on values as the pages hold them."""
    shape, batch = context.shape, context.batch(parts)
    q = torch.from_numpy(context.rows(context.q, parts))
    k, v = torch.from_numpy(context.k), torch.from_numpy(context.v)
    if shape.kv_type is KvType.BF16:
        k, v = k.bfloat16().float(), v.bfloat16().float()
    else:
        q, k, v = (_through_int8(values) for values in (_spread(q), _spread(k), v))
    num_pages = int(context.tables.max()) + 1
    heads = (shape.num_kv_heads, shape.head_dim)
    kv_pages = torch.zeros(2, num_pages, PAGE_SIZE, *heads)
    slots = [context.slots(i, 0, length) for i, length in enumerate(context.lengths)]
    reference.write_kv(k, v, kv_pages, torch.from_numpy(np.concatenate(slots)))
    tensors = {name: torch.from_numpy(getattr(batch, name)) for name in ForwardBatch.__slots__}
    attended = reference.paged_attention(
        q,
        kv_pages,
        ForwardBatch(**tensors),
        scoring.scale,
        window=scoring.window,
        soft_cap=scoring.soft_cap,
    )
    return attended.numpy()


def _spread(values: torch.Tensor) -> torch.Tensor:
    """Times the Hadamard matrix, in blocks of the largest power of two that divides a head."""
    head_dim = values.shape[-1]
    block = head_dim & -head_dim
    if head_dim % 16:
        return values
    distance = 1
    while distance < block:  # in the kernels' order, so that roundings agree
        pairs = values.reshape(*values.shape[:-1], -1, 2, distance)
        lower, upper = pairs.unbind(-2)
        values = torch.stack((lower + upper, lower - upper), -2).reshape(values.shape)
        if distance == 8:
            values = values * (1 / np.sqrt(np.float32(block)))
        distance *= 2
    return values


def _through_int8(values: torch.Tensor) -> torch.Tensor:
    """To whole multiples of a 127th of the largest number of each token and head."""
    largest = values.abs().amax(-1, keepdim=True)
    # Of two tensors: torch divides a number by a tensor in two roundings.
    return (values * (torch.full_like(largest, 127) / largest)).round() * (largest / 127)
