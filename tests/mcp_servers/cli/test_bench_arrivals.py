"""Tests of the open loop: when requests are sent, and what is made of those refused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from typer.testing import CliRunner

from mcp_servers.cli import app as cli
from mcp_servers.cli.bench_arrivals import Arrivals, draw_arrivals, send_as_they_arrive
from mcp_servers.cli.bench_load import RefusedError, ServerCompleter
from runtime.errors import GenerationError
from tools.errors import InvalidRequestError

pytestmark = pytest.mark.anyio


class SlowCompleter:
    """Answers nobody before all have asked; has no place for prompts of a 0."""

    def __init__(self, num_requests: int) -> None:
        self._num_missing = num_requests
        self._are_here = anyio.Event()

    async def complete(self, prompt: Sequence[int], new_tokens: int) -> list[float]:
        self._num_missing -= 1
        if not self._num_missing:
            self._are_here.set()
        await self._are_here.wait()
        if prompt[0] == 0:
            raise RefusedError("full")
        return [float(token_id) for token_id in prompt[:new_tokens]]


async def test_requests_arrive_though_none_was_answered_and_the_refused_are_counted() -> None:
    prompts = [[1, 2], [0], [3, 4]]
    with anyio.fail_after(5):
        sent = await send_as_they_arrive(SlowCompleter(3), prompts, [0.0, 0.01, 0.02], 2)
    assert sorted(map(list, sent.times)) == [[1.0, 2.0], [3.0, 4.0]]
    assert sorted(round(after - before, 6) for before, after in pairwise(sent.sent_at)) == [0.02]
    assert sent.num_refused == 1
    assert sent.seconds >= 0.02


def test_a_round_is_summed_up_from_when_requests_were_to_be_sent() -> None:
    one = Arrivals(4.0, [10.0, 11.0], [(10.5, 11.0, 12.0), (11.1, 11.2, 11.3)], num_refused=2)
    assert (one.tokens_per_s, one.refused_percent) == (1.5, 50.0)
    assert (one.first_token_ms(0.0), one.first_token_ms(1.0)) == (100.0, 500.0)
    assert (one.between_tokens_ms(0.0), one.between_tokens_ms(1.0)) == (100.0, 1000.0)
    none = Arrivals(1.0, [], [], num_refused=3)
    assert (none.tokens_per_s, none.refused_percent, none.first_token_ms(0.5)) == (0, 100.0, 0)


def test_arrivals_are_as_many_as_asked_for_and_the_same_again() -> None:
    times = draw_arrivals(50.0, 100, seed=1)
    assert times == draw_arrivals(50.0, 100, seed=1) != draw_arrivals(50.0, 100, seed=2)
    assert times == sorted(times)
    assert (times[0], times[-1] < 100) == (0.0, True)
    assert abs(len(times) - 5000) < 4 * 5000**0.5
    assert draw_arrivals(0.001, 1, seed=1) == [0.0]


@pytest.mark.parametrize(
    ("status", "kind"), [(429, RefusedError), (503, RefusedError), (500, GenerationError)]
)
async def test_a_server_without_a_place_is_told_from_one_that_fails(
    status: int, kind: type[Exception]
) -> None:
    async def complete(request: Request) -> Response:
        return JSONResponse({"error": {"message": "full"}}, status)

    served = Starlette(routes=[Route("/v1/completions", complete, methods=["POST"])])
    transport = httpx2.ASGITransport(app=served)
    async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
        with pytest.raises(GenerationError) as caught:
            await ServerCompleter(client, "m").complete([5, 6], 3)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["decode", "--rate", "1"], "--rate is for serve, not for decode"),
        (["serve", "--rate", "0"], "--rate takes numbers like 0.5,2,8, not '0'"),
        (["serve", "--rate", "1,x"], "--rate takes numbers like 0.5,2,8, not '1,x'"),
        (["serve", "--rate", "nan"], "--rate takes numbers like 0.5,2,8, not 'nan'"),
    ],
)
def test_a_rate_that_means_nothing_is_refused(arguments: list[str], problem: str) -> None:
    result = CliRunner().invoke(cli, ["bench", *arguments])
    assert isinstance(result.exception, InvalidRequestError)
    assert str(result.exception) == problem
