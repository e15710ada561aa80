"""Turns a scheduled step into the arrays of a forward pass; numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.engine.scheduler import ScheduledStep
from runtime.engine.sequence import Sequence
from runtime.kernels.forward_batch import ForwardBatch, SamplingBatch

SCORE_NOTHING = -1


@dataclass(frozen=True, slots=True)
class LogitsRow:
    """What one logits row is for: `target` is the token to score, or -1 to draw the next one."""

    sequence: Sequence
    target: int

    @property
    def is_drawn(self) -> bool:
        return self.target == SCORE_NOTHING


def build_batch(step: ScheduledStep, page_size: int) -> tuple[ForwardBatch, list[LogitsRow]]:
    """Lay the step's tokens out one sequence after the other."""
    token_ids: list[int] = []
    positions: list[npt.NDArray[np.int64]] = []
    slots: list[npt.NDArray[np.int64]] = []
    cu_seqlens_q = [0]
    row_indices: list[int] = []
    rows: list[LogitsRow] = []
    max_pages = max(-(-item.end // page_size) for item in step.items)
    page_tables = np.zeros((len(step.items), max_pages), np.int64)
    for index, item in enumerate(step.items):
        sequence = item.sequence
        num_pages = -(-item.end // page_size)
        page_tables[index, :num_pages] = sequence.page_table[:num_pages]
        position = np.arange(item.start, item.end)
        first_row = len(token_ids) - item.start
        for scored in sequence.scored_rows(item.start, item.end):
            row_indices.append(first_row + scored)
            rows.append(LogitsRow(sequence, sequence.token_ids[scored + 1]))
        if item.end == len(sequence.token_ids) and sequence.finish_reason is None:
            row_indices.append(first_row + item.end - 1)
            rows.append(LogitsRow(sequence, SCORE_NOTHING))
        token_ids.extend(sequence.token_ids[item.start : item.end])
        positions.append(position)
        slots.append(page_tables[index, position // page_size] * page_size + position % page_size)
        cu_seqlens_q.append(len(token_ids))
    batch = ForwardBatch(
        token_ids=np.array(token_ids, np.int64),
        positions=np.concatenate(positions),
        slot_mapping=np.concatenate(slots),
        cu_seqlens_q=np.array(cu_seqlens_q, np.int64),
        seq_lens=np.array([item.end for item in step.items], np.int64),
        page_tables=page_tables,
        logits_rows=np.array(row_indices, np.int64),
    )
    return batch, rows


def build_sampling(rows: list[LogitsRow], vocab_size: int) -> SamplingBatch:
    """Collect the rows' parameters, draws and masks."""
    params = [row.sequence.request.sampling for row in rows]
    return SamplingBatch(
        targets=np.array([row.target for row in rows], np.int64),
        temperature=np.array([p.temperature for p in params], np.float32),
        top_k=np.array([p.top_k for p in params], np.int64),
        top_p=np.array([p.top_p for p in params], np.float32),
        min_p=np.array([p.min_p for p in params], np.float32),
        uniform=np.array([_draw(row.sequence) for row in rows], np.float32),
        token_bitmask=_fill_bitmask(rows, vocab_size),
    )


def _draw(sequence: Sequence) -> float:
    """A number in [0, 1) that depends on the seed and the position alone.

    Source: Philox counter-based generator (Salmon et al., SC 2011), keyed by the seed.
    """
    if sequence.request.sampling.temperature == 0:
        return 0.0
    philox = np.random.Philox(key=sequence.seed, counter=len(sequence.token_ids))
    return float(np.random.Generator(philox).random(dtype=np.float32))


def _fill_bitmask(rows: list[LogitsRow], vocab_size: int) -> npt.NDArray[np.int32] | None:
    constrained = [
        (index, row.sequence.constraint)
        for index, row in enumerate(rows)
        if row.is_drawn and row.sequence.constraint is not None
    ]
    if not constrained:
        return None
    token_bitmask = np.full((len(rows), -(-vocab_size // 32)), -1, np.int32)
    for index, constraint in constrained:
        constraint.fill(token_bitmask, index)
    return token_bitmask
