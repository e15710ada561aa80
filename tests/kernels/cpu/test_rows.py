"""Row operators against their definitions in float64, and over all variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch

from runtime.kernels import reference
from runtime.kernels.cpu.native import load_library
from runtime.kernels.cpu.structs import Domain, KvType, OpKind
from tests.helpers.cpu_ops import (
    ArrayOp,
    Floats,
    batch_of_tokens,
    nans,
    op,
    randn,
    run_ops,
    supported_variants,
)
from tests.helpers.tolerances import assert_close

Doubles = npt.NDArray[np.float64]


class RowOp(NamedTuple):
    """A recorded operator on T rows of C numbers, its output, and what that is to be."""

    operator: ArrayOp
    out: Floats
    wanted: Doubles
    operands: tuple[Floats, ...] = ()  # what the operator points at


def add(T: int, C: int) -> RowOp:
    x, y, out = randn(T, C), randn(T, C, seed=1), nans(T, C)
    return RowOp(op(OpKind.ADD, x, y, out, n=(C,)), out, x.astype(float) + y, (x, y))


def scale(T: int, C: int) -> RowOp:
    x, out = randn(T, C), nans(T, C)
    return RowOp(op(OpKind.SCALE, x, out, n=(C,), f=(0.7,)), out, x.astype(float) * 0.7, (x,))


def soft_cap(T: int, C: int) -> RowOp:
    x, out = 20 * randn(T, C), nans(T, C)
    x[:, 0] = [(0, 1e-4, -1e30, 1e30)[t % 4] for t in range(T)]
    wanted = np.tanh(x.astype(float) / 15) * 15
    return RowOp(op(OpKind.SOFT_CAP, x, out, n=(C,), f=(15,)), out, wanted, (x,))


def rms_norm(T: int, C: int) -> RowOp:
    x, weight, out = 3 * randn(T, C), randn(C, seed=1), nans(T, C)
    wide = x.astype(float)
    wanted = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * weight
    return RowOp(op(OpKind.RMS_NORM, x, weight, out, n=(C,), f=(1e-5,)), out, wanted, (x, weight))


def silu_and_multiply(T: int, C: int) -> RowOp:
    x, out = 9 * randn(T, 2 * C), nans(T, C)
    x[:, 0] = [(-200, 200, 0)[t % 3] for t in range(T)]
    gate, up = np.split(x.astype(float), 2, -1)
    wanted = gate / (1 + np.exp(-gate)) * up
    return RowOp(op(OpKind.SILU_AND_MULTIPLY, x, out, n=(C,)), out, wanted, (x,))


def gelu_and_multiply(T: int, C: int) -> RowOp:
    x, out = 3 * randn(T, 2 * C), nans(T, C)
    x[:, 0] = [(-90, 90, 0)[t % 3] for t in range(T)]
    gate, up = np.split(x.astype(float), 2, -1)
    inner = np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
    wanted = gate * (1 + np.tanh(inner)) / 2 * up
    return RowOp(op(OpKind.GELU_AND_MULTIPLY, x, out, n=(C,)), out, wanted, (x,))


def norm_heads(T: int, C: int) -> RowOp:
    x, weight, out = randn(T, 5 * C), randn(3, C, seed=1), nans(T, 5 * C)
    heads = x.astype(float).reshape(T, 5, C)
    heads[:, :3] /= np.sqrt((heads[:, :3] ** 2).mean(-1, keepdims=True) + 1e-6)
    heads[:, :3] *= weight
    operator = op(OpKind.NORM_HEADS, x, weight, out, n=(3, C, 5 * C), f=(1e-6,))
    return RowOp(operator, out, heads.reshape(T, -1), (x, weight))


OPERATORS: list[Callable[[int, int], RowOp]] = [
    *(add, scale, soft_cap, rms_norm, silu_and_multiply, gelu_and_multiply, norm_heads)
]
each_operator = pytest.mark.parametrize("build", OPERATORS, ids=lambda build: build.__name__)
each_variant = pytest.mark.parametrize("variant", supported_variants())


@each_operator
@each_variant
@pytest.mark.parametrize(("T", "C"), [(1, 16), (3, 6), (63, 65), (65, 576), (2, 4097)])
def test_operators_are_what_their_definitions_say(
    build: Callable[[int, int], RowOp], variant: str, T: int, C: int
) -> None:
    case = build(T, C)
    run_ops([case.operator], batch_of_tokens(T), variant=variant, num_threads=2)
    assert_close(torch.from_numpy(case.out), torch.from_numpy(case.wanted), torch.float32)


@each_operator
@pytest.mark.parametrize("variant", supported_variants()[:-1])
def test_operators_give_the_bits_of_the_scalar_variant_for_one_row_or_many(
    build: Callable[[int, int], RowOp], variant: str
) -> None:
    case = build(9, 77)
    run_ops([case.operator], batch_of_tokens(9), variant="scalar")
    scalar = case.out.view(np.int32).copy()
    for num_threads in (1, 2, 3):
        case.out[:] = np.nan
        run_ops([case.operator], batch_of_tokens(9), variant=variant, num_threads=num_threads)
        assert np.array_equal(case.out.view(np.int32), scalar)


@each_variant
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("D", "pairs"), [(64, 32), (6, 2), (80, 16), (256, 128)])
@pytest.mark.parametrize("T", [1, 63])
def test_rotation_is_that_of_the_reference(
    T: int, D: int, pairs: int, interleaved: bool, variant: str
) -> None:
    H, G = 4, 2
    qkv, angles = randn(T, (H + 2 * G) * D), randn(T, pairs, seed=1)
    cos_sin = np.stack([np.cos(angles), np.sin(angles)], -1)
    q, k, v = nans(T, H, D), nans(T, G, D), nans(T, G, D)
    rotate = op(OpKind.ROTATE_HEADS, qkv, cos_sin, q, k, v, n=(H, G, D, pairs, interleaved))
    run_ops([rotate], batch_of_tokens(T), variant=variant, num_threads=2)
    wanted = reference.rotate_heads(
        torch.from_numpy(qkv), torch.from_numpy(cos_sin), H, G, interleaved=interleaved
    )
    for rotated, part in zip((q, k, v), wanted, strict=True):
        # Products and sums are rounded one by one on both sides.
        assert np.array_equal(rotated, part.numpy())


@each_variant
def test_gather_takes_the_rows_that_the_batch_names(variant: str) -> None:
    table = randn(7, 5)
    batch = replace(
        batch_of_tokens(3, logits_rows=[6, 0, 6, 1]),
        token_ids=np.array([1, 1, 5]),
        positions=np.array([2, 6, 0]),
    )
    wanted = (batch.token_ids, batch.positions, batch.logits_rows)
    for index, (rows, domain) in enumerate(zip(wanted, [0, 0, 1], strict=True)):
        out = nans(len(rows), 5)
        gather = op(OpKind.GATHER, table, out, n=(5, index), domain=Domain(domain))
        run_ops([gather], batch, variant=variant)
        assert np.array_equal(out, table[rows])


@pytest.mark.parametrize("kv_type", list(KvType))
@pytest.mark.parametrize("D", [64, 6, 100])
def test_written_pages_are_the_same_bytes_from_every_variant(kv_type: KvType, D: int) -> None:
    T, G = 37, 2
    k, v = randn(T, G, D), randn(T, G, D, seed=1)
    k[3] = 0
    page_bytes = load_library().zonda_kv_page_bytes(kv_type, G, D)
    free = np.random.default_rng(0).permutation(np.r_[:21, 41:64])
    slots = np.r_[21:41, free][:T]
    batch = replace(batch_of_tokens(T), slot_mapping=slots)
    written = []
    for variant in supported_variants():
        for num_threads in (1, 3):
            pages = np.zeros(4 * page_bytes, np.uint8)
            write = op(OpKind.WRITE_KV, k, v, pages, n=(G, D, kv_type))
            run_ops([write], batch, variant=variant, num_threads=num_threads)
            written.append(pages)
    assert written[0].any()
    assert all(np.array_equal(pages, written[0]) for pages in written)
