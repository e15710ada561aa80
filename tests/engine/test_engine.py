"""Tests of engine and scheduler on a runner whose tokens depend on every slot they read."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from runtime.engine.batch import SCORE_NOTHING, LogitsRow, _draw
from runtime.engine.engine import Engine, EngineLimits
from runtime.engine.sequence import Sequence as EngineSequence
from runtime.engine.sequence import StopStringFilter
from runtime.errors import CapacityError, PromptTooLongError
from runtime.grammar.constraint import Constraint, ConstraintState
from runtime.request import GenerateRequest, SamplingParams, TokenChunk, Usage
from tests.helpers.page_runner import END, VOCAB_SIZE, LetterDecoder, PageRunner, next_token
from tools.errors import InvalidRequestError

PAGE_SIZE = 4


def make_engine(
    num_pages: int = 64,
    *,
    max_sequences: int = 64,
    max_step_tokens: int = 64,
    max_step_s: float = 0.05,
    context_length: int = 10_000,
    max_draft_tokens: int = 0,
    runner: PageRunner | None = None,
    clock: list[float] | None = None,
) -> Engine:
    now = clock or [0.0]
    return Engine(
        runner or PageRunner(num_pages, PAGE_SIZE),
        EngineLimits(
            context_length, max_sequences, 1000, max_step_tokens, max_step_s, max_draft_tokens
        ),
        decoder=LetterDecoder,
        stop_ids=frozenset({END}),
        clock=lambda: now[0],
    )


def request(*token_ids: int, max_tokens: int = 12, **fields: object) -> GenerateRequest:
    return replace(
        GenerateRequest(token_ids, SamplingParams(max_tokens=max_tokens)),
        **fields,  # type: ignore[arg-type]  # the dataclass checks nothing, the tests do
    )


def expected(prompt: Sequence[int], max_tokens: int) -> list[int]:
    """What the language says, computed without an engine."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < max_tokens:
        tokens.append(next_token(tokens))
        if tokens[-1] == END:
            break
    return tokens[len(prompt) :]


@dataclass
class Collected:
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    last: TokenChunk | None = None


def drain(engine: Engine, results: dict[int, Collected], max_steps: int = 5000) -> None:
    for _ in range(max_steps):
        if not engine.has_work:
            return
        collect(engine.step(), results)
    raise AssertionError("the engine does not finish")


def collect(chunks: dict[int, TokenChunk], results: dict[int, Collected]) -> None:
    for sequence_id, chunk in chunks.items():
        result = results.setdefault(sequence_id, Collected())
        assert result.last is None, "a chunk after the last one"
        result.token_ids += chunk.token_ids
        result.text += chunk.text
        if chunk.finish_reason is not None:
            result.last = chunk


def generate(engine: Engine, *requests: GenerateRequest) -> list[Collected]:
    ids = [engine.add(one) for one in requests]
    results: dict[int, Collected] = {}
    drain(engine, results)
    return [results[sequence_id] for sequence_id in ids]


def usage_of(result: Collected) -> Usage:
    assert result.last is not None
    assert result.last.usage is not None
    return result.last.usage


def test_generates_what_the_language_says_and_frees_all_pages() -> None:
    engine = make_engine()
    (result,) = generate(engine, request(1, 2, 3, max_tokens=20))
    assert result.token_ids == expected([1, 2, 3], 20)
    assert engine.pool.num_free == 64


def test_a_text_goes_on_past_its_end_where_that_is_ignored() -> None:
    prompt = next([1, n] for n in range(VOCAB_SIZE) if len(expected([1, n], 20)) < 10)
    whole = request(*prompt, max_tokens=20)
    endless = replace(whole, sampling=replace(whole.sampling, ignores_end=True))
    ended, went_on = generate(make_engine(), whole, endless)
    assert ended.token_ids == expected(prompt, 20)
    assert ended.token_ids[-1] == END
    assert went_on.token_ids[: len(ended.token_ids)] == ended.token_ids
    assert len(went_on.token_ids) == 20
    assert (ended.last and ended.last.finish_reason) == "stop"
    assert (went_on.last and went_on.last.finish_reason) == "length"


