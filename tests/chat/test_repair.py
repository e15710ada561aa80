"""Tests of calls and answers that the grammar let pass and their schema refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.chat.messages import OutputSchema, ToolCall, ToolCallDelta, ToolChoice
from runtime.chat.model import ChatModel
from runtime.chat.wire_formats.families import WIRE_FORMATS
from runtime.chat.wire_formats.format import WireFormat
from runtime.chat.wire_formats.gemma import GEMMA3
from runtime.chat.wire_formats.hermes import HERMES
from runtime.chat.wire_formats.render import write_calls
from runtime.request import GenerateRequest, SamplingParams
from tests.chat.test_model import turn
from tests.helpers.scripted_engine import ScriptedEngine
from tests.helpers.wire_models import format_named, spell, tokenizer_of
from tools.spec import ToolSpec

pytestmark = pytest.mark.anyio

PICK = ToolSpec(
    "pick",
    "",
    {
        "type": "object",
        "properties": {
            "n": {"type": "integer"},
            "word": {"type": "string", "not": {"const": "bad"}},
            "more": {"type": "array", "items": {"type": "integer"}, "contains": {"const": 7}},
        },
        "required": ["n"],
    },
)


def call_of(wire_format: WireFormat, arguments: dict[str, Any]) -> str:
    return write_calls(wire_format, [ToolCall("000000000", "pick", arguments)])


def saying(*attempts: str, name: str = "hermes") -> tuple[ChatModel, ScriptedEngine]:
    """A model that goes on with the next of the attempts where it is made to go on."""
    tokenizer = tokenizer_of(name)
    engine = ScriptedEngine(tokenizer)

    def script(request: GenerateRequest) -> str:
        said = attempts[min(len(engine.requests), len(attempts)) - 1]
        prompt = len(engine.requests[0].token_ids)
        return said.removeprefix(spell(tokenizer, request.token_ids[prompt:]))

    engine.script = script
    model = ChatModel("tiny", tokenizer, engine, context_length=4096)
    assert model.wire_format.name == name
    return model, engine


GOOD = {"n": 1, "word": "good", "more": [7]}
ATTEMPTS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"n": 1, "word": "bad", "more": [7]}, GOOD, "a value that is forbidden"),
    ({"n": 1, "word": "good", "more": [3, 4]}, {**GOOD, "more": [3, 4, 7]}, "a missing item"),
]


@pytest.mark.parametrize(("first", "second", "problem"), ATTEMPTS, ids=lambda one: str(one)[:30])
async def test_call_goes_on_from_the_value_at_fault(
    first: dict[str, Any], second: dict[str, Any], problem: str
) -> None:
    model, engine = saying(call_of(HERMES, first), call_of(HERMES, second))
    events, end = await turn(model, tools=[PICK], tool_choice=ToolChoice("required"))
    assert [call.arguments for call in end.message.tool_calls] == [second]
    assert (end.finish_reason, end.error) == ("tool_calls", None)
    deltas = [event for event in events if isinstance(event, ToolCallDelta)]
    assert [delta.name for delta in deltas] == ["pick", None]
    assert json.loads(deltas[1].arguments) == second
    prompt, again = (request.token_ids for request in engine.requests)
    assert again[: len(prompt)] == prompt
    assert len(again) > len(prompt) + 5
    assert end.usage.prompt_tokens == len(prompt)
    assert end.usage.completion_tokens == len(end.message.token_ids) + 1


@pytest.mark.parametrize("name", [wire.name for wire in WIRE_FORMATS if wire is not GEMMA3])
async def test_every_format_is_mended(name: str) -> None:
    # Gemma 3 writes calls as Llama 3 does.
    wire_format = format_named(name)
    first = {"n": 1, "word": "bad", "more": [7]}
    # What is kept may end after the name of the argument, or before all of them.
    model, engine = saying(call_of(wire_format, first), call_of(wire_format, GOOD), name=name)
    _, end = await turn(model, tools=[PICK], tool_choice=ToolChoice("required"))
    assert [call.arguments for call in end.message.tool_calls] == [GOOD]
    assert end.finish_reason == "tool_calls"
    assert len(engine.requests) == 2


async def test_call_that_stays_wrong_is_rejected_after_two_repairs() -> None:
    wrong = [{**GOOD, "more": [number]} for number in (1, 2, 3)]
    model, engine = saying(*(call_of(HERMES, one) for one in wrong))
    events, end = await turn(model, tools=[PICK], tool_choice=ToolChoice("required"))
    assert len(engine.requests) == 3
    assert (end.finish_reason, end.message.tool_calls) == ("error", ())
    assert end.rejected is not None
    assert (end.rejected.name, end.rejected.arguments) == ("pick", wrong[2])
    assert end.error == (
        "the call of 'pick' does not fit its schema: $.more: [3] does not contain items matching"
        " the given schema"
    )
    assert [event for event in events if isinstance(event, ToolCallDelta) and event.arguments] == []
    assert end.message.token_ids == ()


async def test_what_was_refused_is_not_said_again() -> None:
    bad = call_of(HERMES, {"n": 1, "word": "bad", "more": [7]})
    model, engine = saying(bad)  # it would say the same again and again
    _, end = await turn(model, tools=[PICK], tool_choice=ToolChoice("required"))
    assert len(engine.requests) == 2
    assert end.finish_reason == "error"
    assert end.error is not None
    assert "is illegal" in end.error


async def test_answer_is_mended_like_a_call() -> None:
    schema = {"type": "object", "properties": {"n": {"not": {"const": 3}}}, "required": ["n"]}
    model, engine = saying('{"n":3}', '{"n":4}')
    _, end = await turn(model, output=OutputSchema(schema))
    assert (end.message.content, end.finish_reason) == ('{"n":4}', "stop")
    never = {"allOf": [schema, {"not": {"required": ["n"]}}]}
    model, engine = saying('{"n":3}', '{"n":33}', '{"n":"x"}')
    _, end = await turn(model, output=OutputSchema(never))
    assert len(engine.requests) == 3
    assert (end.finish_reason, end.rejected) == ("error", None)
    assert end.error is not None
    assert end.error.startswith("the answer does not fit its schema: $: ")


async def test_call_that_too_few_tokens_are_left_to_mend_is_rejected() -> None:
    other = "a text that takes many more tokens"
    schema = {"properties": {"word": {"enum": ["a", other], "not": {"const": "a"}}}}
    bad, good = (call_of(HERMES, {"word": word}) for word in ("a", other))
    num_tokens = len(tokenizer_of("hermes").encode(bad, parse_special=True))
    model, engine = saying(bad, good)
    _, end = await turn(
        model,
        tools=[ToolSpec("pick", "", {**schema, "required": ["word"]})],
        sampling=SamplingParams(max_tokens=num_tokens + 2),
        tool_choice=ToolChoice("required"),
    )
    assert len(engine.requests) == 2
    assert end.finish_reason == "error"
    assert end.rejected is not None
    assert end.rejected.arguments == {"word": "a"}
    assert end.error is not None
    assert end.error.startswith("the call of 'pick' does not fit its schema: $.word: 'a' should")


async def test_call_that_could_only_be_the_same_again_is_rejected() -> None:
    never = {"properties": {"n": {"enum": [1], "not": {"const": 1}}}, "required": ["n"]}
    model, engine = saying(call_of(HERMES, {"n": 1}))
    _, end = await turn(
        model, tools=[ToolSpec("pick", "", never)], tool_choice=ToolChoice("required")
    )
    assert len(engine.requests) == 1
    assert (end.finish_reason, end.message.tool_calls) == ("error", ())
    assert end.rejected is not None
    assert (end.rejected.name, end.rejected.arguments) == ("pick", {"n": 1})
    assert end.usage.completion_tokens > 5


async def test_lists_too_deep_to_be_checked_are_no_call() -> None:
    lists = {"$defs": {"l": {"type": "array", "items": {"$ref": "#/$defs/l"}}}}
    schema = {**lists, "properties": {"l": {"$ref": "#/$defs/l"}}, "required": ["l"]}
    said = call_of(HERMES, {"l": []}).replace("[]", "[" * 500 + "]" * 500)
    model, _ = saying(*(said.replace("[", f"[{'[], ' * n}", 1) for n in range(3)))
    _, end = await turn(
        model,
        tools=[ToolSpec("pick", "", schema)],
        sampling=SamplingParams(max_tokens=2000),
        tool_choice=ToolChoice("required"),
    )
    assert (end.finish_reason, end.message.tool_calls) == ("error", ())
    assert end.error == (
        "the call of 'pick' does not fit its schema: $: it nests too deep to be checked;"
        " use fewer levels"
    )
