"""Tests of the scheduler, through the engine: invariants at each step, and the steps' length."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from runtime.engine.engine import DrawnTokens, Engine
from runtime.engine.page_pool import PagePool
from runtime.engine.prefix_pages import PageBytes, Turns
from runtime.errors import CapacityError
from runtime.kernels import ForwardBatch, SamplingBatch
from tests.engine.test_engine import (
    PAGE_SIZE,
    Collected,
    FixedConstraint,
    collect,
    drain,
    expected,
    generate,
    make_engine,
    request,
    usage_of,
)
from tests.helpers.constrained_tokens import HastyPace
from tests.helpers.page_runner import END, VOCAB_SIZE, PageRunner
from tools.errors import InvalidRequestError


class TimedRunner(PageRunner):
    """Lets the clock run on: a step, a sequence that decodes and a prompt token have a cost."""

    def __init__(
        self, num_pages: int, clock: list[float], *, decode_s: float = 0.0005, token_s: float = 4e-4
    ) -> None:
        super().__init__(num_pages, PAGE_SIZE)
        self.clock = clock
        self.decode_s = decode_s
        self.token_s = token_s
        self.steps: list[tuple[int, int, float]] = []  # decodes, prompt tokens, seconds

    def run(self, batch: ForwardBatch, sampling: SamplingBatch) -> DrawnTokens:
        num_tokens = np.diff(batch.cu_seqlens_q)
        num_decoding = int((num_tokens == 1).sum())
        num_prompt_tokens = len(batch.token_ids) - num_decoding
        seconds = 0.002 + num_decoding * self.decode_s + num_prompt_tokens * self.token_s
        self.clock[0] += seconds
        self.steps.append((num_decoding, num_prompt_tokens, seconds))
        return super().run(batch, sampling)


def check_invariants(engine: Engine, *, is_copying: bool = False) -> None:
    """Who copies pages holds references of its own."""
    scheduler = engine.scheduler
    references: dict[int, int] = {}
    for sequence in scheduler.running:
        assert sequence.num_computed <= len(sequence.token_ids)
        assert len(sequence.page_table) * PAGE_SIZE >= sequence.num_computed
        assert len(set(sequence.page_table)) == len(sequence.page_table)
        for page_id in sequence.page_table:
            references[page_id] = references.get(page_id, 0) + 1
    for _, pages in scheduler.leases._held.values():
        for page_id in pages:
            references[page_id] = references.get(page_id, 0) + 1
    for sequence in scheduler.waiting:
        assert not sequence.page_table
        assert sequence.num_computed == 0
    pool = engine.pool
    counts = {p: pool.ref_count(p) for p in range(pool.num_pages) if pool.ref_count(p)}
    assert pool.num_free == pool.num_pages - len(counts)
    assert set(pool._free).isdisjoint(counts)
    if is_copying:
        assert all(counts.get(page_id, 0) >= count for page_id, count in references.items())
    else:
        assert references == counts
    assert set(scheduler.running).isdisjoint(scheduler.waiting)
    is_background = [sequence.request.is_background for sequence in scheduler.running]
    assert is_background == sorted(is_background)


@pytest.mark.parametrize("max_step_s", [0.05, 0.025])
def test_steps_are_short_while_sequences_decode_and_whole_while_none_does(
    max_step_s: float,
) -> None:
    clock = [0.0]
    runner = TimedRunner(800, clock)
    engine = make_engine(runner=runner, clock=clock, max_step_tokens=256, max_step_s=max_step_s)
    rng = random.Random(4)
    prompts = [[rng.randrange(1, VOCAB_SIZE) for _ in range(100)] for _ in range(12)]
    assert generate(engine, request(*prompts[0], *prompts[1], *prompts[2], max_tokens=1))
    assert [tokens for _, tokens, _ in runner.steps] == [256, 44]
    results = generate(engine, *(request(*prompt, max_tokens=20) for prompt in prompts[3:]))
    assert [result.token_ids for result in results] == [expected(p, 20) for p in prompts[3:]]
    mixed = [seconds for decodes, tokens, seconds in runner.steps if decodes and tokens]
    assert len(mixed) > 3
    assert max(mixed) <= max_step_s
    assert sorted(mixed)[1] > 0.7 * max_step_s  # all but the last of them are well filled


def test_prompts_get_on_however_slow_the_steps_are() -> None:
    clock = [0.0]
    runner = TimedRunner(800, clock, decode_s=0.06)
    engine = make_engine(runner=runner, clock=clock, max_step_tokens=256)
    first = engine.add(request(1, 2, 3, max_tokens=30))
    results: dict[int, Collected] = {}
    for _ in range(3):
        collect(engine.step(), results)
    prompt = [n % 60 + 1 for n in range(100)]
    second = engine.add(request(*prompt, max_tokens=1))
    drain(engine, results)
    assert [tokens for _, tokens, _ in runner.steps if tokens] == [3, 16, 16, 16, 16, 16, 16, 4]
    assert results[first].token_ids == expected([1, 2, 3], 30)
    assert results[second].token_ids == expected(prompt, 1)


def test_tokens_that_a_grammar_forces_beside_decodes_keep_to_the_pace() -> None:
    clock = [0.0]
    runner = TimedRunner(200, clock, token_s=0.01)
    engine = make_engine(runner=runner, clock=clock)
    engine.add(request(*range(1, 41), max_tokens=30))
    results: dict[int, Collected] = {}
    for _ in range(3):
        collect(engine.step(), results)
    script = [{5, 6}, *({n % 50 + 1} for n in range(40)), {7, 8}, {END}]
    sequence_id = engine.add(request(1, 2, 3, max_tokens=60), FixedConstraint(script))
    drain(engine, results)
    longest = max(tokens for decodes, tokens, _ in runner.steps if decodes)
    assert longest == 17  # sixteen and the newest token of the sequence itself
    assert len(results[sequence_id].token_ids) == 43


def test_background_prefill_waits_for_all_others_and_keeps_steps_short() -> None:
    clock = [0.0]
    runner = TimedRunner(2000, clock)
    engine = make_engine(runner=runner, clock=clock, max_step_tokens=512)
    catalogue = [n % 60 + 1 for n in range(2000)]
    results: dict[int, Collected] = {}
    generate(engine, request(*range(1, 60), max_tokens=9))  # so that the pace is known
    warm = engine.add(request(*catalogue, max_tokens=0, is_background=True))
    runner.steps.clear()
    for _ in range(3):
        collect(engine.step(), results)
    assert all(tokens and seconds <= 0.05 for _, tokens, seconds in runner.steps)
    prompt = [n % 50 + 9 for n in range(300)]
    first = engine.add(request(*prompt, max_tokens=40))
    runner.steps.clear()
    collect(engine.step(), results)
    assert [tokens for _, tokens, _ in runner.steps] == [300]  # it comes at once, and alone
    assert engine.scheduler.num_preemptions == 1
    drain(engine, results)
    assert results[first].token_ids == expected(prompt, 40)
    last = results[warm].last
    assert last is not None
    assert last.finish_reason == "length"
    beside = [seconds for decodes, tokens, seconds in runner.steps if decodes and tokens]
    assert len(beside) > 10
    assert max(beside) <= 0.05
    (again,) = generate(engine, request(*catalogue, 5, max_tokens=1))
    assert again.last is not None
    assert again.last.usage is not None
    assert again.last.usage.cached_tokens == 2000
    assert again.token_ids == expected([*catalogue, 5], 1)


def test_request_that_needs_what_is_computed_in_the_background_takes_it_over() -> None:
    runner = PageRunner(64, PAGE_SIZE)
    engine = make_engine(runner=runner, max_step_tokens=16)
    shared = tuple(range(1, 61))
    engine.add(request(*shared, max_tokens=0, is_background=True))
    results: dict[int, Collected] = {}
    collect(engine.step(), results)
    hurried = engine.add(request(*shared, 9, max_tokens=3))
    while hurried not in results or results[hurried].last is None:
        collect(engine.step(), results)
    assert sum(runner.num_tokens_run) <= len(shared) + 1 + 2 + 16  # little twice
    assert usage_of(results[hurried]).cached_tokens == 16
    assert results[hurried].token_ids == expected([*shared, 9], 3)
    drain(engine, results)


def test_background_request_draws_nothing() -> None:
    with pytest.raises(InvalidRequestError, match="max_tokens must be 0, not 1"):
        request(1, 2, max_tokens=1, is_background=True)


@pytest.mark.parametrize("seed", range(12))
def test_random_walk_keeps_invariants_and_tokens(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.engine.prefix_pages.PIECE_BYTES", 1)  # a page a turn
    rng = random.Random(seed)
    clock = [0.0]
    runner = TimedRunner(
        rng.choice([12, 20, 40]),
        clock,
        decode_s=rng.choice([0.0, 0.001, 0.1]),
        token_s=rng.choice([0.0, 0.001, 0.01]),
    )
    engine = make_engine(
        max_sequences=rng.choice([1, 3, 8]),
        max_step_tokens=rng.choice([1, 5, 32, 64]),
        max_draft_tokens=rng.choice([0, 3, 16]),
        runner=runner,
        clock=clock,
    )
    if rng.random() < 0.5:
        engine.scheduler._pace = HastyPace(engine.limits.max_step_s)
    walk(engine, rng, clock, num_actions=250)
    assert not engine.scheduler.leases._held or engine.pool.num_free < engine.pool.num_pages


def walk(engine: Engine, rng: random.Random, clock: list[float], num_actions: int) -> None:
    prompts: dict[int, tuple[list[int], int]] = {}
    results: dict[int, Collected] = {}
    stem = [rng.randrange(1, VOCAB_SIZE) for _ in range(16)]
    stems = [stem]
    copies = Copies(engine, stems, rng)
    for _ in range(num_actions):
        action = rng.random()
        clock[0] += rng.random()
        if action < 0.25:
            prompt = rng.choice(stems)[: rng.randint(1, 16)] + [
                rng.randrange(1, 64) for _ in range(4)
            ]
            max_tokens = rng.randint(1, 20)
            lease = rng.choice([None, None, "a", "b"])
            one = request(*prompt, max_tokens=max_tokens, lease=lease, lease_s=rng.random() * 5)
            prompts[engine.add(one)] = (prompt, max_tokens)
        elif action < 0.3 and prompts:
            sequence_id = rng.choice(list(prompts))
            engine.abort(sequence_id)
            del prompts[sequence_id]
            results.pop(sequence_id, None)
        elif action < 0.35:
            warm = request(
                *stems[-1], max_tokens=0, is_background=True, lease="kept", lease_s=math.inf
            )
            engine.add(warm)
        elif action < 0.5:
            copies.act()
        else:
            check_step(engine, results)
        check_invariants(engine, is_copying=copies.is_open)
    copies.finish()
    drain(engine, results)
    check_invariants(engine)
    for sequence_id, (prompt, max_tokens) in prompts.items():
        assert results[sequence_id].token_ids == expected(prompt, max_tokens)


class Copies:
    """Reads of stems' pages and restores of them, each at some turn or given up.

    Half of the restores are of a new stem, which prompts begin with from then on.
    """

    def __init__(self, engine: Engine, stems: list[list[int]], rng: random.Random) -> None:
        self._engine = engine
        self._stems = stems
        self._rng = rng
        self._open: list[tuple[Turns[bool] | Turns[PageBytes | None], list[int]]] = []

    @property
    def is_open(self) -> bool:
        return bool(self._open)

    def act(self) -> None:
        action = self._rng.random()
        if action < 0.4 or not self._open:
            self._begin()
        elif action < 0.5:
            self._open.pop(self._rng.randrange(len(self._open)))[0].close()
        else:
            self._take_turn(self._rng.randrange(len(self._open)))

    def finish(self) -> None:
        while self._open:
            self._take_turn(0)

    def _begin(self) -> None:
        if self._rng.random() < 0.5:
            self._stems.append([self._rng.randrange(1, VOCAB_SIZE) for _ in range(16)])
            del self._stems[:-4]
        prefix = self._stems[-1][: self._rng.randint(0, 16)]
        prefixes = self._engine.prefixes
        if self._rng.random() < 0.3:
            self._open.append((prefixes.read(prefix), prefix))
        else:
            pages = self._rng.choice([None, slots_of(prefix)])
            self._open.append((prefixes.hold(self._rng.choice("ab"), prefix, pages), prefix))

    def _take_turn(self, index: int) -> None:
        turns, prefix = self._open[index]
        try:
            next(turns)
        except StopIteration as stop:
            result = stop.value
        else:
            return
        del self._open[index]
        if isinstance(result, np.ndarray):
            assert result.tolist() == slots_of(prefix).tolist()
        elif result:
            cache, hashes = self._engine.scheduler.cache, list[bytes]()
            cache.extend_hashes(hashes, prefix, b"", 0)
            pages = cache.find(hashes)
            assert len(pages) == len(prefix) // PAGE_SIZE
            assert all(self._engine.pool.ref_count(page_id) for page_id in pages)


def slots_of(token_ids: list[int]) -> PageBytes:
    """The bytes of a prefix's full pages on a `PageRunner`."""
    num_tokens = len(token_ids) // PAGE_SIZE * PAGE_SIZE
    slots = np.stack((token_ids[:num_tokens], np.arange(num_tokens)), axis=1).astype(np.int64)
    return slots.view(np.uint8).reshape(-1, PAGE_SIZE * 2 * 8)


