"""Turns a scheduled step into the arrays of a forward pass; numpy only.

A step of one token has microseconds for all of this: lists are filled and become arrays once.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from runtime.engine.scheduler import ScheduledStep
from runtime.engine.sequence import Sequence
from runtime.grammar.constraint import Constraint
from runtime.kernels.forward_batch import ForwardBatch, SamplingBatch

SCORE_NOTHING = -1


class LogitsRow(NamedTuple):
    """What one logits row is for.

    Attributes:
        sequence: whose row it is.
        target: the token to score, or -1 to draw the next one.
        num_drafted: how many tokens of the sequence's draft stand before the one that is drawn.
        constraint: what that one is drawn under.
    """

    sequence: Sequence
    target: int
    num_drafted: int = 0
    constraint: Constraint | None = None

    @property
    def is_drawn(self) -> bool:
        return self.target == SCORE_NOTHING


def build_batch(step: ScheduledStep, page_size: int) -> tuple[ForwardBatch, list[LogitsRow]]:
    """Lay the step's tokens out one sequence after the other."""
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    cu_seqlens_q = [0]
    seq_lens: list[int] = []
    row_indices: list[int] = []
    rows: list[LogitsRow] = []
    for sequence, start, end in step.items:
        first_row = len(token_ids) - start
        num_said = len(sequence.token_ids)
        token_ids += sequence.token_ids[start:end]
        if sequence.draft is not None and end > num_said:
            token_ids += sequence.draft.token_ids[: end - num_said]
        positions += range(start, end)
        _add_slots(slots, sequence.page_table, start, end, page_size)
        cu_seqlens_q.append(first_row + end)
        seq_lens.append(end)
        for scored in sequence.scored_rows(start, end):
            row_indices.append(first_row + scored)
            rows.append(LogitsRow(sequence, sequence.token_ids[scored + 1]))
        if end >= num_said and sequence.finish_reason is None:
            for row in _drawn_rows(sequence, end - num_said):
                row_indices.append(first_row + num_said + row.num_drafted - 1)
                rows.append(row)
    batch = ForwardBatch(
        token_ids=np.array(token_ids, np.int64),
        positions=np.array(positions, np.int64),
        slot_mapping=np.array(slots, np.int64),
        cu_seqlens_q=np.array(cu_seqlens_q, np.int64),
        seq_lens=np.array(seq_lens, np.int64),
        page_tables=_page_tables(step, -(-max(seq_lens) // page_size)),
        logits_rows=np.array(row_indices, np.int64),
    )
    return batch, rows


def _drawn_rows(sequence: Sequence, num_drafted: int) -> list[LogitsRow]:
    """The row of the next token, and one after each guess among so many drafted tokens."""
    rows = [LogitsRow(sequence, SCORE_NOTHING, 0, sequence.constraint)]
    if sequence.draft is not None and num_drafted:
        ends = zip(sequence.draft.ends, sequence.draft.constraints, strict=True)
        rows += [LogitsRow(sequence, SCORE_NOTHING, *end) for end in ends if end[0] <= num_drafted]
    return rows


def lay_out(
    spans: SequenceOf[tuple[SequenceOf[int], list[int], int, int]], page_size: int
) -> ForwardBatch:
    """Lay spans of sequences out one after the other, with no logits row.

    A span is the tokens of a sequence, its pages, and which tokens are computed now: those from
    the third number up to the fourth.
    """
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    cu_seqlens_q = [0]
    for tokens, page_table, start, end in spans:
        token_ids += tokens[start:end]
        positions += range(start, end)
        _add_slots(slots, page_table, start, end, page_size)
        cu_seqlens_q.append(len(token_ids))
    page_tables = np.zeros((len(spans), max(len(table) for _, table, _, _ in spans)), np.int64)
    for row, (_, table, _, _) in zip(page_tables, spans, strict=True):
        row[: len(table)] = table
    return ForwardBatch(
        token_ids=np.array(token_ids, np.int64),
        positions=np.array(positions, np.int64),
        slot_mapping=np.array(slots, np.int64),
        cu_seqlens_q=np.array(cu_seqlens_q, np.int64),
        seq_lens=np.array([end for _, _, _, end in spans], np.int64),
        page_tables=page_tables,
        logits_rows=np.array([], np.int64),
    )


def _add_slots(
    slots: list[int], page_table: list[int], start: int, end: int, page_size: int
) -> None:
    while start < end:
        index, offset = divmod(start, page_size)
        first = page_table[index] * page_size + offset
        num_slots = min(page_size - offset, end - start)
        slots += range(first, first + num_slots)
        start += num_slots


def _page_tables(step: ScheduledStep, max_pages: int) -> npt.NDArray[np.int64]:
    page_tables = np.zeros((len(step.items), max_pages), np.int64)
    for row, item in zip(page_tables, step.items, strict=True):
        num_pages = min(max_pages, len(item.sequence.page_table))
        row[:num_pages] = item.sequence.page_row[:num_pages]
    return page_tables


class BatchBuilder:
    """Builds each step's arrays; the same sequences decoding again reuse the last step's.

    Caches are cold after a forward pass, and numpy is much code: where only four numbers of a
    sequence change, they are written in place.
    """

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._tables: list[list[int]] = []  # of the sequences that all drew from one token
        self._last: tuple[ForwardBatch, list[LogitsRow]] | None = None
        self._views: list[memoryview] = []

    def build(self, step: ScheduledStep) -> tuple[ForwardBatch, list[LogitsRow]]:
        """As `build_batch`; what it returns is valid until it is called again."""
        if self._last is not None and self._decode_again(step):
            return self._last
        batch, rows = self._last = build_batch(step, self._page_size)
        is_plain = len(step.items) == len(batch.token_ids) == len(rows)
        is_plain = is_plain and all(row.is_drawn for row in rows)
        self._tables = [item.sequence.page_table for item in step.items] if is_plain else []
        arrays = (batch.token_ids, batch.positions, batch.slot_mapping, batch.seq_lens)
        self._views = [array.data for array in arrays]
        return self._last

    def _decode_again(self, step: ScheduledStep) -> bool:
        """Write the next token of each sequence into the arrays; False where they don't fit."""
        if len(step.items) != len(self._tables):
            return False
        token_ids, positions, slots, seq_lens = self._views
        page_size, tables = self._page_size, self._tables
        for index, (sequence, start, end) in enumerate(step.items):
            table = sequence.page_table
            offset = start % page_size
            if (
                table is not tables[index]  # other pages, or another sequence
                or offset == 0  # a page more
                or end - start > 1
                or end != len(sequence.token_ids)
                or sequence.finish_reason is not None
            ):
                return False
            token_ids[index] = sequence.token_ids[start]
            positions[index] = start
            slots[index] = table[start // page_size] * page_size + offset
            seq_lens[index] = end
        return True


class SamplingBuilder:
    """Collects how each row is drawn; the arrays are kept while the rows' sequences stay.

    What changes from step to step is written in place, but for penalties: their arrays grow.
    """

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._sequences: list[Sequence] = []
        self._batch = _make_batch([], vocab_size)
        self._is_fixed = True
        self._is_tempered = False

    def build(self, rows: list[LogitsRow]) -> SamplingBatch:
        """Collect the rows' parameters, draws, masks and penalties.

        What it returns is valid until it is called again.
        """
        sequences = [row.sequence for row in rows]
        if sequences != self._sequences:
            self._sequences = sequences
            self._batch = _make_batch(sequences, self._vocab_size)
            self._is_fixed = not any(map(_changes_by_step, sequences))
            self._is_tempered = any(hasattr(one.constraint, "temperature") for one in sequences)
        batch = self._batch
        if self._is_fixed:
            return batch
        batch.targets[:] = [row.target for row in rows]
        if self._is_tempered:
            batch.temperature[:] = [_temperature(row) for row in rows]
        batch.uniform[:] = [_draw(row) for row in rows]
        if batch.token_bitmask is not None:
            _fill_bitmask(rows, batch.token_bitmask)
        penalties = _penalties(rows)
        return replace(batch, **penalties) if penalties else batch


def _make_batch(sequences: list[Sequence], vocab_size: int) -> SamplingBatch:
    """What is drawn by which parameters, before anything that changes from step to step."""
    params = [sequence.request.sampling for sequence in sequences]
    num_top = [-1 if p.top_logprobs is None else p.top_logprobs for p in params]
    is_masked = any(sequence.constraint is not None for sequence in sequences)
    mask_shape = len(sequences), -(-vocab_size // 32)
    return SamplingBatch(
        targets=np.full(len(params), SCORE_NOTHING, np.int64),
        temperature=np.array([p.temperature for p in params], np.float32),
        top_k=np.array([min(p.top_k, vocab_size) for p in params], np.int64),
        top_p=np.array([p.top_p for p in params], np.float32),
        min_p=np.array([p.min_p for p in params], np.float32),
        uniform=np.zeros(len(params), np.float32),
        token_bitmask=np.full(mask_shape, -1, np.int32) if is_masked else None,
        num_top=np.array(num_top, np.int64) if max(num_top, default=-1) >= 0 else None,
        **_biases([p.logit_bias for p in params]),
    )


def _biases(biases: list[tuple[tuple[int, float], ...]]) -> dict[str, npt.NDArray[Any]]:
    """The bias fields of `SamplingBatch`; none where no row has a bias."""
    pairs = [pair for bias in biases for pair in bias]
    if not pairs:
        return {}
    return {
        "bias_start": np.cumsum([0, *map(len, biases)], dtype=np.int64),
        "bias_tokens": np.array([token_id for token_id, _ in pairs], np.int64),
        "bias_values": np.array([value for _, value in pairs], np.float32),
    }


def _changes_by_step(sequence: Sequence) -> bool:
    return (
        sequence.request.sampling.temperature > 0
        or sequence.request.num_scored_tokens > 0
        or sequence.constraint is not None
        or sequence.token_counts is not None
    )


def _draw(row: LogitsRow) -> float:
    """A number in [0, 1) that depends on the seed and the position alone.

    Source: SplitMix64 (Steele et al., OOPSLA 2014), its state taken from the position.
    """
    if _temperature(row) == 0:
        return 0.0
    position = len(row.sequence.token_ids) + row.num_drafted
    mixed = (row.sequence.seed + position * 0x9E3779B97F4A7C15) % 2**64
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
    mixed ^= mixed >> 31
    return (mixed >> 40) / 2**24  # as many bits as a float32 holds


def _temperature(row: LogitsRow) -> float:
    """The request's, or what its constraint wants for the next token (`TemperedConstraint`)."""
    wanted: float | None = getattr(row.constraint, "temperature", None)
    return row.sequence.request.sampling.temperature if wanted is None else wanted


def _fill_bitmask(rows: list[LogitsRow], token_bitmask: npt.NDArray[np.int32]) -> None:
    for index, row in enumerate(rows):
        if row.is_drawn and row.constraint is not None:
            row.constraint.fill(token_bitmask, index)


def _penalties(rows: list[LogitsRow]) -> dict[str, npt.NDArray[Any]]:
    """The penalty fields of `SamplingBatch`; none where no drawn row has penalties."""
    counts = [row.sequence.token_counts if row.is_drawn else None for row in rows]
    penalised = [count for count in counts if count is not None]
    if not penalised:
        return {}
    params = [row.sequence.request.sampling for row in rows]
    lengths = [0 if count is None else len(count) for count in counts]
    return {
        "penalty_start": np.cumsum([0, *lengths], dtype=np.int64),
        "penalty_tokens": np.concatenate([count.token_ids for count in penalised]),
        "penalty_counts": np.concatenate([count.counts for count in penalised]),
        "repetition_penalty": np.array([p.repetition_penalty for p in params], np.float32),
        "presence_penalty": np.array([p.presence_penalty for p in params], np.float32),
        "frequency_penalty": np.array([p.frequency_penalty for p in params], np.float32),
    }
