"""Replay: regions in order, every unit once, on any number of threads."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from runtime.kernels.cpu.native import Pool, Program, compiled_variants, supported_variants
from runtime.kernels.cpu.structs import Batch, Domain, Op, OpKind, make_op

WIDTH = 8


def chain(values: np.ndarray, num_steps: int, *, joins: bool, domain: Domain) -> list[Op]:
    """`values: [2, T, WIDTH]`: each operator doubles one half into the other, then they swap."""
    addresses = [half.ctypes.data for half in values]
    return [
        make_op(
            OpKind.ADD,
            domain,
            n=(WIDTH,),
            p=(addresses[step % 2], addresses[step % 2], addresses[1 - step % 2]),
            joins=joins and step > 0,
        )
        for step in range(num_steps)
    ]


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("num_tokens", [1, 2, 63])
@pytest.mark.parametrize("joins", [True, False])
def test_every_unit_runs_once_and_in_order(num_threads: int, num_tokens: int, joins: bool) -> None:
    values = np.zeros((2, num_tokens, WIDTH), np.float32)
    ops = chain(values, 40, joins=joins, domain=Domain.TOKENS)
    program = Program(ops, first_row_op=len(ops), row_block=1)
    assert program.num_regions == (1 if joins else 40)
    pool = Pool(num_threads)
    for repeat in range(30):
        values[0] = np.arange(num_tokens)[:, None] + repeat
        wanted = values[0] * 2.0**40
        program.run(pool, Batch(num_tokens))
        assert np.array_equal(values[0], wanted)


def test_programs_may_share_a_pool_and_a_step_may_be_empty() -> None:
    pool = Pool(2)
    for num_tokens in (3, 0, 5):
        values = np.ones((2, max(1, num_tokens), WIDTH), np.float32)
        ops = chain(values, 3, joins=False, domain=Domain.TOKENS)
        Program(ops, first_row_op=3, row_block=1).run(pool, Batch(num_tokens))
        assert np.array_equal(values[1], np.full_like(values[1], 8 if num_tokens else 1))


@pytest.mark.parametrize("num_rows", [0, 1, 4, 9])
def test_row_operators_run_once_per_block_of_rows(num_rows: int) -> None:
    values = np.ones((2, 5, WIDTH), np.float32)
    ops = chain(values, 2, joins=False, domain=Domain.TOKENS)
    rows = np.ones((2, 4, WIDTH), np.float32)
    ops += chain(rows, 2, joins=False, domain=Domain.ROWS)
    program = Program(ops, first_row_op=2, row_block=4)
    times = (ctypes.c_int64 * program.num_regions)()
    took = program.run(Pool(2), Batch(5, 1, 0, num_rows), times)
    assert np.array_equal(values[0], np.full_like(values[0], 4))
    num_blocks = [sum(num_rows > 4 * block + row for block in range(3)) for row in range(4)]
    assert rows[0, :, 0].tolist() == [4.0**count for count in num_blocks]
    assert 0 < sum(times) <= took
    assert (times[2] > 0) == (num_rows > 0)


def test_scalar_kernels_are_always_there_and_last() -> None:
    assert compiled_variants()[-1] == supported_variants()[-1] == "scalar"
