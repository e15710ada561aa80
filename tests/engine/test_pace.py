"""Tests of how many prompt tokens fit beside the decodes."""

from __future__ import annotations

import math

import pytest

from runtime.engine.pace import MIN_PROMPT_TOKENS, Pace

MOST = 512


def learned(*steps: tuple[int, int, float]) -> Pace:
    """A pace of 50 ms that saw (num_decoding, num_prompt_tokens, seconds)."""
    pace = Pace(0.05)
    for step in steps:
        pace.observe(*step)
    return pace


def test_all_tokens_are_taken_while_nothing_decodes() -> None:
    assert learned().num_prompt_tokens(0, MOST) == MOST
    assert learned((0, 100, 9.0)).num_prompt_tokens(0, MOST) == MOST


def test_few_tokens_are_taken_until_their_cost_is_known() -> None:
    assert learned().num_prompt_tokens(1, MOST) == MIN_PROMPT_TOKENS
    assert learned().num_prompt_tokens(1, 7) == 7
    too_short_to_tell = (0, MIN_PROMPT_TOKENS - 1, 0.001)
    assert learned(too_short_to_tell).num_prompt_tokens(1, MOST) == MIN_PROMPT_TOKENS


@pytest.mark.parametrize(
    ("steps", "num_decoding", "wanted"),
    [
        ([(0, 400, 0.2)], 1, 90),  # 0.5 ms a token in 45 ms
        ([(0, 400, 0.02)], 1, MOST),
        ([(0, 400, 0.2), (8, 0, 0.015)], 8, 60),  # 15 ms are the decodes'
        ([(0, 400, 0.2), (8, 0, 0.015)], 4, 75),  # half of them are left
        ([(0, 400, 0.2), (8, 0, 0.015)], 16, 60),  # what more of them cost is not known yet
        ([(0, 400, 0.2), (8, 0, 0.015), (16, 60, 0.055)], 16, 51),  # now it is: 10 ms more
        ([(0, 400, 0.2), (8, 0, 0.060)], 8, MIN_PROMPT_TOKENS),
        ([(0, 400, 0.2), (8, 0, 0.060), (8, 20, 0.025)], 8, 53),  # the decodes were held up
        ([(0, 400, 0.2), (1, 90, 9.0)], 1, 60),  # held up: as if twice as slow
        ([(0, 400, 0.2), (1, 90, 0.0225)], 1, 102),  # faster: followed slowly
    ],
)
def test_tokens_fit_into_what_the_decodes_leave(
    steps: list[tuple[int, int, float]], num_decoding: int, wanted: int
) -> None:
    assert learned(*steps).num_prompt_tokens(num_decoding, MOST) == pytest.approx(wanted, abs=1)


def test_clock_that_stands_still_limits_nothing() -> None:
    assert learned((0, 100, 0.0), (1, 0, 0.0)).num_prompt_tokens(1, MOST) == MOST


def test_estimate_recovers_from_any_past() -> None:
    for token_s in (0.0, 1e-9, 0.1, 10.0):
        pace = learned((0, 100, 100 * token_s), (3, 0, token_s))
        for _ in range(60):
            num_tokens = pace.num_prompt_tokens(3, MOST)
            pace.observe(3, num_tokens, 0.005 + 0.0005 * num_tokens)
        assert pace.num_prompt_tokens(3, MOST) == pytest.approx(80, abs=10)


@pytest.mark.parametrize(
    ("steps", "num_decoding", "price"),
    [
        ([], 1, math.inf),
        ([(1, 3, 0.02)], 1, math.inf),  # it never ran without them
        ([(1, 0, 0.01)], 1, 0.3),
        ([(1, 0, 0.01)], 2, math.inf),
        ([(2, 0, 0.01)], 2, 0.6),
        ([(1, 0, 0.01), (1, 2, 0.012)], 1, 0.25),  # 1 ms a token, followed slowly
        ([(1, 0, 0.01), (1, 5, 0.06)], 1, 0.45),  # 10 ms: as if twice as dear
        ([(2, 0, 0.01)] + [(2, 2, 0.02)] * 99, 2, 1.0),
        ([(2, 0, 0.01), (2, MIN_PROMPT_TOKENS, 0.09)], 2, 0.6),  # a prompt: no guesses
        ([(3, 0, 0.01), (3, 1, 0.01)], 3, math.inf),  # they fill a step
    ],
)
def test_guess_has_to_be_as_likely_as_it_costs(
    steps: list[tuple[int, int, float]], num_decoding: int, price: float
) -> None:
    assert learned(*steps).guess_price(num_decoding) == pytest.approx(price)


def test_many_guesses_teach_what_one_costs() -> None:
    pace = learned((1, 0, 0.01))
    for _ in range(20):
        pace.observe(1, 16, 0.17, only_decodes=True)
    assert pace.guess_price(1) == pytest.approx(1.0, rel=0.05)


def test_dear_guesses_are_tried_again() -> None:
    pace = learned((1, 0, 0.01), *[(1, 4, 0.05)] * 20)
    assert pace.guess_price(1) > 0.9
    for _ in range(300):
        pace.observe(1, 0, 0.01)
    assert pace.guess_price(1) < 0.6
