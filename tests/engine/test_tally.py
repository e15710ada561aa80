"""Tests of what an engine counts, on a clock that stands still unless a test moves it."""

from __future__ import annotations

from dataclasses import replace

from runtime.engine.engine import Engine, EngineLimits
from runtime.engine.tally import EngineState
from runtime.request import GenerateRequest, SamplingParams
from runtime.telemetry import Histogram
from tests.helpers.page_runner import LetterDecoder, PageRunner

PROMPT = tuple(range(1, 10))


def make_engine(clock: list[float], num_pages: int = 64) -> Engine:
    return Engine(
        PageRunner(num_pages),
        EngineLimits(context_length=1000, max_step_tokens=4),
        decoder=LetterDecoder,
        stop_ids=frozenset(),
        clock=lambda: clock[0],
    )


def request(max_tokens: int, *, is_background: bool = False) -> GenerateRequest:
    sampling = SamplingParams(max_tokens=max_tokens)
    return replace(GenerateRequest(PROMPT, sampling), is_background=is_background)


def run(engine: Engine, clock: list[float], step_s: float = 1.0) -> None:
    while engine.has_work:
        clock[0] += step_s
        engine.step()


def times(histogram: Histogram) -> tuple[int, float]:
    return sum(histogram.counts), histogram.sum


def test_every_time_of_a_request_is_measured_from_event_to_event() -> None:
    clock = [100.0]
    engine = make_engine(clock)
    engine.add(request(3))
    run(engine, clock)  # three steps of 4, 4 and 1 prompt tokens, then two that decode
    tally = engine.state().tally
    assert (tally.prompt_tokens, tally.cached_tokens, tally.generated_tokens) == (9, 0, 3)
    assert tally.finished == {
        "stop": 0,
        "length": 1,
        "tool_calls": 0,
        "cancelled": 0,
        "error": 0,
    }
    assert times(tally.queue_s) == (1, 1.0)
    assert times(tally.prefill_s) == (1, 2.0)
    assert times(tally.first_token_s) == (1, 3.0)
    assert times(tally.between_tokens_s) == (2, 2.0)
    assert times(tally.per_token_s) == (1, 1.0)
    assert times(tally.decode_s) == (1, 2.0)
    assert times(tally.inference_s) == (1, 4.0)
    assert times(tally.request_s) == (1, 5.0)
    assert times(tally.step_tokens) == (5, 11.0)


def test_what_the_prefix_cache_had_is_counted() -> None:
    clock = [0.0]
    engine = make_engine(clock)
    for _ in range(2):
        engine.add(request(1))
        run(engine, clock)
    tally = engine.state().tally
    assert (tally.prompt_tokens, tally.cached_tokens) == (18, 8)  # two pages of four


def test_state_shows_who_runs_and_who_waits_and_the_pages_they_hold() -> None:
    clock = [0.0]
    engine = make_engine(clock, num_pages=4)
    first = engine.add(request(3))
    engine.add(replace(request(3), salt=b"other"))
    engine.step()
    state = engine.state()
    assert state == EngineState(1, 1, 4, 1, 4, 0, state.tokens_per_s, state.tally)
    engine.abort(first)
    assert engine.state().tally.finished["cancelled"] == 1
    assert engine.state().num_used_pages == 0


def test_request_that_ends_before_it_ran_has_no_times_of_tokens() -> None:
    clock = [0.0]
    engine = make_engine(clock)
    engine.abort(engine.add(request(3)))
    tally = engine.state().tally
    assert times(tally.request_s) == (1, 0.0)
    assert times(tally.queue_s) == times(tally.first_token_s) == times(tally.decode_s) == (0, 0.0)


def test_background_work_counts_as_nobodys_request() -> None:
    clock = [0.0]
    engine = make_engine(clock)
    engine.add(request(0, is_background=True))
    run(engine, clock)
    tally = engine.state().tally
    assert sum(tally.finished.values()) == tally.prompt_tokens == 0
    assert times(tally.step_tokens)[0] > 0


def test_histogram_counts_a_value_up_to_its_bound_and_above_all() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    assert (histogram.counts, histogram.sum) == ([2, 2, 1], 14.0)
