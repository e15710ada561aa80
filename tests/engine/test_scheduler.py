"""Tests of the scheduler, through the engine: invariants at each step, and the steps' length."""

from __future__ import annotations

import random

import numpy as np
import pytest

from runtime.engine.engine import DrawnTokens, Engine
from runtime.engine.page_pool import PagePool
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
)
from tests.helpers.page_runner import END, VOCAB_SIZE, PageRunner


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


def check_invariants(engine: Engine) -> None:
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
    assert references == {p: pool.ref_count(p) for p in range(pool.num_pages) if pool.ref_count(p)}
    assert pool.num_free == pool.num_pages - len(references)
    assert set(scheduler.running).isdisjoint(scheduler.waiting)


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


@pytest.mark.parametrize("seed", range(8))
def test_random_walk_keeps_invariants_and_tokens(seed: int) -> None:
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
        runner=runner,
        clock=clock,
    )
    walk(engine, rng, clock, num_actions=250)
    assert not engine.scheduler.leases._held or engine.pool.num_free < engine.pool.num_pages


def walk(engine: Engine, rng: random.Random, clock: list[float], num_actions: int) -> None:
    prompts: dict[int, tuple[list[int], int]] = {}
    results: dict[int, Collected] = {}
    stem = [rng.randrange(1, VOCAB_SIZE) for _ in range(16)]
    for _ in range(num_actions):
        action = rng.random()
        clock[0] += rng.random()
        if action < 0.25:
            prompt = stem[: rng.randint(1, 16)] + [rng.randrange(1, 64) for _ in range(4)]
            max_tokens = rng.randint(1, 20)
            lease = rng.choice([None, None, "a", "b"])
            one = request(*prompt, max_tokens=max_tokens, lease=lease, lease_s=rng.random() * 5)
            prompts[engine.add(one)] = (prompt, max_tokens)
        elif action < 0.3 and prompts:
            sequence_id = rng.choice(list(prompts))
            engine.abort(sequence_id)
            del prompts[sequence_id]
            results.pop(sequence_id, None)
        else:
            check_step(engine, results)
        check_invariants(engine)
    drain(engine, results)
    check_invariants(engine)
    for sequence_id, (prompt, max_tokens) in prompts.items():
        assert results[sequence_id].token_ids == expected(prompt, max_tokens)


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
