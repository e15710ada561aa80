"""Paged attention: against the reference, over all variants, and bit for bit in any company."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from runtime.kernels.cpu.structs import KvType
from tests.helpers.cpu_attention import (
    Context,
    Part,
    Scoring,
    Shape,
    attend,
    attend_by_reference,
    build_context,
)
from tests.helpers.cpu_ops import supported_variants
from tests.helpers.tolerances import assert_close

BEST = supported_variants()[0]
SCORINGS = {
    "plain": Scoring(),
    "windows": Scoring(window=50),
    "soft caps": Scoring(soft_cap=2.0),
    "windows and soft caps": Scoring(window=300, soft_cap=2.0),
}
SHAPES = [(3, 1, 64), (4, 4, 6), (4, 1, 256), (6, 2, 80), (25, 1, 16), (8, 4, 100)]

each_type = pytest.mark.parametrize("kv_type", list(KvType))
each_scoring = pytest.mark.parametrize("scoring", SCORINGS.values(), ids=SCORINGS)


def mixed_parts(context: Context) -> list[Part]:
    """Decodes, whole sequences, and last and middle chunks."""
    lengths = context.lengths
    parts = [(i, length - 1, length) for i, length in enumerate(lengths)]
    parts += [(i, 0, length) for i, length in enumerate(lengths)]
    return parts + [(i, length // 3, length) for i, length in enumerate(lengths)]


@each_scoring
@each_type
@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), SHAPES)
def test_attention_is_that_of_the_reference(
    num_heads: int, num_kv_heads: int, head_dim: int, kv_type: KvType, scoring: Scoring
) -> None:
    shape = Shape(num_heads, num_kv_heads, head_dim, kv_type)
    lengths = [1, 15, 16, 17, 63, 65, 255, 256, 257, 513]
    context = build_context(shape, lengths, variant=BEST)
    parts = mixed_parts(context)
    attended, _ = attend(context, parts, scoring, variant=BEST, num_threads=2)
    wanted = attend_by_reference(context, parts, scoring)
    assert_close(torch.from_numpy(attended), torch.from_numpy(wanted), torch.float32)


@each_scoring
@each_type
@pytest.mark.parametrize("variant", supported_variants()[:-1])
def test_every_variant_gives_the_bits_of_the_scalar_one(
    variant: str, kv_type: KvType, scoring: Scoring
) -> None:
    shape = Shape(7, 1, 20, kv_type)
    lengths = [1, 17, 270]
    parts = [(0, 0, 1), (1, 0, 17), (2, 269, 270), (2, 255, 259)]
    results = [
        attend(build_context(shape, lengths, variant=name), parts, scoring, variant=name)[0]
        for name in (variant, "scalar")
    ]
    assert np.array_equal(results[0].view(np.int32), results[1].view(np.int32))


@each_scoring
@each_type
@pytest.mark.parametrize("size", [1, 8])
def test_a_token_has_the_same_bits_in_any_company(
    size: float, kv_type: KvType, scoring: Scoring
) -> None:
    shape = Shape(6, 2, 32, kv_type)
    context = build_context(shape, [700, 530, 600, 40], shared_tokens=520, variant=BEST, size=size)
    whole = [(i, 0, length) for i, length in enumerate(context.lengths)]
    wanted, _ = attend(context, whole, scoring, variant=BEST)
    assert np.isfinite(wanted).all()

    def check(parts: list[Part], num_threads: int = 1) -> None:
        attended, _ = attend(context, parts, scoring, variant=BEST, num_threads=num_threads)
        expected = context.rows(wanted, parts)
        assert np.array_equal(attended.view(np.int32), expected.view(np.int32))

    for num_threads in (2, 3):
        check(whole, num_threads)
    check([(i, length - 1, length) for i, length in enumerate(context.lengths)], 2)
    for i, length in enumerate(context.lengths):
        check([(i, length - 1, length)])
    for length in (1, 2, 16, 17, 256, 257, 512, 513):
        check([(0, length - 1, length)])
    bounds = [0, 1, 4, 20, 255, 300, 301, 513, 700]
    for start, end in itertools.pairwise(bounds):
        check([(0, start, end)])
    check([(1, 100, 300), (0, 699, 700), (2, 599, 600), (3, 0, 40)], 3)


def test_decodes_with_a_common_prefix_share_its_tasks() -> None:
    shape = Shape(3, 1, 16, KvType.BF16)
    context = build_context(shape, [600, 620, 640, 300], shared_tokens=512, variant=BEST)
    parts = [(i, length - 1, length) for i, length in enumerate(context.lengths)]
    _, num_tasks = attend(context, parts, Scoring(), variant=BEST)
    assert num_tasks == 2 + 3 + 1  # two shared partitions, and each sequence's last one
    # From 500, 520, 540 and 200 on: the first and the last one see two partitions.
    _, num_tasks = attend(context, parts, Scoring(window=100), variant=BEST)
    assert num_tasks == 2 + 1 + 1 + 2


@each_type
def test_stored_keys_and_values_are_close_to_what_was_written(kv_type: KvType) -> None:
    context = build_context(Shape(4, 2, 64, kv_type), [300], variant=BEST)
    attended, _ = attend(context, [(0, 0, 300)], Scoring(0.125), variant=BEST)
    exact = replace(context, shape=replace(context.shape, kv_type=KvType.BF16))
    wanted = attend_by_reference(exact, [(0, 0, 300)], Scoring(0.125))
    assert_close(torch.from_numpy(attended), torch.from_numpy(wanted), torch.bfloat16)
