"""Runs operators of the C++ library on numpy arrays: here, or where an emulator is asked to."""

from __future__ import annotations

import dataclasses
import functools
import os
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.kernels import ForwardBatch, SamplingBatch
from runtime.kernels.cpu import native
from runtime.kernels.cpu.native import Pool, Program
from runtime.kernels.cpu.structs import Batch, Domain, Op, OpKind, make_batch, make_op
from tests.helpers.cpu_driver import Arrays, Driver

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Results = tuple[Ints, Floats]

DRIVER_VARIABLE = "ZONDA_TEST_DRIVER"
"""Names the command of a driver; its instruction sets are tested in place of this machine's."""


class ArrayOp(Op):
    """An operator that knows the arrays it points at."""

    arrays: Arrays


@functools.cache
def _driver() -> Driver | None:
    command = shlex.split(os.environ.get(DRIVER_VARIABLE, ""))
    return Driver(command) if command else None


def supported_variants() -> list[str]:
    """Instruction sets to test, best first; the last one is this machine's scalar one."""
    driver = _driver()
    if driver is None:
        return native.supported_variants()
    return [*(f"driver-{name}" for name in driver.variants), "scalar"]


def randn(*shape: int, seed: int = 0) -> Floats:
    """Normally distributed numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def nans(*shape: int) -> Floats:
    """An output that nobody wrote yet."""
    return np.full(shape, np.nan, np.float32)


def op(
    kind: OpKind, *arrays: npt.NDArray[Any] | None, domain: Domain = Domain.TOKENS, **numbers: Any
) -> ArrayOp:
    """`make_op` on arrays in the place of addresses."""
    given = [array for array in arrays if array is not None]
    assert all(array.flags.c_contiguous for array in given)
    pointers = [None if array is None else array.ctypes.data for array in arrays]
    made = ArrayOp.from_buffer_copy(make_op(kind, domain, p=pointers, **numbers))
    made.arrays = given
    return made


def batch_of_tokens(num_tokens: int, logits_rows: Sequence[int] = ()) -> ForwardBatch:
    """Tokens of one sequence, for operators that look at each for itself."""
    places = np.arange(num_tokens)
    lengths, one = np.array([num_tokens]), np.zeros((1, 1), np.int64)
    bounds = np.array([0, num_tokens])
    return ForwardBatch(
        places, places, places, bounds, lengths, one, np.array(logits_rows, np.int64)
    )


@functools.cache
def pool_of(num_threads: int) -> Pool:
    """Threads that all tests share."""
    return Pool(num_threads)


def run_program(
    ops: Sequence[Op],
    batch: Batch,
    memory: Arrays,
    *,
    first_row_op: int,
    row_block: int,
    variant: str,
    num_threads: int,
) -> None:
    """Run one step; `memory` is all that the operators and the batch point at."""
    driver = _driver()
    if driver is not None and variant.startswith("driver-"):
        driver.run(
            ops,
            batch,
            memory,
            first_row_op=first_row_op,
            row_block=row_block,
            variant=variant.removeprefix("driver-"),
            num_threads=num_threads,
        )
        return
    program = Program(ops, first_row_op=first_row_op, row_block=row_block, variant=variant)
    program.run(pool_of(num_threads), batch)


def run_ops(
    ops: Sequence[ArrayOp],
    batch: ForwardBatch,
    sampling: SamplingBatch | None = None,
    *,
    variant: str,
    num_threads: int = 1,
    top: Results | None = None,
) -> Results:
    """Run a program of these operators; returns drawn ids and log-probabilities, if it samples.

    The likeliest tokens and their log-probabilities go into `top`.
    """
    num_rows = len(batch.logits_rows)
    drawn, logprobs = np.full(num_rows, -1), nans(num_rows)
    row_ops = [index for index, each in enumerate(ops) if each.domain == Domain.ROWS]
    memory = [array for each in ops for array in each.arrays]
    run_program(
        ops,
        make_batch(batch, sampling, drawn, logprobs, top),
        [*memory, *arrays_of(batch), *arrays_of(sampling), drawn, logprobs, *(top or ())],
        first_row_op=min(row_ops, default=len(ops)),
        row_block=max(1, num_rows),
        variant=variant,
        num_threads=num_threads,
    )
    return drawn, logprobs


def arrays_of(batch: ForwardBatch | SamplingBatch | None) -> Iterator[npt.NDArray[Any]]:
    """Those of a step that are there."""
    for field in () if batch is None else dataclasses.fields(batch):
        array = getattr(batch, field.name)
        if array is not None:
            yield array