def test_tokens_are_equal_alone_batched_chunked_preempted_and_prefix_cached() -> None:
    rng = random.Random(1)
    shared = [rng.randrange(1, VOCAB_SIZE) for _ in range(21)]
    prompts = [(*shared, *(rng.randrange(1, 64) for _ in range(n))) for n in range(1, 33)]
    requests = [request(*prompt, max_tokens=30) for prompt in prompts]
    alone = [generate(make_engine(), one)[0].token_ids for one in requests]
    assert alone == [expected(prompt, 30) for prompt in prompts]
    for engine in (
        make_engine(1000),
        make_engine(1000, max_step_tokens=3),
        make_engine(24),
        make_engine(1000, max_sequences=2),
    ):
        assert [result.token_ids for result in generate(engine, *requests)] == alone
        assert [result.token_ids for result in generate(engine, *requests)] == alone
        assert engine.pool.num_free == engine.pool.num_pages
    small = make_engine(24)
    generate(small, *requests)
    assert small.scheduler.num_preemptions > 0


def test_requests_added_together_compute_a_shared_prefix_once() -> None:
    runner = PageRunner(64, PAGE_SIZE)
    engine = make_engine(runner=runner)
    shared = tuple(range(1, 17))
    generate(engine, *(request(*shared, 40 + n, max_tokens=1) for n in range(8)))
    assert sum(runner.num_tokens_run) == len(shared) + 8


def test_prefix_is_found_again_and_counted() -> None:
    engine = make_engine()
    prompt = tuple(range(1, 18))
    (first,) = generate(engine, request(*prompt, max_tokens=2))
    (second,) = generate(engine, request(*prompt, max_tokens=2))
    assert usage_of(first).cached_tokens == 0
    assert usage_of(second).cached_tokens == 16
    assert second.token_ids == first.token_ids


def test_salt_separates_callers_but_not_the_shared_tokens() -> None:
    engine = make_engine()
    prompt = tuple(range(1, 18))

    def num_cached(salt: bytes) -> int:
        salted = request(*prompt, max_tokens=1, salt=salt, num_shared_tokens=8)
        (result,) = generate(engine, salted)
        return usage_of(result).cached_tokens

    assert [num_cached(salt) for salt in (b"a", b"b", b"a")] == [0, 8, 16]


def test_lease_keeps_pages_through_pressure_that_evicts_the_unleased() -> None:
    clock = [0.0]
    engine = make_engine(16, clock=clock)
    kept, lost = tuple(range(1, 17)), tuple(range(17, 33))
    generate(engine, request(*kept, max_tokens=1, lease="talk", lease_s=60.0))
    generate(engine, request(*lost, max_tokens=1))
    generate(engine, request(*(40 for _ in range(44)), max_tokens=1))
    (result,) = generate(engine, request(*kept, 9, max_tokens=1))
    assert usage_of(result).cached_tokens == 16
    clock[0] = 61.0
    generate(engine, request(5, max_tokens=1))
    assert engine.pool.num_free == 16


def test_leases_yield_before_a_request_waits() -> None:
    engine = make_engine(8)
    generate(engine, request(*range(1, 29), max_tokens=1, lease="talk", lease_s=60.0))
    assert engine.pool.num_free == 1
    (result,) = generate(engine, request(*range(30, 58), max_tokens=2))
    assert result.token_ids == expected(range(30, 58), 2)


def test_scored_tokens_get_log_probabilities_and_nothing_is_generated() -> None:
    engine = make_engine()
    likely = next_token([1, 2, 3])
    prompt = (1, 2, 3, likely, (likely + 1) % VOCAB_SIZE)
    for _ in range(2):
        (result,) = generate(engine, request(*prompt, max_tokens=0, num_scored_tokens=2))
        assert result.last is not None
        assert result.last.finish_reason == "length"
        assert result.token_ids == []
        second = -1.0 if next_token(prompt[:4]) == prompt[4] else -2.0
        assert result.last.logprobs == (-1.0, second)


