"""Tests of the load: who is asked, at the same time, and what is made of the answers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mcp_servers.cli.bench_load import EngineCompleter, ServerCompleter
from mcp_servers.cli.bench_serve import Round, send_at_once
from runtime.engine.async_engine import ThreadedEngine
from runtime.engine.engine import Engine, EngineLimits
from runtime.errors import GenerationError
from tests.helpers.page_runner import LetterDecoder, PageRunner

pytestmark = pytest.mark.anyio


class WaitingCompleter:
    """Answers once as many requests are there as it was told to wait for."""

    def __init__(self, num_requests: int) -> None:
        self._num_missing = num_requests
        self._are_here = anyio.Event()

    async def complete(self, prompt: Sequence[int], new_tokens: int) -> list[float]:
        self._num_missing -= 1
        if not self._num_missing:
            self._are_here.set()
        await self._are_here.wait()
        return [float(token_id) for token_id in prompt[:new_tokens]]


async def test_all_requests_are_sent_before_the_first_is_answered() -> None:
    with anyio.fail_after(5):
        sent = await send_at_once(WaitingCompleter(3), [[1, 2], [3, 4], [5, 6]], 2)
    assert sent.times == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


def test_a_round_is_summed_up() -> None:
    one = Round(10.0, [(10.5, 11.0, 12.0), (11.5, 11.6, 11.7)])
    assert one.tokens_per_s == 3.0
    assert (one.first_token_ms(0.0), one.first_token_ms(1.0)) == (500.0, 1500.0)
    assert one.between_tokens_ms(0.5) == 300.0
    assert Round(1.0, [(2.0,)]).between_tokens_ms(0.99) == 0.0


async def test_our_engine_is_asked_in_process() -> None:
    runner = PageRunner(64)
    engine = Engine(runner, EngineLimits(128), decoder=LetterDecoder, stop_ids=frozenset())
    threaded = ThreadedEngine(engine)
    completer = EngineCompleter(threaded)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            await tasks.start(threaded.run)
            times = await completer.complete([1, 2, 3], 20)
            with pytest.raises(GenerationError, match="wanted 200 tokens, found 125"):
                await completer.complete([1, 2, 3], 200)
            await threaded.aclose()
    assert len(times) == 20
    assert times == sorted(times)


def open_server(events: Sequence[dict[str, Any]], asked: list[Any]) -> httpx2.AsyncClient:
    """A server that streams these events, as a client of it."""

    async def complete(request: Request) -> Response:
        asked.append(await request.json())
        if not events:
            return JSONResponse({"error": "no such model"}, 404)

        async def stream() -> AsyncGenerator[str]:
            yield ": a comment\n\n"
            for event in events:
                yield f"data: {json.dumps(event)}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/v1/completions", complete, methods=["POST"])])
    transport = httpx2.ASGITransport(app=app)
    return httpx2.AsyncClient(transport=transport, base_url="http://server")


TOKEN = {"choices": [{"text": "x"}], "usage": None}
USAGE = {"choices": [], "usage": {"completion_tokens": 3}}


@pytest.mark.parametrize(
    "events",
    [
        [TOKEN, TOKEN, TOKEN, USAGE],  # vLLM
        [TOKEN, TOKEN, TOKEN, TOKEN, USAGE],  # llama-server: the last has no token
        [TOKEN, TOKEN, USAGE],  # two tokens in an event
        [TOKEN, TOKEN, TOKEN],  # no usage
    ],
)
async def test_a_server_is_asked_for_greedy_tokens_past_the_end(
    events: list[dict[str, Any]],
) -> None:
    asked: list[Any] = []
    async with open_server(events, asked) as client:
        times = await ServerCompleter(client, "m").complete([5, 6], 3)
    assert len(times) == 3
    assert times == sorted(times)
    assert asked == [
        {
            "model": "m",
            "prompt": [5, 6],
            "max_tokens": 3,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ([], "the server answered 404: .*no such model"),
        ([TOKEN, TOKEN], "wanted 3 tokens, found 2: .* past the end of a text"),
        ([TOKEN, {"error": {"message": "out of memory"}}], "the server failed: .*out of memory"),
    ],
)
async def test_a_server_that_gives_something_else_is_not_measured(
    events: list[dict[str, Any]], problem: str
) -> None:
    async with open_server(events, []) as client:
        with pytest.raises(GenerationError, match=problem):
            await ServerCompleter(client, "m").complete([5, 6], 3)
