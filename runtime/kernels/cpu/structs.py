"""The C structs of `kernels.h`, and how a step's arrays get into one of them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from runtime.kernels.forward_batch import ForwardBatch, SamplingBatch


class KvType(IntEnum):
    """How keys and values are stored."""

    BF16 = 0
    INT8 = 1


class Domain(IntEnum):
    """What an operator's work units are."""

    TOKENS = 0
    ROWS = 1
    TASKS = 2


class OpKind(IntEnum):
    """The operators; `kernels.h` says what each one's arguments are."""

    GATHER = 0
    EMBED = 1
    RMS_NORM = 2
    ADD = 3
    SCALE = 4
    SOFT_CAP = 5
    SILU_AND_MULTIPLY = 6
    GELU_AND_MULTIPLY = 7
    QUANTIZE = 8
    LINEAR = 9
    NORM_HEADS = 10
    ROTATE_HEADS = 11
    WRITE_KV = 12
    PLAN_ATTENTION = 13
    ATTENTION = 14
    MERGE_ATTENTION = 15
    SAMPLE = 16
    OUTPUT_LOGITS = 17


class Op(ctypes.Structure):
    """One operator of a program."""

    _fields_: ClassVar[Sequence[Any]] = (
        ("kind", ctypes.c_int32),
        ("domain", ctypes.c_int32),
        ("joins", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("n", ctypes.c_int64 * 8),
        ("f", ctypes.c_float * 4),
        ("p", ctypes.c_void_p * 8),
    )


def make_op(
    kind: OpKind,
    domain: Domain,
    *,
    n: Sequence[int] = (),
    f: Sequence[float] = (),
    p: Sequence[int | None] = (),
    joins: bool = False,
) -> Op:
    """Fill an `Op`; `p` are addresses, None is null."""
    return Op(kind, domain, joins, 0, tuple(n), tuple(f), tuple(p))


_COUNTS = ("num_tokens", "num_sequences", "first_row", "num_rows", "max_pages")
_FORWARD = (
    "token_ids",
    "positions",
    "slot_mapping",
    "cu_seqlens_q",
    "seq_lens",
    "page_tables",
    "logits_rows",
)
_SAMPLING = (
    "targets",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "uniform",
    "token_bitmask",
    "penalty_start",
    "penalty_tokens",
    "penalty_counts",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "bias_start",
    "bias_tokens",
    "bias_values",
    "num_top",
)
_RESULTS = ("drawn_ids", "logprobs", "top_ids", "top_logprobs")

MAX_TOP = 20
"""Room in `top_ids` and `top_logprobs` for each row."""


class Batch(ctypes.Structure):
    """The arrays of one step; whoever fills it keeps the arrays alive."""

    _fields_: ClassVar[Sequence[Any]] = (
        *((name, ctypes.c_int64) for name in _COUNTS),
        *((name, ctypes.c_void_p) for name in (*_FORWARD, *_SAMPLING, *_RESULTS)),
    )


def make_batch(
    forward: ForwardBatch,
    sampling: SamplingBatch | None,
    drawn_ids: npt.NDArray[np.int64],
    logprobs: npt.NDArray[np.float32],
    top: tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] | None = None,
) -> Batch:
    """Point at a step's arrays, C-contiguous and of the types `kernels.h` says.

    `top` is where the likeliest tokens and their log-probabilities go, [R, MAX_TOP] both; it is
    there where `sampling.num_top` is.
    """
    batch = Batch(
        forward.token_ids.shape[0],
        forward.seq_lens.shape[0],
        0,
        forward.logits_rows.shape[0],
        forward.page_tables.shape[1],
    )
    for source, names in ((forward, _FORWARD), (sampling, _SAMPLING)):
        for name in names if source is not None else ():
            array = getattr(source, name)
            if array is not None:
                setattr(batch, name, array.ctypes.data)
    batch.drawn_ids = drawn_ids.ctypes.data
    batch.logprobs = logprobs.ctypes.data
    if top is not None:
        batch.top_ids, batch.top_logprobs = (array.ctypes.data for array in top)
    return batch
