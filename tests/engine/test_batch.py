"""Tests of the arrays that a step becomes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from runtime.engine.batch import (
    BatchBuilder,
    LogitsRow,
    SamplingBuilder,
    build_batch,
)
from runtime.engine.scheduler import ScheduledSequence, ScheduledStep
from runtime.engine.sequence import Sequence
from runtime.grammar.constraint import ConstraintState
from runtime.kernels import ForwardBatch, SamplingBatch
from runtime.request import GenerateRequest, SamplingParams
from tests.helpers.page_runner import VOCAB_SIZE, LetterDecoder
from tools.errors import InvalidRequestError


def sequence_of(
    *prompt: int, generated: tuple[int, ...] = (), num_scored_tokens: int = 0, **sampling: Any
) -> Sequence:
    request = GenerateRequest(prompt, SamplingParams(**sampling), num_scored_tokens)
    sequence = Sequence(0, request, None, LetterDecoder(), seed=1, max_tokens=40)
    sequence.append(list(generated))
    return sequence


def step_of(*items: tuple[Sequence, int, int, list[int]]) -> ScheduledStep:
    for sequence, _, _, page_ids in items:
        sequence.add_pages(page_ids)
    return ScheduledStep(tuple(ScheduledSequence(*item[:3]) for item in items), 0, 0)


def values(batch: ForwardBatch | SamplingBatch) -> dict[str, Any]:
    """The arrays as lists; all are checked to be what a kernel may read by pointer."""
    arrays = {item.name: getattr(batch, item.name) for item in fields(batch)}
    assert all(array is None or array.flags.c_contiguous for array in arrays.values())
    return {name: None if array is None else array.tolist() for name, array in arrays.items()}


def test_tokens_lie_one_sequence_after_the_other() -> None:
    decoding = sequence_of(1, 2, 3, 4, generated=(5, 6))
    chunk = sequence_of(*range(10, 30))
    scored = sequence_of(7, 8, 9, num_scored_tokens=2)
    step = step_of((decoding, 5, 6, [3, 0]), (chunk, 6, 13, [9, 2, 5, 8]), (scored, 0, 3, [4]))
    batch, rows = build_batch(step, 4)
    assert values(batch) == {
        "token_ids": [6, *range(16, 23), 7, 8, 9],
        "positions": [5, *range(6, 13), 0, 1, 2],
        "slot_mapping": [1, 10, 11, 20, 21, 22, 23, 32, 16, 17, 18],
        "cu_seqlens_q": [0, 1, 8, 11],
        "seq_lens": [6, 13, 3],
        "page_tables": [[3, 0, 0, 0], [9, 2, 5, 8], [4, 0, 0, 0]],
        "logits_rows": [0, 8, 9, 10],
    }
    assert [row[:2] for row in rows] == [(decoding, -1), (scored, 8), (scored, 9), (scored, -1)]
    assert all(getattr(batch, item.name).dtype == np.int64 for item in fields(batch))


def test_page_table_of_a_long_sequence_grows_as_pages_come() -> None:
    sequence = sequence_of(*range(60))
    for page_id in range(50, 0, -1):
        sequence.add_pages([page_id])
    assert sequence.page_row[:50].tolist() == sequence.page_table
    assert sequence.drop_pages() == list(range(50, 0, -1))
    batch, _ = build_batch(step_of((sequence, 0, 3, [7])), 4)
    assert batch.page_tables.tolist() == [[7]]


def decode(
    builder: BatchBuilder, *sequences: Sequence, num_pending: int = 1, num_tokens: int = 1
) -> ForwardBatch:
    """Build the step of sequences with so many tokens to compute; check it, draw a 7 each."""
    starts = [len(sequence.token_ids) - num_pending for sequence in sequences]
    items = [
        ScheduledSequence(sequence, start, start + num_tokens)
        for sequence, start in zip(sequences, starts, strict=True)
    ]
    step = ScheduledStep(tuple(items), len(items), 0)
    batch, rows = builder.build(step)
    fresh, fresh_rows = build_batch(step, 8)
    assert (values(batch), rows) == (values(fresh), fresh_rows)
    for sequence in sequences:
        sequence.append([7])
    return batch


def test_arrays_are_written_in_place_while_the_same_sequences_decode_in_their_pages() -> None:
    builder = BatchBuilder(8)
    first, second = sequence_of(*range(9)), sequence_of(*range(17))
    first.add_pages([6, 3, 0, 9])
    second.add_pages([1, 2, 4, 5])
    batch = decode(builder, first, second)
    assert all(decode(builder, first, second) is batch for _ in range(7))
    assert decode(builder, first, second) is not batch  # both enter a page
    batch = decode(builder, first)
    assert decode(builder, first) is batch
    first.add_pages(first.drop_pages()[::-1])  # preempted and back
    batch = decode(builder, first)
    assert decode(builder, first) is batch
    first.append([8, 8])
    assert decode(builder, first, num_pending=3) is not batch  # the first of three
    batch = decode(builder, second)
    second.append([8])
    assert decode(builder, second, num_pending=2, num_tokens=2) is not batch
    batch = decode(builder, first)
    first.finish_reason = "stop"  # what a grammar forced last is computed, and nothing drawn
    assert decode(builder, first) is not batch


def test_prompt_that_is_scored_a_token_a_step_gets_its_own_arrays() -> None:
    builder = BatchBuilder(4)
    sequence = sequence_of(5, 6, 7, num_scored_tokens=2)
    sequence.add_pages([0])
    rows = []
    for start in range(3):
        item = ScheduledSequence(sequence, start, start + 1)
        rows += builder.build(ScheduledStep((item,), 0, 1))[1]
    assert [row[:2] for row in rows] == [(sequence, 6), (sequence, 7), (sequence, -1)]


PLAIN: dict[str, Any] = {
    "targets": [-1],
    "temperature": [0.0],
    "top_k": [0],
    "top_p": [1.0],
    "min_p": [0.0],
    "uniform": [0.0],
    "token_bitmask": None,
    "penalty_start": None,
    "penalty_tokens": None,
    "penalty_counts": None,
    "repetition_penalty": None,
    "presence_penalty": None,
    "frequency_penalty": None,
    "bias_start": None,
    "bias_tokens": None,
    "bias_values": None,
    "num_top": None,
}


def test_parameters_are_built_again_only_when_other_sequences_are_drawn() -> None:
    builder = SamplingBuilder(VOCAB_SIZE)
    first, second = sequence_of(1), sequence_of(1, top_k=3)
    one = builder.build([LogitsRow(first, -1)])
    assert values(one) == PLAIN
    assert builder.build([LogitsRow(first, -1)]) is one
    assert values(builder.build([LogitsRow(second, -1)])) == PLAIN | {"top_k": [3]}
    (top_k,) = values(builder.build([LogitsRow(sequence_of(1, top_k=2**80), -1)]))["top_k"]
    assert top_k == VOCAB_SIZE
    assert values(builder.build([])) == {
        name: None if value is None else [] for name, value in PLAIN.items()
    }


def test_what_changes_from_step_to_step_is_built_every_time() -> None:
    builder = SamplingBuilder(VOCAB_SIZE)
    warm = sequence_of(1, temperature=0.5)
    scored = sequence_of(1, 2, 3, num_scored_tokens=2)
    seen = []
    for target in (2, 3, -1):
        sampling = builder.build([LogitsRow(warm, -1), LogitsRow(scored, target)])
        seen.append((sampling.targets.tolist(), sampling.uniform.tolist()))
        warm.append([4])
    draws = [uniform[0] for _, uniform in seen]
    assert [targets for targets, _ in seen] == [[-1, 2], [-1, 3], [-1, -1]]
    assert len(set(draws)) == 3
    assert all(0 < draw < 1 for draw in draws)


def test_constraint_says_the_temperature_of_what_is_drawn_after_a_score() -> None:
    sequence = sequence_of(1, 2, num_scored_tokens=1)
    sequence.constraint = warm = WarmToken([5])
    builder = SamplingBuilder(VOCAB_SIZE)
    builder.build([LogitsRow(sequence, 2)])
    sampling = builder.build([LogitsRow(sequence, -1, 0, warm)])
    assert sampling.temperature.tolist() == [0.5]


@dataclass
class OneToken:
    """Allows the tokens `next_ids`, one after the other."""

    next_ids: list[int]
    state: ConstraintState = "open"

    def fill(self, token_bitmask: npt.NDArray[np.int32], row: int) -> None:
        token_bitmask[row] = 0
        token_id = self.next_ids.pop(0)
        token_bitmask[row, token_id // 32] = 1 << token_id % 32

    def advance(self, token_ids: Any) -> int:
        return len(token_ids)

    def forced(self) -> list[int]:
        return []

    def rollback(self, num_tokens: int) -> None:
        raise AssertionError("nothing is taken back")

    def fork(self) -> OneToken:
        return replace(self)


@dataclass
class WarmToken(OneToken):
    """Says, too, at which temperature it is drawn."""

    temperature: float = 0.5


def test_masks_are_written_in_place_while_the_same_sequences_are_drawn() -> None:
    builder = SamplingBuilder(70)
    mask, other_mask = OneToken([3, 40, 66]), OneToken([5])
    constrained, free = sequence_of(1), sequence_of(1, 2, num_scored_tokens=1)
    constrained.constraint, free.constraint = mask, other_mask

    first = builder.build([LogitsRow(constrained, -1, 0, mask), LogitsRow(free, 2)])
    wanted = PLAIN | {
        "targets": [-1, 2],
        **{name: 2 * PLAIN[name] for name in ("temperature", "top_k", "top_p", "min_p", "uniform")},
        "token_bitmask": [[8, 0, 0], [-1, -1, -1]],
    }
    assert values(first) == wanted
    second = builder.build(
        [LogitsRow(constrained, -1, 0, mask), LogitsRow(free, -1, 0, other_mask)]
    )
    assert second is first
    masks = [[0, 256, 0], [32, 0, 0]]
    assert values(second) == wanted | {"targets": [-1, -1], "token_bitmask": masks}
    alone = builder.build([LogitsRow(constrained, -1, 0, mask)])
    assert values(alone) == PLAIN | {"token_bitmask": [[0, 0, 4]]}
    assert values(builder.build([LogitsRow(sequence_of(1), -1)])) == PLAIN


def test_draws_are_spread_evenly_whatever_the_seeds() -> None:
    drawn = []
    for seed in range(50):
        request = GenerateRequest((1,), SamplingParams(temperature=1.0))
        sequence = Sequence(0, request, None, LetterDecoder(), seed=seed, max_tokens=100)
        for _ in range(100):
            sampling = SamplingBuilder(VOCAB_SIZE).build([LogitsRow(sequence, -1)])
            drawn += sampling.uniform.tolist()
            sequence.append([3])
    counts = np.histogram(drawn, bins=10, range=(0, 1))[0]
    assert len(drawn) == counts.sum() == 5000
    assert np.abs(counts - 500).max() < 100  # 4.7 standard deviations
    assert abs(np.corrcoef(drawn[:-100], drawn[100:])[0, 1]) < 0.06  # neighbouring seeds


def test_penalised_rows_carry_their_tokens_and_counts() -> None:
    repeating = sequence_of(5, 3, 5, generated=(9, 5, 9), repetition_penalty=1.5)
    plain = sequence_of(1, 2)
    present = sequence_of(5, 3, generated=(8,), presence_penalty=0.5, frequency_penalty=-0.25)
    scored = sequence_of(5, 3, num_scored_tokens=1, presence_penalty=1.0)
    rows = [LogitsRow(repeating, -1), LogitsRow(plain, -1), LogitsRow(scored, 3)]
    sampling = SamplingBuilder(VOCAB_SIZE).build([*rows, LogitsRow(present, -1)])
    wanted = {
        "penalty_start": (np.int64, [0, 3, 3, 3, 4]),
        "penalty_tokens": (np.int64, [5, 3, 9, 8]),
        "penalty_counts": (np.int32, [1, 0, 2, 1]),
        "repetition_penalty": (np.float32, [1.5, 1.0, 1.0, 1.0]),
        "presence_penalty": (np.float32, [0.0, 0.0, 1.0, 0.5]),
        "frequency_penalty": (np.float32, [0.0, 0.0, 0.0, -0.25]),
    }
    found = {name: getattr(sampling, name) for name in wanted}
    assert {name: (array.dtype, array.tolist()) for name, array in found.items()} == wanted
    assert values(SamplingBuilder(VOCAB_SIZE).build(rows[1:])) == PLAIN | {
        "targets": [-1, 3],
        "temperature": [0.0, 0.0],
        "top_k": [0, 0],
        "top_p": [1.0, 1.0],
        "min_p": [0.0, 0.0],
        "uniform": [0.0, 0.0],
    }


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("repetition_penalty", 0.0, r"in 0\.01\.\.2"),
        ("repetition_penalty", float("nan"), r"in 0\.01\.\.2"),
        ("presence_penalty", 2.5, r"in -2\.\.2"),
        ("frequency_penalty", -3.0, r"in -2\.\.2"),
    ],
)
def test_penalties_out_of_range_are_refused(name: str, value: float, wanted: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"{name} must be {wanted}, not {value!r}"):
        SamplingParams(**cast("dict[str, Any]", {name: value}))
