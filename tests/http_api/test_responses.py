"""Responses over HTTP with a scripted model: items, events, what is kept, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anyio
import httpx2
import pytest

from runtime.chat.messages import Message, OutputSchema, ToolCall, ToolChoice
from runtime.http_api.responses import BEGIN_WITHIN_S
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import AskedTurn, Script, ScriptedTurn, play
from tests.helpers.virtual_time import VIRTUAL_TIME
from tests.helpers.web_service import ServedApp, open_app

pytestmark = pytest.mark.anyio

HELLO = {"model": "scripted", "input": "hello"}
USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 15,
}
ADD = {"type": "function", "name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}}
CALLS_ADD = ScriptedTurn(calls=(ToolCall("call_1", "add", {"a": 1}),))
ECHOED: dict[str, Any] = {
    "background": False,
    "completed_at": None,
    "conversation": None,
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "model": "scripted",
    "object": "response",
    "output": [],
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "status": "in_progress",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "usage": None,
    "user": None,
}


async def send(
    app: ServedApp, method: str, path: str, body: object = None, key: str | None = None
) -> httpx2.Response:
    headers = {"host": "127.0.0.1", "content-type": "application/json"}
    headers |= {"authorization": f"Bearer {key}"} if key else {}
    content = b"" if body is None else json.dumps(body).encode()
    return await app.request(method, path, headers, content)


async def create(app: ServedApp, key: str | None = None, **fields: Any) -> httpx2.Response:
    return await send(app, "POST", "/v1/responses", {**HELLO, **fields}, key)


async def ask(script: Script, **fields: Any) -> tuple[httpx2.Response, list[AskedTurn]]:
    models = scripted_models(script)
    async with open_app(models) as app:
        response = await create(app, **fields)
    return response, models.model.asked


def events_of(response: httpx2.Response) -> list[dict[str, Any]]:
    """The events of a stream, which are named, numbered from 0 and end once."""
    assert response.headers["content-type"].startswith("text/event-stream")
    frames = response.text.removesuffix("\n\n").split("\n\n")
    assert frames.pop() == "data: [DONE]"
    events: list[dict[str, Any]] = []
    for frame in frames:
        name, data = frame.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    ends = {"response.completed", "response.incomplete", "response.failed"}
    assert [event["type"] in ends for event in events] == [*[False] * (len(events) - 1), True]
    return events


def plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """A response without what differs from one to the next."""
    kept = {name: value[name] for name in value if name not in {"id", "created_at", "completed_at"}}
    kept["output"] = [
        {name: item[name] for name in item if name not in {"id", "call_id"}}
        for item in value["output"]
    ]
    return kept


def message_item(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "role": "assistant", "status": "completed", "content": [part]}


async def test_a_response_has_every_field_that_clients_read() -> None:
    response, asked = await ask(play(ScriptedTurn("Hi there.")), max_output_tokens=16)
    body = response.json()
    assert body["id"].startswith("resp_")
    assert body["output"][0]["id"].startswith("msg_")
    assert body["completed_at"] >= body["created_at"] > 0
    expected = {**ECHOED, "created_at": 1, "id": "", "status": "completed", "usage": USAGE}
    expected |= {"output": [message_item("Hi there.")], "max_output_tokens": 16}
    assert plain(body) == plain(expected)
    assert response.headers["x-request-id"].startswith("req_")
    assert asked[0].messages == (Message("user", "hello"),)
    assert asked[0].max_tokens == 16


async def test_a_stream_tells_every_step_and_ends_with_the_whole_response() -> None:
    script = play(ScriptedTurn("one two three"))
    response, _ = await ask(script, stream=True)
    events = events_of(response)
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert plain(events[0]["response"]) == plain(ECHOED | {"id": "", "created_at": 1})
    item_id = events[2]["item"]["id"]
    place = {"item_id": item_id, "output_index": 0, "content_index": 0}
    assert events[4] == {
        "type": "response.output_text.delta",
        "sequence_number": 4,
        "delta": "one ",
        "logprobs": [],
        **place,
    }
    assert events[7] == {
        "type": "response.output_text.done",
        "sequence_number": 7,
        "text": "one two three",
        "logprobs": [],
        **place,
    }
    assert events[9]["item"] == {"id": item_id, **message_item("one two three")}
    whole, _ = await ask(script)
    assert plain(events[-1]["response"]) == plain(whole.json())


async def test_calls_of_functions_are_items_and_their_outputs_go_back() -> None:
    response, asked = await ask(play(CALLS_ADD), tools=[ADD], tool_choice="required", stream=True)
    events = events_of(response)
    assert [event["type"].removeprefix("response.") for event in events[2:]] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    call = events[-1]["response"]["output"][0]
    assert call["call_id"].startswith("call_")
    assert events[4]["arguments"] == call["arguments"] == '{"a": 1}'
    assert events[-1]["response"]["tools"] == [{**ADD, "description": None, "strict": True}]
    assert asked[0].tool_choice == ToolChoice("required")
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "2"}
    user = {"role": "user", "content": [{"type": "input_text", "text": "add"}]}
    _, asked = await ask(play(ScriptedTurn("2")), tools=[ADD], input=[user, call, output])
    assert asked[0].messages == (
        Message("user", "add"),
        Message("assistant", tool_calls=(ToolCall(call["call_id"], "add", {"a": 1}),)),
        Message("tool", "2", call_id=call["call_id"], name="add"),
    )


async def test_functions_of_a_namespace_are_called_by_their_name_in_it() -> None:
    agents = {"type": "namespace", "name": "agents", "description": "Others.", "tools": [ADD]}
    stored = {"type": "web_search", "external_web_access": True}  # nobody makes use of it
    made = ScriptedTurn(calls=(ToolCall("call_1", "agents__add", {"a": 1}),))
    response, asked = await ask(play(made), tools=[agents, ADD, stored])
    (call,) = response.json()["output"]
    assert (call["namespace"], call["name"]) == ("agents", "add")
    assert asked[0].tools == ("agents__add", "add")
    assert [tool["type"] for tool in response.json()["tools"]] == ["namespace", "function"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "2"}
    _, asked = await ask(play(ScriptedTurn("2")), tools=[agents], input=[call, output])
    assert asked[0].messages[0].tool_calls[0].name == "agents__add"
    assert asked[0].messages[1].name == "agents__add"


async def test_thoughts_are_items_as_they_are_or_as_summaries() -> None:
    turn = ScriptedTurn("Four.", reasoning="Two and two.")
    response, asked = await ask(play(turn), stream=True, reasoning={"effort": "low"})
    types = [event["type"].removeprefix("response.") for event in events_of(response)]
    assert types[2:7] == [
        "output_item.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
    ]
    assert asked[0].thinks is True
    options = {"reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"]}
    response, _ = await ask(play(turn), stream=True, **options)
    events = events_of(response)
    assert [event["type"].removeprefix("response.") for event in events[2:10]] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]
    thought, said = events[-1]["response"]["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "Two and two."}]
    usage = events[-1]["response"]["usage"]
    assert usage["output_tokens_details"] == {"reasoning_tokens": len("Two and two.")}
    for kept in (thought, {**thought, "summary": []}):
        again = [{"role": "user", "content": "2+2"}, kept, said, {"role": "user", "content": "?"}]
        _, asked = await ask(play(turn), input=again)
        assert asked[0].messages[1] == Message("assistant", "Four.", reasoning="Two and two.")
        _, asked = await ask(play(turn), input=again, reasoning={"context": "current_turn"})
        assert asked[0].messages[1] == Message("assistant", "Four.")


async def test_instructions_and_what_stands_at_the_top_are_one_message() -> None:
    developer = {"type": "message", "role": "developer", "content": "Be brief."}
    user = {"role": "user", "content": "hello"}
    _, asked = await ask(play(ScriptedTurn("x")), instructions="You help.", input=[developer, user])
    assert asked[0].messages == (
        Message("system", "You help.\n\nBe brief."),
        Message("user", "hello"),
    )
    _, asked = await ask(play(ScriptedTurn("x")), input=[])
    assert asked[0].messages == (Message("user"),)


async def test_text_formats_constrain_the_answer_and_are_repeated() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    form = {"type": "json_schema", "name": "number", "schema": schema}
    response, asked = await ask(play(ScriptedTurn("{}")), text={"format": form})
    assert asked[0].output == OutputSchema(schema)
    assert response.json()["text"] == {"format": form}
    _, asked = await ask(play(ScriptedTurn("{}")), text={"format": {"type": "json_object"}})
    assert asked[0].output == OutputSchema({"type": "object"})


async def test_an_answer_that_was_cut_is_incomplete() -> None:
    response, _ = await ask(play(ScriptedTurn("one two", finish_reason="length")), stream=True)
    events = events_of(response)
    body = events[-1]["response"]
    assert (events[-1]["type"], body["status"]) == ("response.incomplete", "incomplete")
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["output"][0]["status"] == "incomplete"
    assert body["usage"] == USAGE


async def test_a_call_that_was_cut_is_no_call_and_the_conversation_goes_on() -> None:
    cut = ScriptedTurn(begun=("add", '{"a": '), finish_reason="length")
    models = scripted_models(play(cut, ScriptedTurn("Hm.")))
    async with open_app(models) as app:
        first = (await create(app, tools=[ADD])).json()
        second = (await create(app, input="again", previous_response_id=first["id"])).json()
    (call,) = first["output"]
    assert (call["status"], call["arguments"]) == ("incomplete", '{"a": ')
    assert second["status"] == "completed"
    assert models.model.asked[1].messages == (Message("user", "hello"), Message("user", "again"))


async def test_obfuscation_fills_deltas_up_where_it_is_asked_for() -> None:
    options = {"stream": True, "stream_options": {"include_obfuscation": True}}
    response, _ = await ask(play(ScriptedTurn("one two")), **options)
    deltas = [event for event in events_of(response) if event["type"].endswith(".delta")]
    assert [len(event["delta"] + event["obfuscation"]) for event in deltas] == [16, 16]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temprature": 1}, "temprature"),
        ({"temperature": 2.5}, "temperature"),
        ({"max_output_tokens": 15}, "max_output_tokens"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "computer_call"}]}, "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0]",
        ),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "1"}]}, "input"),
        (
            {"input": [{"type": "function_call", "call_id": "x", "name": "f", "arguments": "{}"}]},
            "input",
        ),
        ({"input": [{"type": "mcp_approval_response", "approval_request_id": "x",
                     "approve": True}]}, "input"),
        ({"stream_options": {}, "stream": None}, "stream_options"),
        ({"background": True, "store": False}, "background"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"include": ["nothing"]}, "include[0]"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"context_management": [{"type": "truncation"}]}, "context_management[0].type"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"reasoning": {"summary": "concise"}}, "reasoning.summary"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"tools": [{"type": "file_search"}]}, "tools[0]"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [{**ADD, "async": True}]}, "tools[0].async"),
        ({"tools": [{"type": "mcp", "server_label": "none"}]}, "tools[0].server_label"),
        ({"tools": [{"type": "mcp", "server_label": "x", "server_url": "http://169.254.169.254/"}]},
         "tools[0].server_url"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [ADD], "tool_choice": {"type": "function", "name": "sub"}}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"conversation": "c", "previous_response_id": "r"}, "previous_response_id"),
    ],
)  # fmt: skip
async def test_what_cannot_be_honoured_is_refused_by_its_name(
    fields: dict[str, Any], param: str
) -> None:
    for stream in (False, True):
        response, asked = await ask(play(ScriptedTurn("x")), **{"stream": stream, **fields})
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["param"]) == ("invalid_request_error", param)
        assert asked == []


async def test_what_fails_before_the_model_speaks_is_an_error_and_in_a_stream_its_end() -> None:
    failing = play(ScriptedTurn(raises=ValueError("secret")))
    response, _ = await ask(failing)
    streamed, _ = await ask(failing, stream=True)
    assert response.status_code == 500
    events = events_of(streamed)
    types = ["response.created", "response.in_progress", "response.failed"]
    assert [event["type"] for event in events] == types
    assert events[-1]["response"]["error"]["code"] == "server_error"
    assert "secret" not in response.text + streamed.text


@pytest.mark.parametrize("stream", [False, True])
async def test_what_fails_later_is_the_end(stream: bool) -> None:
    failing = play(ScriptedTurn("some words", raises=RuntimeError("secret")))
    response, _ = await ask(failing, stream=stream)
    assert response.status_code == 200
    assert "secret" not in response.text
    body = events_of(response)[-1]["response"] if stream else response.json()
    assert (body["status"], body["error"]["code"]) == ("failed", "server_error")
    assert body["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize("anyio_backend", [VIRTUAL_TIME])
async def test_a_stream_begins_before_the_model_speaks(anyio_backend: object) -> None:
    models = scripted_models(play(ScriptedTurn(raises=ValueError("secret"))))
    models.loaded = anyio.Event()
    found: list[httpx2.Response] = []

    async def stream(app: ServedApp) -> None:
        found.append(await create(app, stream=True))

    async with open_app(models) as app, anyio.create_task_group() as group:
        group.start_soon(stream, app)
        await anyio.sleep(BEGIN_WITHIN_S + 1)  # of a clock that jumps
        models.loaded.set()
    types = [event["type"] for event in events_of(found[0])]
    assert types == ["response.created", "response.in_progress", "response.failed"]


async def test_input_is_counted_as_a_response_would_read_it() -> None:
    async with open_app(scripted_models(play(ScriptedTurn("x")))) as app:
        path = "/v1/responses/input_tokens"
        counted = await send(app, "POST", path, {**HELLO, "tools": [ADD]})
        nothing = await send(app, "POST", path, {})
    assert counted.json() == {"object": "response.input_tokens", "input_tokens": 15}
    assert nothing.json()["input_tokens"] == 0


async def test_a_conversation_is_made_short_and_goes_on_from_its_summary() -> None:
    models = scripted_models(play(ScriptedTurn("one"), ScriptedTurn("He said hello.")))
    async with open_app(models) as app:
        first = (await create(app)).json()
        body = {"model": "scripted", "previous_response_id": first["id"]}
        short = (await send(app, "POST", "/v1/responses/compact", body)).json()
        foreign = {"type": "compaction", "encrypted_content": "§"}
        refused = await create(app, input=[foreign])
        await create(app, input=[*short["output"], {"role": "user", "content": "?"}])
        nothing = await send(app, "POST", "/v1/responses/compact", {"model": "scripted"})
    assert short["object"] == "response.compaction"
    assert [item["type"] for item in short["output"]] == ["message", "compaction"]
    assert short["usage"] == USAGE
    assert refused.json()["error"]["param"] == "input"
    asked, after = models.model.asked[1:]
    assert [one.role for one in asked.messages] == ["user", "assistant", "user"]
    assert [one.content for one in after.messages] == [
        "hello",
        "Summary of our conversation so far:\nHe said hello.",
        "?",
    ]
    assert nothing.json()["usage"]["total_tokens"] == 0


async def test_a_conversation_is_compacted_once_it_is_longer_than_the_client_allows() -> None:
    turns = [ScriptedTurn("b" * 1000), ScriptedTurn("Much was said."), ScriptedTurn("c")]
    models = scripted_models(play(*turns))
    compaction = {"type": "compaction", "compact_threshold": 1000}
    limit: dict[str, Any] = {"context_management": [compaction]}
    summary = "Summary of our conversation so far:\nMuch was said."
    async with open_app(models) as app:
        first = (await create(app, input="a", **limit)).json()
        events = events_of(
            await create(app, input="?", previous_response_id=first["id"], stream=True, **limit)
        )
        second = events[-1]["response"]
        await create(app, input="!", previous_response_id=second["id"], **limit)
    assert [item["type"] for item in first["output"]] == ["message"]
    assert [item["type"] for item in second["output"]] == ["compaction", "message"]
    assert second["usage"]["output_tokens"] == 10
    _, summarising, spoken, later = models.model.asked
    assert [one.role for one in summarising.messages] == ["user", "assistant", "user", "user"]
    assert [one.content for one in spoken.messages] == ["a", summary, "?"]
    assert [one.content for one in later.messages] == ["a", summary, "?", "c", "!"]


async def test_truncation_drops_what_is_oldest_and_keeps_instructions() -> None:
    models = scripted_models(play(ScriptedTurn("x")))
    models.model.context_length = 100
    turns = [{"role": "user", "content": f"{number}" * 30} for number in range(5)]
    async with open_app(models) as app:
        fields: dict[str, Any] = {"input": turns, "instructions": "Be.", "max_output_tokens": 16}
        await create(app, truncation="auto", **fields)
        refused = await create(app, **fields)
    (asked,) = models.model.asked
    assert [one.content for one in asked.messages] == ["Be.", "3" * 30, "4" * 30]
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
