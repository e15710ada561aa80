"""Tests of the rate of tokens; what engines say of themselves is in `test_engine`."""

import pytest

from runtime.engine.tally import WINDOW_S, Throughput


def test_a_steady_rate_is_found_from_the_first_second_on() -> None:
    throughput = Throughput(now=100.0)
    for step in range(1, 2001):
        now = 100.0 + step / 100
        throughput.add(2, now)
        if step >= 100:
            assert throughput.tokens_per_s(now) == pytest.approx(200, rel=0.02)


def test_the_rate_falls_when_nothing_comes() -> None:
    throughput = Throughput(now=0.0)
    throughput.add(100, 0.0)
    busy = throughput.tokens_per_s(WINDOW_S)
    assert throughput.tokens_per_s(2 * WINDOW_S) < busy / 2
    assert throughput.tokens_per_s(100 * WINDOW_S) < 1e-3