def test_scores_are_equal_when_the_prompt_runs_in_chunks() -> None:
    prompt = tuple(range(1, 30))
    scored = request(*prompt, max_tokens=0, num_scored_tokens=11)
    whole = generate(make_engine(), scored)[0].last
    assert whole is not None
    assert len(whole.logprobs) == 11
    for max_step_tokens in (1, 3):
        chunked = generate(make_engine(max_step_tokens=max_step_tokens), scored)[0].last
        assert chunked is not None
        assert whole.logprobs == chunked.logprobs


def test_seeded_draws_do_not_depend_on_the_batch() -> None:
    def draws(seed: int) -> list[float]:
        sampling = SamplingParams(temperature=1.0, seed=seed)
        sequence = EngineSequence(
            0, GenerateRequest((1,), sampling), None, LetterDecoder(), seed=seed, max_tokens=9
        )
        found = []
        for token_id in range(9):
            found.append(_draw(LogitsRow(sequence, SCORE_NOTHING)))
            sequence.append([token_id])
        return found

    assert draws(7) == draws(7)
    assert draws(7) != draws(8)
    assert len(set(draws(7))) == 9
    assert all(0 <= value < 1 for value in draws(7))


@dataclass
class FixedConstraint:
    """Allows exactly `script`, one set of tokens after the other."""

    script: list[set[int]]
    at: int = 0
    fails_at: int | None = None
    max_forced: int = 99

    @property
    def state(self) -> ConstraintState:
        if self.at == self.fails_at:
            return "failed"
        return "done" if self.at == len(self.script) else "open"

    def fill(self, token_bitmask: np.ndarray, row: int) -> None:
        bits = np.zeros(token_bitmask.shape[1] * 32, np.uint8)
        bits[list(self.script[self.at])] = 1
        token_bitmask[row] = np.packbits(bits, bitorder="little").view(np.int32)

    def advance(self, token_ids: Sequence[int]) -> int:
        for count, token_id in enumerate(token_ids):
            is_over = self.at in {len(self.script), self.fails_at}
            if is_over or token_id not in self.script[self.at]:
                return count
            self.at += 1
        return len(token_ids)

    def forced(self) -> list[int]:
        run: list[int] = []
        for allowed in self.script[self.at : self.fails_at]:
            if len(allowed) > 1 or len(run) == self.max_forced:
                break
            run += allowed
        return run

    def rollback(self, num_tokens: int) -> None:
        self.at -= num_tokens

    def fork(self) -> FixedConstraint:
        return replace(self)


def run_constrained(engine: Engine, constraint: Constraint, max_tokens: int) -> Collected:
    sequence_id = engine.add(request(1, 2, 3, max_tokens=max_tokens), constraint)
    results: dict[int, Collected] = {}
    drain(engine, results)
    return results[sequence_id]


@pytest.mark.parametrize("max_forced", [1, 2, 99])
def test_forced_tokens_ride_along_and_cost_no_forward_pass(max_forced: int) -> None:
    runner = PageRunner(64, PAGE_SIZE)
    script = [{5}, {6}, {7, 8}, {9}, {10}, {11}, {12, 13}, {END}]
    constraint = FixedConstraint(script, max_forced=max_forced)
    result = run_constrained(make_engine(runner=runner), constraint, 50)
    assert result.last is not None
    assert result.last.finish_reason == "stop"
    assert usage_of(result).forced_tokens == 6
    assert usage_of(result).forward_passes == 2
    assert runner.num_tokens_run == [5, 4]
    tokens = [1, 2, 3, 5, 6]
    for allowed in ({7, 8}, {12, 13}):
        mask = np.isin(np.arange(VOCAB_SIZE), list(allowed))
        tokens.append(next_token(tokens, mask))
        tokens += [9, 10, 11] if allowed == {7, 8} else [END]
    assert result.token_ids == tokens[3:]


def test_output_that_is_forced_from_start_to_end_finishes() -> None:
    result = run_constrained(make_engine(), FixedConstraint([{5}, {6}, {END}]), 50)
    assert result.token_ids == [5, 6, END]
    assert result.text == "56"
    assert result.last is not None
    assert result.last.finish_reason == "stop"


