"""Anthropic's messages as streams: the order of events, failures, clients that leave."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest

from mcp_servers.model_server.admission import AdmissionLimits
from runtime.chat.messages import (
    ChatEvent,
    Message,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    TurnEnd,
    TurnStart,
)
from runtime.http_api.messages_answer import Answer, EventWriter
from runtime.request import Usage
from tests.helpers.anthropic_messages import ADD, HELLO, ask, post
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import on_port, open_app

pytestmark = pytest.mark.anyio


def events_of(response: httpx2.Response) -> list[dict[str, Any]]:
    """The data of all events, whose names are their types."""
    found = []
    for frame in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def start(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


async def test_a_stream_has_the_events_of_anthropics_reference_in_their_order() -> None:
    usage = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4)
    turn = ScriptedTurn("one two", reasoning="Hm. So.", usage=usage)
    thinking = {"type": "adaptive"}
    response, _ = await ask(play(turn), stream=True, thinking=thinking)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["request-id"].startswith("req_")
    first, *others = events_of(response)
    assert first["message"].pop("id").startswith("msg_")
    counts = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 0}
    assert first == {
        "type": "message_start",
        "message": {
            "type": "message",
            "role": "assistant",
            "model": "scripted",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 10, **counts, "service_tier": "standard"},
        },
    }
    assert others == [
        {"type": "ping"},
        start(0, type="thinking", thinking="", signature=""),
        delta(0, type="thinking_delta", thinking="Hm. "),
        delta(0, type="thinking_delta", thinking="So."),
        delta(0, type="signature_delta", signature="zonda."),
        stop(0),
        start(1, type="text", text=""),
        delta(1, type="text_delta", text="one "),
        delta(1, type="text_delta", text="two"),
        stop(1),
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {
                "input_tokens": 6,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 4,
                "output_tokens": 5,
            },
        },
        {"type": "message_stop"},
    ]


def test_each_call_is_a_block_whose_input_comes_in_pieces() -> None:
    calls = (ToolCall("c1", "add", {"a": 1}), ToolCall("c2", "add", {}))
    writer = EventWriter(Answer("tiny", 99, 8192, shows_thoughts=False))
    turn: list[ChatEvent] = [
        TurnStart(10),
        ReasoningDelta("not asked for"),
        TextDelta("Hm."),
        ToolCallDelta(0, "add"),
        ToolCallDelta(0, arguments='{"a"'),
        ToolCallDelta(0, arguments=": 1}"),
        ToolCallDelta(1, "add", "{}"),
        TurnEnd(Message("assistant", "Hm.", calls), "tool_calls", Usage(10, 5)),
    ]
    events = [written for event in turn for written in writer.push(event)]
    ids = [event["content_block"].pop("id", None) for event in events if "content_block" in event]
    assert ids[0] is None
    assert len(set(ids)) == 3
    call = {"type": "tool_use", "name": "add", "input": {}}
    assert events[2:-2] == [
        start(0, type="text", text=""),
        delta(0, type="text_delta", text="Hm."),
        stop(0),
        start(1, **call),
        delta(1, type="input_json_delta", partial_json='{"a"'),
        delta(1, type="input_json_delta", partial_json=": 1}"),
        stop(1),
        start(2, **call),
        delta(2, type="input_json_delta", partial_json="{}"),
        stop(2),
    ]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


async def test_thoughts_that_are_not_shown_are_a_signature_alone() -> None:
    turn = ScriptedTurn("x", reasoning="Hm. So.")
    thinking = {"type": "adaptive", "display": "omitted"}
    response, _ = await ask(play(turn), stream=True, thinking=thinking)
    whole, _ = await ask(play(turn), thinking=thinking)
    events = [event for event in events_of(response) if event.get("index") == 0]
    assert events == [
        start(0, type="thinking", thinking="", signature=""),
        delta(0, type="signature_delta", signature=whole.json()["content"][0]["signature"]),
        stop(0),
    ]


async def test_a_failure_is_the_last_event_and_keeps_the_servers_secrets() -> None:
    turn = ScriptedTurn("some words", raises=RuntimeError("0x7fff secret"))
    response, _ = await ask(play(turn), stream=True)
    assert response.status_code == 200
    last = events_of(response)[-1]
    assert (last["type"], last["error"]["type"]) == ("error", "api_error")
    assert last["request_id"] == response.headers["request-id"]
    assert "secret" not in response.text
    failing = ScriptedTurn(error="the matcher gave up", finish_reason="error")
    response, _ = await ask(play(failing), stream=True)
    assert events_of(response)[-1]["error"] == {
        "type": "api_error",
        "message": "the matcher gave up",
    }
    whole, _ = await ask(play(failing))
    assert (whole.status_code, whole.json()["error"]["type"]) == (500, "api_error")


async def test_a_full_queue_refuses_with_a_hint_when_to_come_back() -> None:
    limits = AdmissionLimits(max_running=1, max_waiting=0)
    models = scripted_models(play(ScriptedTurn("x", hangs=True)))
    async with open_app(models, limits=limits) as app, anyio.create_task_group() as group:
        group.start_soon(post, app, HELLO)
        while not models.model.num_open:
            await anyio.lowlevel.checkpoint()
        refusals = [await post(app, {**HELLO, "stream": stream}) for stream in (False, True)]
        group.cancel_scope.cancel()
    for refused in refusals:
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["x-should-retry"] == "true"
        assert refused.json()["error"]["type"] == "rate_limit_error"


async def test_a_server_that_stops_is_overloaded() -> None:
    async with open_app(scripted_models(play(ScriptedTurn("x")))) as app:
        await app.service.drain()
        refused = await post(app, HELLO)
    assert refused.status_code == 529
    assert refused.json()["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_its_turn(stream: bool) -> None:
    models = scripted_models(play(ScriptedTurn("some words", hangs=True)))
    body = {**HELLO, "stream": stream, "tools": [ADD]}
    async with open_app(models) as app, on_port(app) as url:

        async def send() -> None:
            async with httpx2.AsyncClient(timeout=20) as client:
                await client.post(url.replace("/mcp", "/v1/messages"), json=body)

        async with anyio.create_task_group() as group:
            group.start_soon(send)
            while not models.model.num_open:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        with anyio.fail_after(10):
            while models.model.num_open:
                await anyio.lowlevel.checkpoint()
    assert len(models.model.asked) == 1
