"""Tests of the client of other servers, which know more or less of the API."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mcp_servers.cli.bench_arrivals import RefusedError
from mcp_servers.cli.bench_remote import ServerCompleter
from runtime.errors import GenerationError

pytestmark = pytest.mark.anyio

WHOLE = {
    "model": "m",
    "prompt": [5, 6],
    "max_tokens": 3,
    "temperature": 0,
    "stream": True,
    "ignore_eos": True,
    "stream_options": {"include_usage": True},
}


def token(text: str = "x") -> dict[str, Any]:
    return {"choices": [{"text": text}], "usage": None}


def usage(count: int) -> dict[str, Any]:
    counts = {"prompt_tokens": 2, "completion_tokens": count}
    return {"choices": [], "usage": counts}


def open_server(
    events: Sequence[object],
    asked: list[Any],
    *,
    unknown: Sequence[str] = (),
    status: int = 400,
    takes_tokens: bool = True,
) -> httpx2.AsyncClient:
    """A server that streams these events to whom it understands, as a client of it."""

    async def complete(request: Request) -> Response:
        body: Mapping[str, Any] = await request.json()
        asked.append(body)
        odd = [name for name in unknown if name in body]
        if odd or (not takes_tokens and not isinstance(body["prompt"], str)):
            return JSONResponse({"error": {"message": f"unknown: {odd}"}}, status)
        if not events:
            return JSONResponse({"choices": [{"text": "xyz"}]})

        async def stream() -> AsyncGenerator[str]:
            yield ": a comment\n\n"
            for event in events:
                yield f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/v1/completions", complete, methods=["POST"])])
    transport = httpx2.ASGITransport(app=app)
    return httpx2.AsyncClient(transport=transport, base_url="http://server")


@pytest.mark.parametrize(
    ("events", "num_tokens"),
    [
        ([token(), token(), token(), usage(3)], 3),  # vLLM
        ([token(), token(), token(), {**token(""), **usage(3)}], 3),  # llama.cpp's last is empty
        ([token(""), token(), token(), token(), usage(3)], 3),  # the first is empty
        ([token(), token(), usage(3)], 3),  # two tokens in an event
        ([token(), token(), token()], 3),  # no usage
        ([token(), token(), usage(2)], 2),  # it ended early
        ([token(""), usage(3)], 3),  # none of the tokens has text
        ([token(), {"choices": None}, {"id": "x"}, usage(1)], 1),
    ],
)
async def test_tokens_are_counted_however_a_server_tells_of_them(
    events: list[object], num_tokens: int
) -> None:
    asked: list[Any] = []
    async with open_server(events, asked) as client:
        answer = await ServerCompleter([client], "m").complete([5, 6], 3)
    assert (len(answer.times), answer.prompt_tokens) == (num_tokens, 2)
    assert list(answer.times) == sorted(answer.times)
    assert asked == [WHOLE]


@pytest.mark.parametrize(
    ("unknown", "takes_tokens", "num_tries"),
    [
        ([], True, 1),
        (["stream_options"], True, 2),
        (["ignore_eos"], True, 3),
        (["ignore_eos", "stream_options"], True, 4),
        ([], False, 5),
        (["ignore_eos", "stream_options"], False, 8),
    ],
)
@pytest.mark.parametrize("status", [400, 422, 500])
async def test_what_a_server_does_not_know_is_left_out(
    unknown: list[str], takes_tokens: bool, num_tries: int, status: int
) -> None:
    asked: list[Any] = []
    server: dict[str, Any] = {"unknown": unknown, "takes_tokens": takes_tokens, "status": status}
    async with open_server([token(), token()], asked, **server) as client:
        completer = ServerCompleter([client], "m")
        await completer.settle()
        assert len(asked) == num_tries
        await completer.complete([5, 6, 7], 3)
    last = dict(asked[-1])
    prompt = last.pop("prompt")
    assert prompt == [5, 6, 7] if takes_tokens else len(prompt.split()) == 3
    left_out = {"prompt", *unknown}
    assert last == {name: value for name, value in WHOLE.items() if name not in left_out}


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ([], "the server answered with content of type 'application/json', no stream"),
        ([usage(0)], "m answered without a token"),
        ([token(), {"error": {"message": "out of memory"}}], "the server failed: .*out of memory"),
        (["[1]"], r"the server failed: \[1\]"),
        (["<html>"], "the server sent an event that is not JSON: '<html>'"),
    ],
)
async def test_a_server_that_gives_something_else_is_not_measured(
    events: list[object], problem: str
) -> None:
    async with open_server(events, []) as client:
        with pytest.raises(GenerationError, match=problem):
            await ServerCompleter([client], "m").settle()


@pytest.mark.parametrize(
    ("status", "kind"), [(429, RefusedError), (503, RefusedError), (500, GenerationError)]
)
async def test_a_server_without_a_place_is_told_from_one_that_fails(
    status: int, kind: type[Exception]
) -> None:
    async with open_server([token()], [], unknown=["model"], status=status) as client:
        with pytest.raises(GenerationError, match=f"the server answered {status}: ") as caught:
            await ServerCompleter([client], "m").settle()
    assert type(caught.value) is kind


async def test_a_server_that_hangs_up_is_a_failure_and_no_bug() -> None:
    def hang_up(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.RemoteProtocolError("it left")

    transport = httpx2.MockTransport(hang_up)
    async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
        with pytest.raises(GenerationError, match=r"m gave no whole answer: Remote.* it left"):
            await ServerCompleter([client], "m").complete([1], 1)