@pytest.mark.parametrize("max_tokens", [0, 1, 2, 3, 4])
def test_forced_tokens_respect_the_token_limit(max_tokens: int) -> None:
    script = [{5}, {6}, {7, 8}, {9}, {10}, {11, 12}, {END}]
    result = run_constrained(make_engine(), FixedConstraint(script), max_tokens)
    assert len(result.token_ids) == max_tokens
    assert result.last is not None
    assert result.last.finish_reason == "length"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([{5, 6}, {7, 8}, {END}], "stop"),
        ([{5, 6}, {7, 8}, {END, 9}], "length"),
        ([{5}, {7}, {END}], "stop"),
        ([{5}, {7}], "stop"),
        ([{5}, {7, 8}, {9}], "length"),
    ],
)
def test_output_that_is_whole_when_its_tokens_run_out_was_not_cut(
    script: list[set[int]], reason: str
) -> None:
    result = run_constrained(make_engine(), FixedConstraint(script), 2)
    assert len(result.token_ids) == 2
    assert result.last is not None
    assert result.last.finish_reason == reason


@dataclass
class ClosingConstraint:
    """Allows any token `num_free` times; then refuses the next and dictates `closing`."""

    num_free: int
    closing: list[int]
    state_at_the_end: ConstraintState = "open"
    taken: list[int] = field(default_factory=list)
    is_closing: bool = False

    @property
    def state(self) -> ConstraintState:
        if self.closing and len(self.taken) == self.num_free + len(self.closing):
            return "done"
        return self.state_at_the_end if self.is_closing else "open"

    def fill(self, token_bitmask: np.ndarray, row: int) -> None:
        token_bitmask[row] = -1

    def advance(self, token_ids: Sequence[int]) -> int:
        if not self.is_closing and len(self.taken) == self.num_free:
            self.is_closing = True
            return 0
        assert self.is_closing == (len(self.taken) >= self.num_free)
        self.taken += token_ids
        return len(token_ids)

    def forced(self) -> list[int]:
        return self.closing[len(self.taken) - self.num_free :] if self.is_closing else []

    def rollback(self, num_tokens: int) -> None:
        del self.taken[len(self.taken) - num_tokens :]

    def fork(self) -> ClosingConstraint:
        return replace(self, taken=list(self.taken))


@pytest.mark.parametrize("closing", [[7, 8, END], [7, 8]])
def test_refused_token_gives_way_to_those_that_close_the_output(closing: list[int]) -> None:
    result = run_constrained(make_engine(), ClosingConstraint(3, closing), 50)
    assert result.token_ids == [*expected([1, 2, 3], 3), *closing]
    assert result.last is not None
    assert (result.last.finish_reason, result.last.error) == ("stop", None)
    assert usage_of(result).forced_tokens == len(closing)
    assert usage_of(result).forward_passes == 4


def test_closing_tokens_end_with_the_token_limit() -> None:
    result = run_constrained(make_engine(), ClosingConstraint(3, [7, 8, 9]), 5)
    assert result.token_ids == [*expected([1, 2, 3], 3), 7, 8]
    assert result.last is not None
    assert result.last.finish_reason == "length"


@pytest.mark.parametrize(
    ("state", "reason", "error"),
    [
        ("accepting", "length", None),
        ("open", "error", "the grammar allows no token here"),
        ("failed", "error", "the grammar allows no token here"),
    ],
)
def test_refused_token_ends_an_output_that_may_end(
    state: ConstraintState, reason: str, error: str | None
) -> None:
    constraint = ClosingConstraint(3, [], state_at_the_end=state)
    result = run_constrained(make_engine(), constraint, 50)
    assert result.token_ids == expected([1, 2, 3], 3)
    assert result.last is not None
    assert (result.last.finish_reason, result.last.error) == (reason, error)


def test_failed_matcher_ends_its_own_sequence_only() -> None:
    engine = make_engine()
    free_id = engine.add(request(1, 2, max_tokens=9))
    bad_id = engine.add(request(3, 4), FixedConstraint([{5, 6}, {7, 8}], fails_at=1))
    results: dict[int, Collected] = {}
    drain(engine, results)
    bad, free = results[bad_id].last, results[free_id].last
    assert bad is not None
    assert bad.finish_reason == "error"
    assert bad.error == "the grammar allows no token here"
    assert free is not None
    assert free.finish_reason in {"stop", "length"}
    assert results[free_id].token_ids == expected([1, 2], 9)
    assert engine.pool.num_free == 64


