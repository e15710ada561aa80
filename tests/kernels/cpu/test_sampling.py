"""Sampling: every draw lies where its definition in float64 says, and as the reference draws."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from runtime.kernels import SamplingBatch, reference
from runtime.kernels.cpu.structs import MAX_TOP, Domain, OpKind
from tests.helpers.cpu_ops import (
    Floats,
    Ints,
    Results,
    batch_of_tokens,
    op,
    randn,
    run_ops,
    supported_variants,
)

BEST = supported_variants()[0]
NEAR = 1e-5  # of the mass: closer to a border than that, rounding decides

each_variant = pytest.mark.parametrize("variant", supported_variants())


def sampling_of(num_rows: int, **arrays: npt.NDArray[Any]) -> SamplingBatch:
    """Draws at temperature 1 without cuts, but for `arrays`."""
    values: dict[str, Any] = {
        "targets": np.full(num_rows, -1),
        "temperature": np.ones(num_rows, np.float32),
        "top_k": np.zeros(num_rows, np.int64),
        "top_p": np.ones(num_rows, np.float32),
        "min_p": np.zeros(num_rows, np.float32),
        "uniform": np.random.default_rng(5).random(num_rows, np.float32),
        "token_bitmask": None,
    }
    return SamplingBatch(**(values | arrays))


def mixed_sampling(num_rows: int, vocab_size: int, **arrays: npt.NDArray[Any]) -> SamplingBatch:
    """Every kind of row, in all combinations of their settings."""
    rng = np.random.default_rng(3)

    def pick(*values: float) -> Floats:
        return np.array(rng.choice(values, num_rows), np.float32)

    return sampling_of(
        num_rows,
        temperature=pick(0.3, 1, 1.7),
        top_k=np.array(pick(0, 0, 1, 3, 40, vocab_size, 2 * vocab_size), np.int64),
        top_p=pick(1, 1, 0.1, 0.8, 0.999),
        min_p=pick(0, 0, 0.01, 0.3),
        uniform=np.where(
            rng.random(num_rows) < 0.2, pick(0, 0.99999994), rng.random(num_rows, np.float32)
        ),
        **arrays,
    )


def some_penalties(num_rows: int, vocab_size: int) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(4)
    counts = rng.integers(0, min(20, vocab_size), num_rows)
    tokens = [rng.permutation(vocab_size)[:count] for count in counts]
    return {
        "penalty_start": np.cumsum([0, *counts]),
        "penalty_tokens": np.concatenate(tokens),
        "penalty_counts": rng.integers(0, 4, counts.sum()).astype(np.int32),
        "repetition_penalty": rng.choice([1, 1.3, 0.8], num_rows).astype(np.float32),
        "presence_penalty": rng.choice([0, 0.5], num_rows).astype(np.float32),
        "frequency_penalty": rng.choice([0, 0.2, -0.1], num_rows).astype(np.float32),
    }


def sample(
    logits: Floats,
    sampling: SamplingBatch,
    *,
    variant: str = BEST,
    num_threads: int = 1,
    top: Results | None = None,
) -> Results:
    own = logits.copy()
    num_rows, vocab_size = logits.shape
    return run_ops(
        [op(OpKind.SAMPLE, own, domain=Domain.ROWS, n=(vocab_size,))],
        batch_of_tokens(num_rows, range(num_rows)),
        sampling,
        variant=variant,
        num_threads=num_threads,
        top=top,
    )


def sample_by_reference(logits: Floats, sampling: SamplingBatch) -> Results:
    arrays = {field.name: getattr(sampling, field.name) for field in fields(sampling)}
    tensors = {
        name: None if array is None else torch.from_numpy(array) for name, array in arrays.items()
    }
    results = reference.sample_tokens(torch.from_numpy(logits), SamplingBatch(**tensors))
    drawn, logprobs = results[:2]
    return drawn.numpy(), logprobs.numpy()


def mask_of(legal: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    padded = np.pad(legal, ((0, 0), (0, -legal.shape[1] % 32)))
    return np.packbits(padded, axis=1, bitorder="little").view(np.int32)


def is_where_the_draw_lies(logits: Floats, sampling: SamplingBatch, row: int, token: int) -> bool:
    """By the definition, in float64; `logits` are those of the row, penalised and masked."""
    order = np.argsort(-logits, kind="stable")
    scaled = logits[order].astype(float) / sampling.temperature[row]
    if sampling.top_k[row]:
        scaled[sampling.top_k[row] :] = -np.inf
    weights = np.exp(scaled - scaled[0])
    weights /= weights.sum()
    kept = np.cumsum(weights) - weights < sampling.top_p[row]
    kept &= weights >= sampling.min_p[row] * weights[0]
    kept[0] = True
    ends = np.cumsum(weights * kept) / (weights * kept).sum()
    rank = int(np.flatnonzero(order == token)[0])
    start = ends[rank - 1] if rank else 0.0
    return bool(kept[rank]) and bool(start - NEAR <= sampling.uniform[row] <= ends[rank] + NEAR)


@each_variant
@pytest.mark.parametrize("vocab_size", [1, 31, 33, 1000, 4097, 49_152])
def test_temperature_0_takes_the_first_of_the_likeliest_legal_tokens(
    variant: str, vocab_size: int
) -> None:
    logits = np.asarray((4 * randn(9, vocab_size)).round() / 4, np.float32)  # many equal ones
    rng = np.random.default_rng(0)
    legal = rng.random((9, vocab_size)) < rng.choice([0.01, 0.5], (9, 1))
    legal[:, -1] = True
    cold = np.zeros(9, np.float32)
    drawn, logprobs = sample(logits, sampling_of(9, temperature=cold), variant=variant)
    assert np.array_equal(drawn, logits.argmax(-1))
    assert not logprobs.any()
    masked = sampling_of(9, temperature=cold, token_bitmask=mask_of(legal))
    drawn, _ = sample(logits, masked, variant=variant)
    assert np.array_equal(drawn, np.where(legal, logits, -np.inf).argmax(-1))


@pytest.mark.parametrize("size", [0.01, 1, 6])
@pytest.mark.parametrize("vocab_size", [1, 33, 1000, 30_000])
def test_draws_lie_where_the_definition_and_the_reference_say(vocab_size: int, size: float) -> None:
    num_rows = 400 if vocab_size <= 1000 else 60
    logits = randn(num_rows, vocab_size) * np.float32(size)
    legal = np.random.default_rng(1).random(logits.shape) < 0.7
    legal[:, 0] = True
    legal[::3] = True
    sampling = mixed_sampling(num_rows, vocab_size, token_bitmask=mask_of(legal))
    drawn, _ = sample(logits, sampling, num_threads=2)
    masked = np.where(legal, logits, np.float32(-np.inf))
    for row, token in enumerate(drawn):
        assert is_where_the_draw_lies(masked[row], sampling, row, token), row
    by_reference, _ = sample_by_reference(logits, sampling)
    # At the very end of the distribution the reference's sums in float32 decide otherwise.
    is_inside = sampling.uniform < 0.9999
    assert np.array_equal(drawn[is_inside], by_reference[is_inside])


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_penalties_are_those_of_the_reference(temperature: float) -> None:
    num_rows, vocab_size = 200, 50
    logits = randn(num_rows, vocab_size)
    penalties = some_penalties(num_rows, vocab_size)
    heat = np.full(num_rows, temperature, np.float32)
    sampling = sampling_of(num_rows, temperature=heat, **penalties)
    drawn, _ = sample(logits, sampling)
    wanted, _ = sample_by_reference(logits, sampling)
    assert np.array_equal(drawn, wanted)
    assert not np.array_equal(drawn, sample(logits, sampling_of(num_rows, temperature=heat))[0])


@each_variant
@pytest.mark.parametrize("vocab_size", [33, 5000])
def test_logits_that_no_mask_allows_may_be_anything(variant: str, vocab_size: int) -> None:
    num_rows = 60
    logits = randn(num_rows, vocab_size)
    rng = np.random.default_rng(6)
    legal = rng.random(logits.shape) < rng.choice([0.002, 0.5], (num_rows, 1))
    legal[:, 20] = True
    sampling = mixed_sampling(
        num_rows, vocab_size, token_bitmask=mask_of(legal), **some_penalties(num_rows, vocab_size)
    )
    sampling.temperature[::4] = 0
    anything = rng.choice(np.array([np.nan, np.inf, -np.inf, 3e38], np.float32), logits.shape)
    drawn, _ = sample(np.where(legal, logits, anything), sampling, variant=variant)
    assert np.array_equal(drawn, sample(logits, sampling, variant=variant)[0])


@each_variant
def test_targets_are_scored_by_the_plain_distribution(variant: str) -> None:
    num_rows, vocab_size = 7, 9001
    logits = 5 * randn(num_rows, vocab_size)
    targets: Ints = np.array([0, -1, 9000, 17, -1, 4096, 5])
    nothing = np.zeros((num_rows, vocab_size), bool)
    nothing[:, 3] = True
    sampling = sampling_of(
        num_rows,
        targets=targets,
        token_bitmask=mask_of(nothing),
        **some_penalties(num_rows, vocab_size),
    )
    drawn, logprobs = sample(logits, sampling, variant=variant)
    wide = logits.astype(float)
    wanted = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    is_scored = targets >= 0
    assert np.array_equal(drawn, np.where(is_scored, targets, 3))
    assert np.allclose(
        logprobs[is_scored], wanted[is_scored, targets[is_scored]], atol=2e-6, rtol=0
    )
    assert not logprobs[~is_scored].any()


def test_a_row_is_drawn_alike_by_all_variants_in_any_company() -> None:
    num_rows, vocab_size = 30, 777
    logits = 2 * randn(num_rows, vocab_size)
    targets = np.where(np.arange(num_rows) % 5, -1, 7)
    arrays = some_penalties(num_rows, vocab_size)
    sampling = mixed_sampling(num_rows, vocab_size, targets=targets, **arrays)
    wanted = sample(logits, sampling, variant="scalar")
    for variant in supported_variants():
        for num_threads in (1, 3):
            results = sample(logits, sampling, variant=variant, num_threads=num_threads)
            assert np.array_equal(results[0], wanted[0])
            assert np.array_equal(results[1], wanted[1])


def some_biases(num_rows: int, vocab_size: int) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(8)
    counts = rng.integers(0, min(9, vocab_size), num_rows)
    tokens = [rng.permutation(vocab_size)[:count] for count in counts]
    return {
        "bias_start": np.cumsum([0, *counts]),
        "bias_tokens": np.concatenate(tokens),
        "bias_values": rng.choice([-100, -1, 2, 100], counts.sum()).astype(np.float32),
    }


@each_variant
@pytest.mark.parametrize("vocab_size", [3, 33, 9001])
def test_reported_log_probabilities_are_those_of_the_plain_distribution(
    variant: str, vocab_size: int
) -> None:
    num_rows = 24
    logits = np.round(4 * randn(num_rows, vocab_size), 1)  # with equals among them
    logits[3, 1:] = -np.inf
    num_top: Ints = np.arange(num_rows) % 22 - 1
    changes = some_penalties(num_rows, vocab_size) | some_biases(num_rows, vocab_size)
    sampling = mixed_sampling(num_rows, vocab_size, num_top=num_top, **changes)
    sampling.targets[::5] = 1
    top = np.full((num_rows, MAX_TOP), -7), np.zeros((num_rows, MAX_TOP), np.float32)
    drawn, logprobs = sample(logits, sampling, variant=variant, top=top)
    assert np.array_equal(drawn, sample(logits, sampling_without(sampling), variant=variant)[0])
    wide = logits.astype(float)
    wanted = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    for row in range(num_rows):
        is_reported = num_top[row] >= 0 or row % 5 == 0
        own = wanted[row, drawn[row]] if is_reported else 0.0
        assert logprobs[row] == pytest.approx(own, abs=4e-6)
        order = np.argsort(-logits[row], kind="stable")[: max(0, num_top[row])]
        order = order[np.isfinite(logits[row, order])]
        found = top[0][row, : max(0, num_top[row])]
        assert found.tolist() == [*order, *[-1] * (len(found) - len(order))]
        assert top[1][row, : len(order)] == pytest.approx(wanted[row, order], abs=4e-6)


def sampling_without(sampling: SamplingBatch) -> SamplingBatch:
    return replace(sampling, num_top=None)


@each_variant
def test_biases_change_what_is_drawn_as_the_reference_says(variant: str) -> None:
    num_rows, vocab_size = 40, 500
    logits = 3 * randn(num_rows, vocab_size)
    biases = some_biases(num_rows, vocab_size)
    cold = np.zeros(num_rows, np.float32)
    sampling = sampling_of(num_rows, temperature=cold, **biases)
    drawn, _ = sample(logits, sampling, variant=variant)
    wanted, _ = sample_by_reference(logits, sampling)
    assert np.array_equal(drawn, wanted)
    assert not np.array_equal(drawn, logits.argmax(-1))
