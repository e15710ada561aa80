"""Tests of the page pool."""

import random

import pytest

from runtime.engine.page_pool import PagePool
from runtime.errors import CapacityError


def test_allocate_more_than_free_takes_nothing() -> None:
    pool = PagePool(num_pages=2)
    with pytest.raises(CapacityError, match="3 KV pages wanted, 2 free"):
        pool.allocate(3)
    assert pool.num_free == 2


def test_last_page_of_a_released_table_is_reused_first() -> None:
    pool = PagePool(num_pages=3)
    table = pool.allocate(3)
    pool.release(table)
    assert pool.allocate(3) == table[::-1]


def test_retained_free_page_is_not_handed_out() -> None:
    pool = PagePool(num_pages=2)
    first, second = pool.allocate(2)
    pool.release([first, second])
    pool.retain([second])
    assert pool.allocate(1) == [first]
    with pytest.raises(CapacityError):
        pool.allocate(1)


def test_random_walk_keeps_free_list_and_counts_in_step() -> None:
    rng = random.Random(0)
    pool = PagePool(num_pages=7)
    held: list[int] = []
    for _ in range(3000):
        action = rng.randrange(3)
        if action == 0 and pool.num_free:
            held += pool.allocate(rng.randint(1, pool.num_free))
        elif action == 1:
            shared = rng.sample(range(7), rng.randint(0, 3))
            pool.retain(shared)
            held += shared
        elif held:
            rng.shuffle(held)
            count = rng.randint(1, len(held))
            pool.release(held[:count])
            del held[:count]
        assert [pool.ref_count(page) for page in range(7)] == [held.count(p) for p in range(7)]
        assert pool.num_free == sum(page not in held for page in range(7))
