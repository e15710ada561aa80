"""Custom tools in chat completions and responses: a text in, a text out, of the form asked for."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from runtime.chat.messages import Message, ToolCall, ToolCallDelta, ToolChoice, TurnEnd
from runtime.chat.model import ChatModel
from runtime.chat.wire_formats.families import WIRE_FORMATS
from runtime.chat.wire_formats.format import WireFormat
from runtime.chat.wire_formats.render import write_calls
from runtime.http_api.chat_shapes import InputGrammar
from runtime.http_api.custom_tools import InputReader, arguments_of, custom_tool, input_of
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import AskedTurn, ScriptedTurn, play
from tests.helpers.scripted_engine import ScriptedEngine, say
from tests.helpers.web_service import HEADERS, ServedApp, open_app
from tests.helpers.wire_models import tokenizer_of
from tests.http_api.test_chat import chunks_of
from tests.http_api.test_openapi import check_answer
from tests.http_api.test_responses import events_of
from tools.spec import JsonObject

pytestmark = pytest.mark.anyio

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
ASKED: dict[str, JsonObject] = {
    CHAT: {"messages": [{"role": "user", "content": "List the files."}]},
    RESPONSES: {"input": "List the files."},
}
CALLS = ScriptedTurn(calls=(ToolCall("call_1", "shell", {"input": 'ls "é"\n'}),))
BEGUN = ScriptedTurn(begun=("shell", '{"input": "ls \\u00e9\\n'), finish_reason="length")


def tool_of(path: str, syntax: str = "", definition: str = "") -> JsonObject:
    """The tool `shell` as a route takes it, with a grammar where one is given."""
    grammar = {"syntax": syntax, "definition": definition}
    if path == CHAT:
        form = {"type": "grammar", "grammar": grammar}
        custom = {
            "name": "shell",
            "description": "Runs it.",
            **({"format": form} if syntax else {}),
        }
        return {"type": "custom", "custom": custom}
    form = {"type": "grammar", **grammar}
    return {"type": "custom", "name": "shell", **({"format": form} if syntax else {})}


def choice_of(path: str) -> JsonObject:
    return {
        "type": "custom",
        **({"custom": {"name": "shell"}} if path == CHAT else {"name": "shell"}),
    }


async def post(app: ServedApp, path: str, **fields: Any) -> httpx2.Response:
    body = json.dumps({**ASKED[path], **fields}).encode()
    return await app.request("POST", path, HEADERS, body)


async def ask(
    turn: ScriptedTurn, path: str, **fields: Any
) -> tuple[httpx2.Response, list[AskedTurn]]:
    models = scripted_models(play(turn))
    async with open_app(models) as app:
        response = await post(app, path, model="scripted", tools=[tool_of(path)], **fields)
        document = (await app.request("GET", "/openapi.json", HEADERS)).json()
        check_answer(document, "post", path, response)
    return response, models.model.asked


async def test_a_call_in_a_completion_has_its_text() -> None:
    response, asked = await ask(CALLS, CHAT, tool_choice=choice_of(CHAT))
    choice = response.json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"] == [
        {"id": "call_1", "type": "custom", "custom": {"name": "shell", "input": 'ls "é"\n'}}
    ]
    assert asked[0].tools == ("shell",)
    assert asked[0].tool_choice == ToolChoice("required", "shell", parallel=False)


async def test_the_chunks_of_a_call_bear_its_text() -> None:
    response, _ = await ask(BEGUN, CHAT, stream=True)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks_of(response)]
    calls = [one for delta in deltas for one in delta.get("tool_calls", ())]
    assert calls[0].pop("id").startswith("call_")
    begun = {"index": 0, "type": "custom", "custom": {"name": "shell", "input": ""}}
    assert calls == [begun, {"index": 0, "custom": {"input": "ls é\n"}}]


async def test_a_call_is_an_item_of_a_response() -> None:
    response, asked = await ask(CALLS, RESPONSES, tool_choice=choice_of(RESPONSES))
    (item,) = response.json()["output"]
    assert item.pop("id").startswith("ctc_")
    assert item.pop("call_id").startswith("call_")
    call = {"type": "custom_tool_call", "name": "shell", "input": 'ls "é"\n'}
    assert item == {**call, "status": "completed"}
    assert asked[0].tool_choice == ToolChoice("required", "shell", parallel=False)
    (tool,) = response.json()["tools"]
    assert tool == {"type": "custom", "name": "shell", "format": {"type": "text"}}


async def test_events_tell_of_a_calls_text() -> None:
    response, _ = await ask(CALLS, RESPONSES, stream=True)
    events = [event for event in events_of(response) if "output_index" in event]
    item_id = events[0]["item"]["id"]
    assert [event["type"] for event in events] == [
        "response.output_item.added",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
        "response.output_item.done",
    ]
    added, delta, done, ended = events
    assert (added["item"]["input"], added["item"]["status"]) == ("", "in_progress")
    assert (delta["delta"], delta["item_id"]) == ('ls "é"\n', item_id)
    assert done == {
        "type": "response.custom_tool_call_input.done",
        "sequence_number": done["sequence_number"],
        "item_id": item_id,
        "output_index": 0,
        "input": 'ls "é"\n',
    }
    assert (ended["item"]["input"], ended["item"]["status"]) == ('ls "é"\n', "completed")


async def test_calls_and_their_results_reach_the_model_again() -> None:
    custom = {"name": "shell", "input": "ls"}
    answered, asked = await ask(
        ScriptedTurn("ok"),
        CHAT,
        messages=[
            *ASKED[CHAT]["messages"],
            {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": custom}]},
            {"role": "tool", "tool_call_id": "c", "content": "a.txt"},
        ],
    )
    assert answered.status_code == 200
    history = (
        Message("user", "List the files."),
        Message("assistant", tool_calls=(ToolCall("c", "shell", {"input": "ls"}),)),
        Message("tool", "a.txt", call_id="c", name="shell"),
    )
    assert asked[0].messages == history
    items: list[JsonObject] = [
        {"role": "user", "content": "List the files."},
        {"type": "custom_tool_call", "call_id": "c", **custom},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "a.txt"},
    ]
    answered, asked = await ask(ScriptedTurn("ok"), RESPONSES, input=items)
    assert answered.status_code == 200
    assert asked[0].messages == history


async def test_a_kept_response_goes_on_after_its_call() -> None:
    models = scripted_models(play(CALLS, ScriptedTurn("ok")))
    async with open_app(models) as app:
        tools = [tool_of(RESPONSES)]
        first = (await post(app, RESPONSES, tools=tools)).json()
        call_id = first["output"][0]["call_id"]
        output = {"type": "custom_tool_call_output", "call_id": call_id, "output": "a.txt"}
        before = {"previous_response_id": first["id"]}
        second = await post(app, RESPONSES, tools=tools, input=[output], **before)
        page = await app.request("GET", f"{RESPONSES}/{second.json()['id']}/input_items", HEADERS)
        document = (await app.request("GET", "/openapi.json", HEADERS)).json()
        check_answer(document, "get", "/v1/responses/{response_id}/input_items", page)
    assert [one.role for one in models.model.asked[1].messages] == ["user", "assistant", "tool"]
    assert models.model.asked[1].messages[1].tool_calls[0].arguments == {"input": 'ls "é"\n'}


@pytest.mark.parametrize(
    ("path", "syntax", "definition", "param"),
    [
        (CHAT, "lark", 'start: "a"', "tools[0].custom.format.grammar.syntax"),
        (CHAT, "regex", "(", "tools[0].custom.format.grammar.definition"),
        (CHAT, "regex", r"\p{L}+", "tools[0].custom.format.grammar.definition"),
        (CHAT, "regex", "(?i)ls", "tools[0].custom.format.grammar.definition"),
        (CHAT, "regex", "[a-z&&[^b]]", "tools[0].custom.format.grammar.definition"),
        (CHAT, "regex", "a(?=b)", "tools[0].custom.format.grammar.definition"),
        (CHAT, "regex", "a^b", "tools[0].custom.format.grammar.definition"),
        (CHAT, "gbnf", "a", "tools[0].custom.format.grammar.syntax"),
        (RESPONSES, "lark", 'start: "a"', "tools[0].format.syntax"),
        (RESPONSES, "regex", "(", "tools[0].format.definition"),
    ],
)
async def test_a_form_that_cannot_be_honoured_is_refused_by_its_name(
    path: str, syntax: str, definition: str, param: str
) -> None:
    models = scripted_models(play(ScriptedTurn("x")))
    async with open_app(models) as app:
        tools = [tool_of(path, syntax, definition)]
        response = await post(app, path, model="scripted", tools=tools)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert models.model.asked == []


@pytest.mark.parametrize("wire", WIRE_FORMATS, ids=lambda wire: wire.name)
@pytest.mark.parametrize("regex", [None, r'ls ("é"|[a-z]+)\n\\'])
async def test_every_way_of_writing_calls_carries_a_text(
    wire: WireFormat, regex: str | None
) -> None:
    text = 'ls "é"\n\\'
    grammar = None if regex is None else InputGrammar(syntax="regex", definition=regex)
    tool = custom_tool("shell", "", grammar, "tools")
    tokenizer = tokenizer_of(wire.name)
    said = write_calls(wire, [ToolCall("000000000", "shell", arguments_of(text))])
    model = ChatModel("tiny", tokenizer, ScriptedEngine(tokenizer, say(said)), context_length=4096)
    stream = model.stream([Message("user", "?")], tools=[tool], tool_choice=ToolChoice("required"))
    reader, read = InputReader(), ""
    async for event in stream:
        if isinstance(event, ToolCallDelta):
            read += reader.push(event.arguments)
        if isinstance(event, TurnEnd):
            assert [input_of(call.arguments) for call in event.message.tool_calls] == [text]
    assert read == text


TEXTS = ["", "ls", 'a"b\\c/d', "é\n\t\x00", "🙂", "}", '"}', "日本"]


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_text_is_read_from_json_in_any_pieces(text: str, ascii_only: bool, size: int) -> None:
    written = json.dumps({"input": text}, ensure_ascii=ascii_only)
    reader = InputReader()
    pieces = [reader.push(written[at : at + size]) for at in range(0, len(written), size)]
    assert "".join(pieces) == text
    for piece in pieces:
        piece.encode()