def check_step(engine: Engine, results: dict[int, Collected]) -> None:
    """Run a step; all that decodes gets on, unless it lacks a page, and prompts keep their pace."""
    scheduler = engine.scheduler
    decoding = {s: s.num_computed for s in scheduler.running if s.is_decoding}
    most = engine.limits.max_step_tokens
    allowed = scheduler._pace.num_prompt_tokens(len(decoding), most)
    assert allowed >= min(most, 16)
    num_preemptions = scheduler.num_preemptions
    runner = engine._runner
    assert isinstance(runner, PageRunner)
    num_steps = len(runner.num_tokens_run)
    collect(engine.step(), results)
    num_tokens = sum(runner.num_tokens_run[num_steps:])
    assert num_tokens <= min(most, allowed + len(decoding))
    if scheduler.num_preemptions == num_preemptions and len(decoding) <= most:
        pages = {s: len(s.page_table) * PAGE_SIZE for s in scheduler.running}
        held_up = [s for s, before in decoding.items() if s.num_computed == before and s in pages]
        assert all(pages[sequence] == sequence.num_computed for sequence in held_up)


class FailingPool(PagePool):
    """Fails its n-th allocation, counted from 1."""

    def __init__(self, num_pages: int, failing: int) -> None:
        super().__init__(num_pages)
        self.failing = failing
        self.num_calls = 0

    def allocate(self, num_pages: int) -> list[int]:
        self.num_calls += 1
        if self.num_calls == self.failing:
            raise CapacityError("injected")
        return super().allocate(num_pages)


def test_any_failing_allocation_changes_no_token() -> None:
    requests = [request(1, 2, 3, n, max_tokens=15) for n in range(5, 11)]
    for failing in range(1, 200):
        engine = make_engine(14, max_step_tokens=9)
        pool = FailingPool(14, failing)
        engine.pool = engine.scheduler.pool = engine.scheduler.leases._pool = pool
        results = generate(engine, *requests)
        assert [r.token_ids for r in results] == [expected(r.token_ids, 15) for r in requests]
        check_invariants(engine)
        assert pool.num_free == 14
        if pool.num_calls < failing:
            return
    raise AssertionError("some allocation was never made to fail")
