"""Chat completions over HTTP with a scripted model: shapes, streams, errors, clients that leave."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest

from mcp_servers.model_server.admission import AdmissionLimits
from runtime.chat.messages import Message, OutputSchema, ToolCall, ToolChoice
from runtime.request import Usage
from tests.helpers.model_service import ScriptedModels, scripted_models
from tests.helpers.scripted_chat_model import AskedTurn, Script, ScriptedTurn, play
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.web_service import ServedApp, on_port, open_app

pytestmark = pytest.mark.anyio

TURN = ScriptedTurn("Hi.")
HELLO = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]}
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
ADD = {
    "type": "function",
    "function": {"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}},
}
SUB = {"type": "function", "function": {"name": "sub"}}
STRAY = {"role": "tool", "tool_call_id": "x", "content": "1"}
CALLS_ADD = ScriptedTurn(calls=(ToolCall("call_1", "add", {"a": 1}),))


async def post(
    app: ServedApp, body: Mapping[str, Any] | bytes, path: str = "/v1/chat/completions"
) -> httpx2.Response:
    headers = {"host": "127.0.0.1", "content-type": "application/json"}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await app.request("POST", path, headers, content)


async def ask(script: Script, **fields: Any) -> tuple[httpx2.Response, list[AskedTurn]]:
    models = scripted_models(script)
    async with open_app(models) as app:
        response = await post(app, {**HELLO, **fields})
    return response, models.model.asked


def chunks_of(response: httpx2.Response) -> list[dict[str, Any]]:
    frames = response.text.removesuffix("\n\n").split("\n\n")
    assert frames.pop() == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


async def test_a_completion_has_every_field_that_clients_read() -> None:
    response, asked = await ask(play(ScriptedTurn("Hi there.")), max_tokens=9)
    body = response.json()
    assert body.pop("id").startswith("chatcmpl-")
    assert body.pop("created") > 0
    assert body == {
        "object": "chat.completion",
        "model": "scripted",
        "service_tier": "default",
        "system_fingerprint": None,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hi there.",
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }
    assert response.headers["x-request-id"].startswith("req_")
    assert asked[0].messages == (Message("user", "hello"),)
    assert asked[0].max_tokens == 9


@pytest.mark.parametrize("stream", [False, True])
async def test_prediction_reaches_the_model_and_its_worth_is_told(*, stream: bool) -> None:
    usage = Usage(completion_tokens=9, drafted_tokens=7, accepted_tokens=5)
    turn = ScriptedTurn("Hi there.", usage=usage)
    parts = [{"type": "text", "text": "Hi "}, {"type": "text", "text": "here."}]
    told = {"stream": stream} | ({"stream_options": {"include_usage": True}} if stream else {})
    found = []
    for fields in ({}, {"prediction": {"type": "content", "content": parts}}):
        response, asked = await ask(play(turn), **told, **fields)
        body = chunks_of(response)[-1] if stream else response.json()
        details = body["usage"]["completion_tokens_details"]
        found.append((asked[0].sampling.prediction, *list(details.values())[-2:]))
    assert found == [("", 0, 0), ("Hi here.", 5, 2)]


async def test_a_stream_joins_to_the_whole_answer_and_ends_with_usage_where_asked() -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    response, _ = await ask(play(ScriptedTurn("one two three")), **options)
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, last = chunks_of(response)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": "", "refusal": None}
    assert deltas[-1] == {}
    assert "".join(delta.get("content", "") for delta in deltas) == "one two three"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [
        *[None] * (len(chunks) - 1),
        "stop",
    ]
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert (last["choices"], last["usage"]) == ([], USAGE)
    assert len({chunk["id"] for chunk in (*chunks, last)}) == 1


async def test_calls_come_as_tool_calls_whole_and_streamed() -> None:
    response, asked = await ask(play(CALLS_ADD), tools=[ADD], tool_choice="required")
    choice = response.json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "add", "arguments": '{"a": 1}'},
        }
    ]
    assert asked[0].tools == ("add",)
    assert asked[0].tool_choice == ToolChoice("required")
    streamed, _ = await ask(play(CALLS_ADD), tools=[ADD], stream=True)
    (delta,) = [
        chunk["choices"][0]["delta"]["tool_calls"][0]
        for chunk in chunks_of(streamed)
        if "tool_calls" in chunk["choices"][0]["delta"]
    ]
    assert delta.pop("id").startswith("call_")
    function = {"name": "add", "arguments": ""}
    assert delta == {"index": 0, "type": "function", "function": function}


async def test_functions_of_older_clients_are_called_as_they_expect() -> None:
    response, asked = await ask(
        play(CALLS_ADD), functions=[ADD["function"]], function_call={"name": "add"}
    )
    choice = response.json()["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "add", "arguments": '{"a": 1}'}
    assert asked[0].tool_choice == ToolChoice("required", "add", parallel=False)


async def test_a_conversation_with_calls_reaches_the_model_whole() -> None:
    call = {"id": "c9", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
    history = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
        },
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c9", "content": "3"},
    ]
    _, asked = await ask(play(ScriptedTurn("3")), messages=history)
    assert asked[0].messages == (
        Message("system", "Be brief."),
        Message("user", "add"),
        Message("assistant", tool_calls=(ToolCall("c9", "add", {"a": 2}),)),
        Message("tool", "3", call_id="c9", name="add"),
    )


async def test_choices_are_answered_at_the_same_time_and_the_prompt_counts_once() -> None:
    response, asked = await ask(play(ScriptedTurn("x")), n=3)
    body = response.json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (10, 15)
    assert len(asked) == 3


async def test_response_formats_constrain_the_answer() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    named = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema}}
    _, asked = await ask(play(ScriptedTurn("{}")), response_format=named)
    assert asked[0].output == OutputSchema(schema)
    _, asked = await ask(play(ScriptedTurn("{}")), response_format={"type": "json_object"})
    assert asked[0].output == OutputSchema({"type": "object"})


def says(part: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [part]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temprature": 1}, "temprature"),
        ({"temperature": 2.5}, "temperature"),
        ({"n": 0}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [says({"type": "text", "text": 5})]}, "messages[0].content[0].text"),
        ({"messages": [says({"type": "text"})]}, "messages[0].content[0].text"),
        ({"messages": [says({"type": "text", "text": "a", "b": 1})]}, "messages[0].content[0].b"),
        ({"stop": 5}, "stop"),
        ({"messages": [STRAY]}, "messages[0].tool_call_id"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs"),
        ({"prediction": {"type": "content"}}, "prediction.content"),
        ({"logit_bias": {"five": 3}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"5": 1, "05": 2}}, "logit_bias"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [ADD], "tool_choice": SUB}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"grammar": "root ::= \"a\"", "guided_regex": "a"}, "grammar"),
    ],
)  # fmt: skip
async def test_what_cannot_be_honoured_is_refused_by_its_name(
    fields: dict[str, Any], param: str
) -> None:
    for stream in (None,) if "stream_options" in fields else (False, True):
        response, asked = await ask(play(ScriptedTurn("x")), stream=stream, **fields)
        assert response.status_code == 400
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["param"]) == ("invalid_request_error", param)
        assert asked == []


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"{", b"null", b'{"a": NaN}', b"\xff", b"[" * 5000, b"1" * 5000),
        b'{"model": "\\ud800"}',
    ],
)
async def test_bodies_that_are_no_request_are_refused(body: bytes) -> None:
    async with open_app(scripted_models(play(ScriptedTurn("x")))) as app:
        response = await post(app, body)
    assert response.status_code == 400
    assert "error" in response.json()


async def test_an_unknown_model_is_not_found_and_the_known_one_is_described() -> None:
    async with open_app(scripted_models(play(ScriptedTurn("x")))) as app:
        missing = await post(app, {**HELLO, "model": "scriptd"})
        listed = await app.request("GET", "/v1/models", {"host": "127.0.0.1"})
        shown = await app.request("GET", "/v1/models/scripted", {"host": "127.0.0.1"})
        unshown = await app.request("GET", "/v1/models/a/b", {"host": "127.0.0.1"})
    assert missing.status_code == unshown.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"
    assert "did you mean 'scripted'" in missing.json()["error"]["message"]
    assert listed.json() == {"object": "list", "data": [shown.json()]}
    assert shown.json()["id"] == "scripted"


async def test_thoughts_are_counted_among_the_tokens_of_all_answers() -> None:
    thought = "I add two and two. "
    turn = play(ScriptedTurn("4", reasoning=thought))
    whole, _ = await ask(turn, n=2)
    streamed, _ = await ask(turn, n=2, stream=True, stream_options={"include_usage": True})
    usage = whole.json()["usage"]
    num_tokens = len(tiny_tokenizer().encode(thought))
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 2 * num_tokens > 0
    assert chunks_of(streamed)[-1]["usage"] == usage


async def test_a_model_is_known_by_the_names_that_it_is_served_under() -> None:
    served = ("gpt-x", "gpt-y")
    async with open_app(scripted_models(play(*3 * [TURN])), served_names=served) as app:
        answers = [await post(app, {**HELLO, "model": name}) for name in (*served, "scripted")]
        missing = await post(app, {**HELLO, "model": "gpt-z"})
        listed = (await app.request("GET", "/v1/models", {"host": "127.0.0.1"})).json()
        shown = await app.request("GET", "/v1/models/gpt-y", {"host": "127.0.0.1"})
    assert [one.json()["model"] for one in answers] == [*served, "scripted"]
    assert [one["id"] for one in listed["data"]] == [*served]
    assert shown.json()["id"] == "gpt-y"
    assert "did you mean 'gpt-y' or 'gpt-x'" in missing.json()["error"]["message"]


@pytest.mark.parametrize("headers", [{}, {"anthropic-version": "2023-06-01"}])
async def test_any_name_means_the_default_model_where_that_is_wanted(
    headers: dict[str, str],
) -> None:
    async with open_app(scripted_models(play(TURN)), any_name=True) as app:
        answer = await post(app, {**HELLO, "model": "gpt-x"})
        shown = await app.request("GET", "/v1/models/gpt-x", {"host": "127.0.0.1", **headers})
        listed = (await app.request("GET", "/v1/models", {"host": "127.0.0.1"})).json()
    assert answer.json()["model"] == shown.json()["id"] == "gpt-x"
    assert [one["id"] for one in listed["data"]] == ["scripted"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_that_fails_is_an_error_of_the_server(stream: bool) -> None:
    failing = ScriptedTurn(error="the matcher gave up", finish_reason="error")
    response, _ = await ask(play(failing), stream=stream)
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "the matcher gave up"
    crash, _ = await ask(play(ScriptedTurn(raises=ValueError("0x7fff secret"))), stream=stream)
    assert crash.status_code == 500
    assert "secret" not in crash.text


async def test_an_error_after_the_first_chunk_is_the_last_event() -> None:
    turn = ScriptedTurn("some words", raises=RuntimeError("secret"))
    response, _ = await ask(play(turn), stream=True)
    assert response.status_code == 200
    last = response.text.removesuffix("\n\n").split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
    assert "secret" not in response.text


async def test_a_full_queue_refuses_with_a_hint_when_to_come_back() -> None:
    limits = AdmissionLimits(max_running=1, max_waiting=0)
    models = scripted_models(play(ScriptedTurn("x", hangs=True)))
    async with open_app(models, limits=limits) as app, anyio.create_task_group() as group:
        group.start_soon(post, app, HELLO)
        while not models.model.num_open:
            await anyio.lowlevel.checkpoint()
        refused = await post(app, HELLO)
        group.cancel_scope.cancel()
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_its_turn(stream: bool) -> None:
    models: ScriptedModels = scripted_models(play(ScriptedTurn("some words", hangs=True)))
    async with open_app(models) as app, on_port(app) as url:
        async with httpx2.AsyncClient(base_url=url.removesuffix("/mcp"), timeout=20) as client:
            body = {**HELLO, "stream": stream}
            if stream:
                async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                    async for _ in response.aiter_lines():
                        break
            else:
                with anyio.move_on_after(5):
                    async with anyio.create_task_group() as group:
                        group.start_soon(_post, client, body)
                        while not models.model.num_open:
                            await anyio.lowlevel.checkpoint()
                        group.cancel_scope.cancel()
        with anyio.fail_after(10):
            while models.model.num_open:
                await anyio.lowlevel.checkpoint()
    assert len(models.model.asked) == 1


async def _post(client: httpx2.AsyncClient, body: Mapping[str, Any]) -> None:
    await client.post("/v1/chat/completions", json=body)