def test_failed_forward_pass_ends_the_steps_sequences_and_the_engine_goes_on() -> None:
    runner = PageRunner(64, PAGE_SIZE)
    engine = make_engine(runner=runner)
    working, runner.run = runner.run, None  # type: ignore[assignment, method-assign]  # breaks it
    (result,) = generate(engine, request(1, 2))
    runner.run = working  # type: ignore[method-assign]  # mends it
    assert result.last is not None
    assert result.last.finish_reason == "error"
    assert result.last.error is not None
    assert result.last.error.startswith("the forward pass failed: TypeError")
    assert generate(engine, request(1, 2))[0].token_ids == expected([1, 2], 12)


def test_abort_frees_pages_at_once() -> None:
    engine = make_engine(16)
    sequence_id = engine.add(request(*range(1, 40), max_tokens=20))
    engine.step()
    assert engine.pool.num_free < 16
    engine.abort(sequence_id)
    assert engine.pool.num_free == 16
    assert not engine.has_work
    engine.abort(sequence_id)


def test_stop_string_ends_the_text_before_it() -> None:
    token_ids = expected([1, 2], 30)
    text = LetterDecoder().push(token_ids)
    stop = text[5:8]
    sampling = SamplingParams(max_tokens=30, stop=(stop,))
    (result,) = generate(make_engine(), GenerateRequest((1, 2), sampling))
    assert result.text == text[: text.index(stop)]
    assert result.last is not None
    assert result.last.finish_reason == "stop"


@pytest.mark.parametrize("pieces", [["abcSTOPdef"], list("abcSTOPdef"), ["abcS", "TO", "Pdef"]])
def test_stop_string_is_found_however_the_text_is_cut(pieces: list[str]) -> None:
    assert filter_text(pieces, ("STOP",)) == ("abc", True)
    assert filter_text(pieces, ("STOX", "cS")) == ("ab", True)
    assert filter_text(pieces, ("STOPdefg",)) == ("abcSTOPdef", False)


def filter_text(pieces: list[str], stop: tuple[str, ...]) -> tuple[str, bool]:
    class Pieces:
        def push(self, token_ids: Sequence[int]) -> str:
            return "".join(pieces[index] for index in token_ids)

        def flush(self) -> str:
            return ""

    stop_filter = StopStringFilter(Pieces(), stop)
    text = "".join(stop_filter.push([index]) for index in range(len(pieces)))
    return text + stop_filter.flush(), stop_filter.is_stopped


def test_bad_requests_are_refused_before_they_are_queued() -> None:
    engine = make_engine(4, context_length=10)
    with pytest.raises(PromptTooLongError, match="prompt has 10 tokens, the context holds 10"):
        engine.add(request(*range(1, 11)))
    with pytest.raises(InvalidRequestError, match=r"token ids in 0\.\.63"):
        engine.add(request(64))
    with pytest.raises(InvalidRequestError, match="found 0 tokens"):
        engine.add(request())
    with pytest.raises(InvalidRequestError, match=r"a prediction has token ids in 0\.\.63"):
        engine.add(request(1, predicted_ids=(3, 64)))
    with pytest.raises(InvalidRequestError, match="2 of 2 prompt tokens cannot be scored"):
        engine.add(request(1, 2, num_scored_tokens=2))
    with pytest.raises(InvalidRequestError, match="temperature must be in"):
        SamplingParams(temperature=-1)
    assert not engine.has_work


def test_full_queue_is_refused() -> None:
    engine = make_engine()
    for _ in range(1000):
        engine.add(request(1, max_tokens=1))
    with pytest.raises(CapacityError, match="1000 requests are queued already"):
        engine.add(request(1))


def test_generation_ends_with_the_context() -> None:
    engine = make_engine(context_length=9)
    (result,) = generate(engine, request(1, 2, 3, max_tokens=100))
    assert result.token_ids == expected([1, 2, 3], 6)
