"""Tests of the prefix cache and of leases."""

from runtime.engine.leases import Leases
from runtime.engine.page_pool import PagePool
from runtime.engine.prefix_cache import PrefixCache


def hashes_of(
    cache: PrefixCache, token_ids: list[int], *, salt: bytes = b"", num_unsalted: int = 0
) -> list[bytes]:
    hashes: list[bytes] = []
    cache.extend_hashes(hashes, token_ids, salt, num_unsalted)
    return hashes


def test_hashes_cover_full_pages_and_all_that_precedes() -> None:
    cache = PrefixCache(2, "model")
    base = hashes_of(cache, [1, 2, 3, 4, 5])
    assert len(base) == 2
    assert hashes_of(cache, [1, 2, 9, 9])[0] == base[0]
    assert hashes_of(cache, [9, 9, 3, 4])[1] != base[1]
    assert hashes_of(PrefixCache(2, "other model"), [1, 2])[0] != base[0]


def test_hashes_extended_in_steps_equal_those_made_at_once() -> None:
    cache = PrefixCache(2, "model")
    hashes: list[bytes] = []
    for length in range(8):
        cache.extend_hashes(hashes, list(range(length)), b"salt", 3)
    assert hashes == hashes_of(cache, list(range(7)), salt=b"salt", num_unsalted=3)


def test_salt_enters_with_the_callers_first_token() -> None:
    cache = PrefixCache(2, "model")
    tokens = [1, 2, 3, 4, 5, 6]
    plain = hashes_of(cache, tokens)
    salted = hashes_of(cache, tokens, salt=b"alice", num_unsalted=3)
    assert salted[0] == plain[0]
    assert salted[1] != plain[1]
    assert salted[2] != plain[2]


def test_find_returns_the_longest_cached_beginning() -> None:
    cache = PrefixCache(2, "model")
    hashes = hashes_of(cache, [1, 2, 3, 4, 5, 6])
    cache.insert(hashes[0], 7)
    cache.insert(hashes[2], 8)
    assert cache.find(hashes) == [7]
    cache.insert(hashes[1], 9)
    assert cache.find(hashes) == [7, 9, 8]


def test_forgotten_page_is_not_found_and_first_of_two_twins_stays() -> None:
    cache = PrefixCache(2, "model")
    hashes = hashes_of(cache, [1, 2])
    cache.insert(hashes[0], 7)
    cache.insert(hashes[0], 8)
    assert cache.find(hashes) == [7]
    cache.forget([8, 7])
    assert cache.find(hashes) == []
    assert len(cache) == 0


def test_lease_pins_pages_until_it_expires() -> None:
    now = [0.0]
    pool = PagePool(4)
    leases = Leases(pool, lambda: now[0])
    table = pool.allocate(2)
    leases.hold("talk", table, seconds=10)
    pool.release(table)
    assert pool.num_free == 2
    now[0] = 9.9
    leases.expire()
    assert pool.num_free == 2
    now[0] = 10.0
    leases.expire()
    assert pool.num_free == 4


def test_new_lease_of_a_name_replaces_the_old_and_pressure_ends_the_earliest() -> None:
    pool = PagePool(4)
    leases = Leases(pool, lambda: 0.0)
    first, second, third = pool.allocate(3)
    leases.hold("a", [first], seconds=5)
    leases.hold("a", [first, second], seconds=9)
    leases.hold("b", [third], seconds=1)
    pool.release([first, second, third])
    assert pool.num_free == 1
    assert leases.drop_first()
    assert pool.ref_count(third) == 0
    assert pool.ref_count(first) == 1
    assert leases.drop_first()
    assert not leases.drop_first()
    assert pool.num_free == 4
