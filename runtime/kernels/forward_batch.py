"""The tensors of one step, an argument all the way down to attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Array = Any
"""A value of whichever runner is running: numpy on the way in, torch tensors below it."""


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """T tokens of S sequences, one after the other; R logits rows are wanted.

    Valid until the next step's: where the same sequences decode again, the next is the same
    object with other numbers in the same memory.

    Attributes:
        token_ids: [T] int64.
        positions: [T] int64, place of each token in its sequence.
        slot_mapping: [T] int64, `page_id * page_size + offset` where each token's keys go.
        cu_seqlens_q: [S + 1] int64, tokens of sequence i are `cu_seqlens_q[i]:cu_seqlens_q[i + 1]`.
        seq_lens: [S] int64, tokens of each sequence up to and including this step's.
        page_tables: [S, max_pages] int64, page ids in token order, 0 beyond the last page.
        logits_rows: [R] int64, indices into the T tokens, ascending.
    """

    token_ids: Array
    positions: Array
    slot_mapping: Array
    cu_seqlens_q: Array
    seq_lens: Array
    page_tables: Array
    logits_rows: Array


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """How to draw one token per logits row.

    Valid until the next step's, as a `ForwardBatch` is. Arrays are C-contiguous. The six of
    penalties are None together where no row has one, the three of biases likewise; P and B are
    the numbers of (row, token) pairs that one applies to.

    Attributes:
        targets: [R] int64, the token to score instead of drawing, or -1.
        temperature: [R] float32, 0 takes the likeliest.
        top_k: [R] int64, 0 keeps all.
        top_p: [R] float32 in (0, 1].
        min_p: [R] float32 in [0, 1).
        uniform: [R] float32 in [0, 1), the draw.
        token_bitmask: [R, ceil(vocab_size / 32)] int32, bit set where a token is legal; None
            where all are legal in every row.
        penalty_start: [R + 1] int64, the tokens of row i are those at
            `penalty_start[i]:penalty_start[i + 1]`; a row without penalties has none.
        penalty_tokens: [P] int64, each token of a row once, in any order.
        penalty_counts: [P] int32, how often the token was generated; 0 for a token that only
            the prompt has.
        repetition_penalty: [R] float32 above 0, 1 changes nothing.
        presence_penalty: [R] float32, 0 changes nothing.
        frequency_penalty: [R] float32, 0 changes nothing.
        bias_start: [R + 1] int64, as `penalty_start`, of biases.
        bias_tokens: [B] int64, each token of a row once.
        bias_values: [B] float32, what is added to their logits.
        num_top: [R] int64 in -1..20: how many of the likeliest tokens the row reports besides
            its own token's log-probability; -1 reports neither, unless the row is scored. None
            where that is so of all rows.
    """

    targets: Array
    temperature: Array
    top_k: Array
    top_p: Array
    min_p: Array
    uniform: Array
    token_bitmask: Array | None
    penalty_start: Array = None
    penalty_tokens: Array = None
    penalty_counts: Array = None
    repetition_penalty: Array = None
    presence_penalty: Array = None
    frequency_penalty: Array = None
    bias_start: Array = None
    bias_tokens: Array = None
    bias_values: Array = None
    num_top: Array = None
