"""Tests of prefixes that are pinned, copied out and in, on a runner that checks each slot."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import pytest

from runtime.engine.engine import Engine
from runtime.engine.prefix_pages import Turns
from runtime.engine.saved_pages import SavedPages
from runtime.kernels.cpu.structs import KvType
from runtime.request import GenerateRequest, SamplingParams
from tests.engine.test_cpu_runner import make_engine as make_cpu_engine
from tests.engine.test_engine import PAGE_SIZE, expected, generate, make_engine, request, usage_of
from tests.engine.test_scheduler import FailingPool, check_invariants, slots_of
from tests.engine.test_torch_runner import make_engine as make_torch_engine
from tests.helpers.page_runner import PageRunner
from tests.helpers.tiny_gguf import write_tiny_llama

PREFIX = list(range(1, 19))  # four full pages and two tokens


T = TypeVar("T")


def finish(turns: Turns[T]) -> T:
    while True:
        try:
            next(turns)
        except StopIteration as stop:
            value: T = stop.value
            return value


def num_cached(engine: Engine, *token_ids: int) -> int:
    (result,) = generate(engine, request(*token_ids, max_tokens=3))
    assert result.token_ids == expected(token_ids, 3)
    return usage_of(result).cached_tokens


def test_restored_pages_are_found_by_requests_and_pinned() -> None:
    engine = make_engine(16)
    assert finish(engine.prefixes.hold("kept", PREFIX, slots_of(PREFIX)))
    assert engine.pool.num_free == 12
    generate(engine, request(*(40 for _ in range(44)), max_tokens=1))  # evicts all it can
    assert num_cached(engine, *PREFIX[:16], 50, 51) == 16
    check_invariants(engine)


def test_read_gives_the_bytes_that_hold_takes() -> None:
    engine = make_engine()
    assert finish(engine.prefixes.read(PREFIX)) is None
    assert not finish(engine.prefixes.hold("kept", PREFIX))
    generate(engine, request(*PREFIX, max_tokens=1))
    pages = finish(engine.prefixes.read(PREFIX))
    assert pages is not None
    assert pages.tolist() == slots_of(PREFIX).tolist()
    assert engine.pool.num_free == 64
    assert finish(engine.prefixes.hold("kept", PREFIX))
    assert engine.pool.num_free == 60


def test_only_the_pages_that_lack_are_restored() -> None:
    engine = make_engine(16)
    generate(engine, request(*PREFIX[:9], max_tokens=1))
    wrong = slots_of([63] * 8 + PREFIX[8:])  # would be noticed if they were used
    wrong[2:] = slots_of(PREFIX)[2:]
    assert finish(engine.prefixes.hold("kept", PREFIX, wrong))
    assert num_cached(engine, *PREFIX[:16], 50, 51) == 16


def test_new_prefix_of_a_lease_replaces_the_old_and_none_ends_it() -> None:
    engine = make_engine(16)
    other = [n + 20 for n in PREFIX]
    assert finish(engine.prefixes.hold("kept", PREFIX, slots_of(PREFIX)))
    assert finish(engine.prefixes.hold("kept", other[:8], slots_of(other[:8])))
    assert engine.pool.num_free == 14
    assert not finish(engine.prefixes.hold("kept", [60] * 8))  # leaves it as it was
    assert engine.pool.num_free == 14
    assert finish(engine.prefixes.hold("kept", ()))
    assert finish(engine.prefixes.hold("never", ()))
    assert engine.pool.num_free == 16
    check_invariants(engine)


def test_lease_without_end_goes_when_a_request_needs_its_memory_and_after_all_others() -> None:
    clock = [0.0]
    engine = make_engine(10, clock=clock)
    assert finish(engine.prefixes.hold("kept", PREFIX[:8], slots_of(PREFIX[:8])))
    generate(engine, request(*range(30, 38), max_tokens=1, lease="talk", lease_s=1e9))
    generate(engine, request(*range(20, 43), max_tokens=3))
    assert set(engine.scheduler.leases._held) == {"kept"}
    clock[0] = 1e12
    generate(engine, request(*range(5, 41), max_tokens=2))
    assert not engine.scheduler.leases._held
    check_invariants(engine)


def test_restoring_takes_no_page_from_a_lease_or_from_what_runs() -> None:
    engine = make_engine(9)
    generate(engine, request(*range(20, 36), max_tokens=1, lease="talk", lease_s=60.0))
    engine.add(request(*range(40, 44), max_tokens=8))
    engine.step()
    assert engine.pool.num_free == 4  # one of them is for the sequence that runs
    before = dict(engine.scheduler.leases._held)
    assert not finish(engine.prefixes.hold("kept", PREFIX, slots_of(PREFIX)))
    assert engine.scheduler.leases._held == before
    assert engine.pool.num_free == 4
    check_invariants(engine)
    assert finish(engine.prefixes.hold("kept", PREFIX[:12], slots_of(PREFIX[:12])))


def test_failed_allocation_and_a_copy_given_up_leave_everything_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtime.engine.prefix_pages.PIECE_BYTES", 1)
    engine = make_engine(16)
    generate(engine, request(*PREFIX[:9], max_tokens=1))
    pool = FailingPool(16, failing=1)
    engine.pool = engine.scheduler.pool = engine.scheduler.leases._pool = pool
    assert not finish(engine.prefixes.hold("kept", PREFIX, slots_of(PREFIX)))
    for num_turns in range(1, 3):
        turns = engine.prefixes.hold("kept", PREFIX, slots_of(PREFIX))
        for _ in range(num_turns):
            next(turns)
        turns.close()
    assert pool.num_free == 16
    assert not engine.scheduler.leases._held
    check_invariants(engine)
    assert finish(engine.prefixes.read(PREFIX)) is None
    assert num_cached(engine, *PREFIX[:16], 50) == 8


def test_sequence_that_computes_the_same_meanwhile_shares_its_pages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtime.engine.prefix_pages.PIECE_BYTES", 1)
    engine = make_engine(16)
    turns = engine.prefixes.hold("kept", PREFIX, slots_of(PREFIX))
    next(turns)
    generate(engine, request(*PREFIX, max_tokens=1))
    assert finish(turns)
    assert engine.pool.num_free == 12  # not twice
    check_invariants(engine)
    generate(engine, request(*(40 for _ in range(44)), max_tokens=1))
    assert num_cached(engine, *PREFIX[:16], 50, 51) == 16


def test_runner_whose_pages_cannot_be_copied_declines() -> None:
    runner = PageRunner(16, PAGE_SIZE)
    runner.page_memory = None
    engine = make_engine(runner=runner)
    generate(engine, request(*PREFIX, max_tokens=1))
    assert finish(engine.prefixes.read(PREFIX)) is None
    assert finish(engine.prefixes.hold("kept", PREFIX))
    assert not finish(engine.prefixes.hold("more", [60] * 9, slots_of([60] * 9)))


TINY_PREFIX = tuple(range(100, 190))


def scored(*suffixes: tuple[int, ...]) -> list[GenerateRequest]:
    """Greedy and drawn, each suffix scored."""
    return [
        GenerateRequest(
            (*TINY_PREFIX, *suffix),
            SamplingParams(max_tokens=16, temperature=n % 2 * 0.9, seed=n),
            num_scored_tokens=len(suffix) - 1,
        )
        for n, suffix in enumerate(suffixes)
    ]


@pytest.mark.parametrize("kv_type", KvType)
def test_pages_of_another_process_give_bit_equal_tokens_and_logprobs(
    tmp_path: Path, kv_type: KvType
) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    requests = scored((5, 6, 7), (8, 9, 10, 11), (12, 13))
    fresh = generate(make_cpu_engine(path, kv_type=kv_type), *requests)
    first = make_cpu_engine(path, kv_type=kv_type, max_step_tokens=7)
    generate(first, GenerateRequest(TINY_PREFIX, SamplingParams(max_tokens=0)))
    pages = finish(first.prefixes.read(TINY_PREFIX))
    assert pages is not None
    assert saved_pages(first, tmp_path).save(TINY_PREFIX, pages)
    second = make_cpu_engine(path, kv_type=kv_type)
    loaded = saved_pages(second, tmp_path).load(TINY_PREFIX)
    assert loaded is not None
    assert finish(second.prefixes.hold("kept", TINY_PREFIX, loaded))
    restored = generate(second, *requests)
    assert [usage_of(result).cached_tokens for result in restored] == [80, 80, 80]
    assert [usage_of(result).cached_tokens for result in fresh][:1] == [0]
    for one, other in zip(restored, fresh, strict=True):
        assert one.last is not None
        assert other.last is not None
        assert one.token_ids == other.token_ids
        assert one.last.logprobs == other.last.logprobs
    loaded[1] = 0  # what the pages hold does matter
    third = make_cpu_engine(path, kv_type=kv_type)
    assert finish(third.prefixes.hold("kept", TINY_PREFIX, loaded))
    (wrong,) = generate(third, requests[0])
    assert wrong.last is not None
    assert fresh[0].last is not None
    assert wrong.last.logprobs != fresh[0].last.logprobs


def saved_pages(engine: Engine, folder: Path) -> SavedPages:
    memory = engine._runner.page_memory
    assert memory is not None
    return SavedPages(folder / "kept", memory, engine._runner.page_size)


def test_identity_follows_weights_kv_type_and_file(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    other = write_tiny_llama(tmp_path / "other.gguf", seed=1)
    engines = [
        make_cpu_engine(path),
        make_cpu_engine(path, threads=1, num_pages=30),
        make_cpu_engine(path, kv_type=KvType.BF16),
        make_cpu_engine(other),
    ]
    memories = [engine._runner.page_memory for engine in engines]
    identities = [memory.identity for memory in memories if memory is not None]
    assert identities[0] == identities[1]
    assert len(set(identities)) == 3


def test_torch_declines(tmp_path: Path) -> None:
    engine = make_torch_engine(write_tiny_llama(tmp_path / "tiny.gguf"))
    generate(engine, GenerateRequest(TINY_PREFIX, SamplingParams(max_tokens=0)))
    assert finish(engine.prefixes.read(TINY_PREFIX)) is None
    assert finish(engine.prefixes.hold("kept", TINY_PREFIX))
