"""Tests of requests at once and in a row: when they are sent, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import anyio
import pytest
from typer.testing import CliRunner

from mcp_servers.cli import app as cli
from mcp_servers.cli.bench_arrivals import (
    Answer,
    RefusedError,
    Sent,
    draw_arrivals,
    send_as_they_arrive,
)
from runtime.errors import GenerationError
from tools.errors import InvalidRequestError

pytestmark = pytest.mark.anyio


class SlowCompleter:
    """Answers nobody before all have asked; has no place for prompts of a 0."""

    def __init__(self, num_requests: int) -> None:
        self._num_missing = num_requests
        self._are_here = anyio.Event()

    async def complete(self, prompt: Sequence[int], new_tokens: int) -> Answer:
        self._num_missing -= 1
        if not self._num_missing:
            self._are_here.set()
        await self._are_here.wait()
        if prompt[0] == 0:
            raise RefusedError("full")
        return Answer([float(token_id) for token_id in prompt[:new_tokens]], len(prompt))


@pytest.mark.parametrize("arrivals", [[0.0, 0.01, 0.02], [0.0, 0.0, 0.0]])
async def test_requests_are_sent_though_none_was_answered_and_the_refused_are_counted(
    arrivals: list[float],
) -> None:
    prompts = [[1, 2], [0], [3, 4]]
    with anyio.fail_after(5):
        sent = await send_as_they_arrive(SlowCompleter(3), prompts, arrivals, 2)
    dues = sorted(at for at, _ in sent.answers)
    assert sorted([*one.times] for _, one in sent.answers) == [[1.0, 2.0], [3.0, 4.0]]
    assert [round(after - before, 6) for before, after in pairwise(dues)] == [arrivals[2]]
    assert len(sent.late_s) == 3
    assert min(sent.late_s) >= 0
    (refused_s,) = sent.refused_s
    assert refused_s >= 0
    assert sent.refusal_ms(0.99) == round(1000 * refused_s, 4)


class BrokenCompleter:
    """Fails where the prompt begins with a 0."""

    async def complete(self, prompt: Sequence[int], new_tokens: int) -> Answer:
        if prompt[0] == 0:
            raise GenerationError("it hung up")
        return Answer([1.0], len(prompt))


async def test_requests_that_fail_are_counted_unless_all_do() -> None:
    sent = await send_as_they_arrive(BrokenCompleter(), [[0], [1], [0], [0]], [0.0] * 4, 1)
    assert (len(sent.answers), sent.num_failed, sent.failed_percent) == (1, 3, 75.0)
    with pytest.raises(GenerationError, match="it hung up"):
        await send_as_they_arrive(BrokenCompleter(), [[0], [0]], [0.0] * 2, 1)


def test_a_round_is_summed_up_from_when_requests_were_to_be_sent() -> None:
    first, second = Answer((10.5, 11.0, 12.0), 7), Answer((11.1, 11.2, 11.3), 8)
    one = Sent(4.0, [(10.0, first), (11.0, second)], refused_s=[0.5, 1.5])
    assert (one.tokens_per_s, one.refused_percent) == (1.5, 50.0)
    assert (one.first_token_ms(0.0), one.first_token_ms(1.0)) == (100.0, 500.0)
    assert (one.between_tokens_ms(0.0), one.between_tokens_ms(1.0)) == (100.0, 1000.0)
    assert (one.request_tokens_per_s(0.0), one.request_tokens_per_s(1.0)) == (1.5, 10.0)
    assert (one.refusal_ms(0.0), one.refusal_ms(1.0)) == (500.0, 1500.0)
    assert (one.mean_prompt_tokens, one.mean_answer_tokens) == (7.5, 3.0)
    none = Sent(1.0, [], refused_s=[1.0] * 3)
    assert (none.tokens_per_s, none.refused_percent, none.first_token_ms(0.5)) == (0, 100.0, 0)
    assert (none.request_tokens_per_s(0.5), none.mean_answer_tokens) == (0, 0)


def test_arrivals_are_as_many_as_asked_for_and_the_same_again() -> None:
    times = draw_arrivals(50.0, 100, seed=1)
    assert times == draw_arrivals(50.0, 100, seed=1) != draw_arrivals(50.0, 100, seed=2)
    assert times == sorted(times)
    assert (times[0], times[-1] < 100) == (0.0, True)
    assert abs(len(times) - 5000) < 4 * 5000**0.5
    assert draw_arrivals(0.001, 1, seed=1) == [0.0]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["decode", "--rate", "1"], "--rate is for serve, not for decode"),
        (["serve", "--rate", "0"], "--rate takes numbers like 0.5,2,8, not '0'"),
        (["serve", "--rate", "1,x"], "--rate takes numbers like 0.5,2,8, not '1,x'"),
        (["serve", "--rate", "nan"], "--rate takes numbers like 0.5,2,8, not 'nan'"),
        (["serve", "--peer", "a"], "--peer takes NAME=URL, not 'a'"),
        (["serve", "--peer", "a=b:1"], "--peer takes NAME=URL, not 'a=b:1'"),
        (["serve", "--peer", "=http://b"], "--peer takes NAME=URL, not '=http://b'"),
        (
            ["decode", "--peer", "a=http://b"],
            "--url and --peer are for serve and prefix, decode measures our engine",
        ),
    ],
)
def test_options_that_mean_nothing_are_refused(arguments: list[str], problem: str) -> None:
    result = CliRunner().invoke(cli, ["bench", *arguments])
    assert isinstance(result.exception, InvalidRequestError)
    assert str(result.exception) == problem
