"""Tests of a chat model over the scripted engine."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from runtime.chat.messages import (
    AUTO,
    ChatEvent,
    Message,
    OutputSchema,
    TextDelta,
    ToolCallDelta,
    ToolChoice,
    TurnEnd,
    TurnStart,
)
from runtime.chat.model import ChatModel
from runtime.errors import GenerationError, PromptTooLongError, UnsupportedSchemaError
from runtime.grammar.compile import GrammarSource
from runtime.request import GenerateRequest, SamplingParams
from runtime.tokenizer.tokenizer import Tokenizer
from tests.helpers.hostile_schemas import HOSTILE
from tests.helpers.scripted_engine import ScriptedEngine, say
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tools.errors import InvalidRequestError, UnknownToolError
from tools.spec import ToolSpec

pytestmark = pytest.mark.anyio

AS_BYTES = tiny_tokenizer()
AS_TOKENS = tiny_tokenizer("<tool_call>", "</tool_call>")
USER = Message("user", "What time is it?")
ROOMY = SamplingParams(max_tokens=200)
NOW = ToolSpec("now", "Tells the time.", {"type": "object"})
ADD = ToolSpec(
    "add",
    "Adds.",
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
)
CALL_NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
CALL_ADD = '<tool_call>\n{"name": "add", "arguments": {"a":12}}\n</tool_call>'


def model_of(*said: str, tokenizer: Tokenizer = AS_BYTES, **options: Any) -> ChatModel:
    engine = ScriptedEngine(tokenizer, say(*said), **options)
    return ChatModel("tiny", tokenizer, engine, context_length=4096)


def engine_of(model: ChatModel) -> ScriptedEngine:
    engine = model._engine
    assert isinstance(engine, ScriptedEngine)
    return engine


async def turn(
    model: ChatModel, messages: Sequence[Message] = (USER,), **options: Any
) -> tuple[list[ChatEvent], TurnEnd]:
    options = {"sampling": ROOMY} | options
    with anyio.fail_after(10):
        *events, end = [event async for event in model.stream(messages, **options)]
    assert isinstance(end, TurnEnd)
    return events, end


def text_of(events: list[ChatEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_plain_chat_streams_text_unconstrained() -> None:
    model = model_of("It is naïve.")
    events, end = await turn(model)
    assert len(events) > 3
    assert text_of(events) == end.message.content == "It is naïve."
    assert end.finish_reason == "stop"
    assert end.message == Message(
        "assistant", "It is naïve.", token_ids=tuple(AS_BYTES.encode("It is naïve."))
    )
    assert end.usage.forced_tokens == 0


@pytest.mark.parametrize("tokenizer", [AS_BYTES, AS_TOKENS], ids=["bytes", "tokens"])
@pytest.mark.parametrize("chunk_size", [1, 3, 1000])
async def test_calls_arrive_as_deltas_and_complete(tokenizer: Tokenizer, chunk_size: int) -> None:
    said = f"Well.\n{CALL_ADD}\n{CALL_NOW}"
    model = model_of(said, tokenizer=tokenizer, chunk_size=chunk_size)
    events, end = await turn(model, tools=[ADD, NOW])
    assert end.finish_reason == "tool_calls"
    assert [(call.name, call.arguments) for call in end.message.tool_calls] == [
        ("add", {"a": 12}),
        ("now", {}),
    ]
    assert len({call.call_id for call in end.message.tool_calls}) == 2
    assert text_of(events) == end.message.content == "Well.\n"
    deltas = [event for event in events if isinstance(event, ToolCallDelta)]
    assert [delta.name for delta in deltas if delta.name] == ["add", "now"]
    for index, arguments in enumerate(['{"a":12}', "{}"]):
        assert "".join(d.arguments for d in deltas if d.index == index) == arguments
    assert (end.usage.forced_tokens > 0) == (chunk_size < 1000)
    assert tokenizer.encode(said, parse_special=True) == list(end.message.token_ids)


async def test_every_choice_reaches_the_grammar() -> None:
    for choice, said, reason in (
        (AUTO, "Noon.", "stop"),
        (ToolChoice("none"), "Noon.", "stop"),
        (ToolChoice("none"), CALL_NOW, "error"),
        (ToolChoice("required"), "Noon.", "error"),
        (ToolChoice("required"), CALL_NOW, "tool_calls"),
        (ToolChoice(name="add"), CALL_ADD, "tool_calls"),
    ):
        _, end = await turn(model_of(said), tools=[NOW, ADD], tool_choice=choice)
        assert end.finish_reason == reason
        assert (end.error is not None) == (reason == "error")


async def test_admitted_tools_can_be_called_and_leave_the_prompt_as_it_is() -> None:
    prompts = []
    for admitted, said, reason in (((), "Noon.", "stop"), ((ADD,), CALL_ADD, "tool_calls")):
        model = model_of(said)
        _, end = await turn(model, tools=[NOW], admitted=admitted)
        assert end.finish_reason == reason
        assert [call.arguments for call in end.message.tool_calls] == [{"a": 12}] * len(admitted)
        prompts.append(engine_of(model).requests[0].token_ids)
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize(
    "choice", [ToolChoice(name="add"), ToolChoice("required", allowed=("add",))], ids=str
)
async def test_choice_may_name_an_admitted_tool(choice: ToolChoice) -> None:
    model = model_of(CALL_ADD)
    _, end = await turn(model, tools=[NOW], admitted=[ADD], tool_choice=choice)
    assert [call.name for call in end.message.tool_calls] == ["add"]


async def test_calls_are_whole_at_every_limit() -> None:
    text = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    say = ToolSpec("say", "", text)
    script = '<tool_call>\n{"name": "say", "arguments": {"text":"' + "abc " * 99
    shortest = len(
        AS_BYTES.encode('<tool_call>\n{"name": "say", "arguments": {"text":""}}\n</tool_call>')
    )
    for max_tokens in range(shortest, shortest + 20):
        sampling = SamplingParams(max_tokens=max_tokens)
        _, end = await turn(model_of(script), tools=[say], sampling=sampling)
        (call,) = end.message.tool_calls
        assert end.finish_reason == "tool_calls"
        assert call.arguments["text"] in "abc " * 99
        assert end.usage.completion_tokens <= max_tokens
    required: dict[str, Any] = {"tools": [say], "tool_choice": ToolChoice("required")}
    with pytest.raises(InvalidRequestError, match=f"takes {shortest} tokens, but 9 are allowed"):
        await turn(model_of(script), **required, sampling=SamplingParams(max_tokens=9))


async def test_call_that_does_not_fit_any_more_is_not_begun() -> None:
    sampling = SamplingParams(max_tokens=len(AS_BYTES.encode(f"Hi {CALL_NOW}\n{CALL_ADD}")) - 5)
    events, end = await turn(
        model_of(f"Hi {CALL_NOW}\n{CALL_ADD}"), tools=[NOW, ADD], sampling=sampling
    )
    assert [call.name for call in end.message.tool_calls] == ["now"]
    assert end.finish_reason == "tool_calls"
    assert not any(isinstance(event, ToolCallDelta) and event.name == "add" for event in events)
    model = model_of(f"Hi {CALL_ADD}", tokenizer=AS_TOKENS)
    _, end = await turn(model, tools=[ADD], sampling=SamplingParams(max_tokens=12))
    assert (end.message.content, end.finish_reason) == ("Hi ", "length")


async def test_text_cut_by_the_limit_keeps_its_tokens_and_one_cut_by_a_stop_string_does_not() -> (
    None
):
    _, end = await turn(model_of("abcdef"), sampling=SamplingParams(max_tokens=3))
    assert (end.finish_reason, end.message.content) == ("length", "abc")
    assert AS_BYTES.decode(end.message.token_ids) == "abc"
    _, end = await turn(model_of("abcdef"), sampling=SamplingParams(max_tokens=9, stop=("cd",)))
    assert (end.finish_reason, end.message.content) == ("stop", "ab")
    assert end.stopped_by == "cd"
    assert end.message.token_ids == ()


async def test_call_that_cannot_be_read_ends_the_turn_with_an_error() -> None:
    free = ToolSpec("now", "", {"type": "object", "additionalProperties": True})
    deep = CALL_NOW.replace("{}", '{"a":' + "[" * 1100 + "]" * 1100 + "}")
    _, end = await turn(model_of(deep), tools=[free], sampling=SamplingParams(max_tokens=9999))
    assert (end.finish_reason, end.message.tool_calls) == ("error", ())
    assert end.error == "the arguments of 'now' nest too deep to be read"


async def test_stop_string_cuts_visible_text_with_tools_too() -> None:
    sampling = SamplingParams(max_tokens=99, stop=("STOP",))
    events, end = await turn(
        model_of("ab ST cd STOP ef", tokenizer=AS_TOKENS), tools=[NOW], sampling=sampling
    )
    assert text_of(events) == end.message.content == "ab ST cd "
    assert end.finish_reason == "stop"


async def test_next_turn_extends_the_tokens_of_the_last_and_keeps_the_lease() -> None:
    model = model_of(CALL_NOW, "Noon.")
    _, first = await turn(model, tools=[NOW], conversation="run-1", lease_s=9.0)
    call = first.message.tool_calls[0]
    result = Message("tool", "12:00", call_id=call.call_id, name=call.name)
    _, end = await turn(model, [USER, first.message, result], tools=[NOW], conversation="run-1")
    assert end.message.content == "Noon."
    asked, asked_again = engine_of(model).requests
    seen = (*asked.token_ids, *first.message.token_ids, AS_BYTES.eos_id)
    assert asked_again.token_ids[: len(seen)] == seen
    assert (asked.lease, asked.lease_s, asked_again.lease) == ("run-1", 9.0, "run-1")


async def test_output_schema_constrains_the_answer_even_beside_tools() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    said = '{"n":7}'
    for tools in ([], [NOW]):
        events, end = await turn(model_of(said), tools=tools, output=OutputSchema(schema))
        assert text_of(events) == said
        assert end.finish_reason == "stop"
    _, end = await turn(model_of(CALL_NOW), tools=[NOW], output=OutputSchema(schema))
    assert [call.name for call in end.message.tool_calls] == ["now"]
    _, end = await turn(model_of("seven"), output=GrammarSource("regex", "[0-9]"))
    assert end.finish_reason == "error"


ENDLESS = "and on " * 30


@pytest.mark.parametrize("max_tokens", [7, 8, 20, 21])
@pytest.mark.parametrize("tools", [[], [NOW]])
async def test_answer_that_its_limit_closes_is_whole_and_stops(
    tools: list[ToolSpec], max_tokens: int
) -> None:
    schema = {"type": "object", "properties": {"s": {"type": "string"}}, "required": ["s"]}
    _, end = await turn(
        model_of('{"s":"' + ENDLESS),
        tools=tools,
        output=OutputSchema(schema),
        sampling=SamplingParams(max_tokens=max_tokens),
    )
    said = json.loads(end.message.content)["s"]
    assert ENDLESS.startswith(said)
    assert end.usage.completion_tokens == max_tokens
    assert (end.finish_reason, end.error) == ("stop", None)


async def test_answer_that_quotes_a_call_is_no_call() -> None:
    said = '{"quote":"<tool_call>"}'
    _, end = await turn(model_of(said), tools=[NOW], output=OutputSchema({"type": "object"}))
    assert (end.message.content, end.message.tool_calls) == (said, ())


async def test_max_tokens_is_cut_to_the_room_that_the_context_leaves() -> None:
    model = model_of("x")
    await turn(model, sampling=SamplingParams(max_tokens=10_000))
    request = engine_of(model).requests[0]
    assert request.sampling.max_tokens == 4096 - len(request.token_ids)
    with pytest.raises(PromptTooLongError, match="4096"):
        await turn(model, [Message("user", "abc " * 4096)])


DEEP: dict[str, Any] = functools.reduce(lambda inner, _: {"items": inner}, range(70), {})
ABYSS: dict[str, Any] = functools.reduce(lambda inner, _: {"items": inner}, range(5000), {})
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"messages": []}, InvalidRequestError, "at least one message"),
    ({"tool_choice": ToolChoice("required")}, InvalidRequestError, "no tools are offered"),
    ({"tools": [NOW], "tool_choice": ToolChoice(name="no")}, UnknownToolError, "'now'"),
    (
        {"tools": [NOW, ToolSpec("bad", "", DEEP)]},
        UnsupportedSchemaError,
        "tool 'bad': the schema nests deeper than 64 levels at $",
    ),
    (
        {"tools": [NOW, ToolSpec("bad", "", ABYSS)]},
        UnsupportedSchemaError,
        "tool 'bad': the schema nests deeper than 64 levels at $",
    ),
    (
        {"tools": [NOW, ToolSpec("bad", "", {"enum": {1}})]},
        UnsupportedSchemaError,
        "tool 'bad': the schema is not plain JSON",
    ),
    ({"output": OutputSchema(ABYSS)}, UnsupportedSchemaError, "nests deeper than 64 levels at $"),
    ({"output": OutputSchema(DEEP)}, UnsupportedSchemaError, "nests deeper than 64 levels at $"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
async def test_impossible_request_is_refused_before_it_reaches_the_engine(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = model_of("x")
    with pytest.raises(error) as caught:
        await turn(model, **options)
    assert message in str(caught.value)
    assert engine_of(model).requests == []


@pytest.mark.timeout(30)
async def test_tool_that_takes_a_minute_to_compile_is_refused_before_it_does() -> None:
    bad = ToolSpec("bad", "", {"properties": {"v": HOSTILE["fifteen patterns at once"]}})
    found = await model_of("x").support_of([bad])
    with pytest.raises(UnsupportedSchemaError) as caught:
        await turn(model_of("x"), tools=[NOW, bad])
    assert str(caught.value) == found["bad"].problem
    assert "15 patterns" in str(caught.value)


async def test_tools_are_graded_by_name() -> None:
    bad = ToolSpec("bad", "", DEEP)
    half = ToolSpec("half", "", {"properties": {"a": {"type": "string", "not": {"const": "x"}}}})
    found = await model_of("x").support_of([NOW, bad, half, ADD])
    assert {name: support.level for name, support in found.items()} == {
        "now": "strict",
        "bad": "refused",
        "half": "lenient",
        "add": "strict",
    }
    assert "nests deeper than 64 levels at $.items" in (found["bad"].problem or "")
    assert found["half"].dropped == ("not at $.properties.a",)


async def test_leaving_a_turn_early_ends_the_request() -> None:
    model = model_of("abcdefgh")
    async with aclosing(model.stream([USER], sampling=ROOMY)) as events:
        assert await anext(events) == TextDelta("a")
        assert engine_of(model).num_open == 1
    assert engine_of(model).num_open == 0
    with anyio.move_on_after(10) as scope:
        async for _ in model.stream([USER], sampling=ROOMY):
            scope.cancel()
    assert scope.cancelled_caught
    assert engine_of(model).num_open == 0


async def test_turns_run_side_by_side() -> None:
    model = model_of("same")
    ends: list[TurnEnd] = []

    async def run() -> None:
        ends.append((await turn(model, tools=[NOW]))[1])

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(run)
    assert {end.message.content for end in ends} == {"same"}
    assert len(ends) == 20


async def test_calls_behind_a_stop_string_are_not_made_however_tokens_come() -> None:
    for chunk_size in (1, 4, 500):
        model = model_of(f"It STOPs{CALL_NOW}", chunk_size=chunk_size)
        sampling = SamplingParams(max_tokens=200, stop=("STOP",))
        events, end = await turn(model, tools=[NOW], sampling=sampling)
        assert events == [event for event in events if isinstance(event, TextDelta)]
        assert text_of(events) == "It "
        assert (end.message, end.finish_reason) == (Message("assistant", "It "), "stop")
        assert end.stopped_by == "STOP"


async def test_prepare_takes_tools_whose_hints_refer_to_what_is_not_known_yet() -> None:
    hint = {"type": "string", "x-choices-from": "files"}
    tool = ToolSpec("open", "", {"type": "object", "properties": {"file": hint}})
    model = model_of('<tool_call>\n{"name": "open", "arguments": {"file":"a"}}\n</tool_call>')
    await model.prepare([tool])
    for files in (["a", "b"], ["a"]):
        _, end = await turn(model, tools=[tool], choices={"files": files})
        assert [call.arguments for call in end.message.tool_calls] == [{"file": "a"}]
    with pytest.raises(InvalidRequestError, match="x-choices-from at"):
        await turn(model, tools=[tool])


async def test_text_is_limited_to_its_tokens() -> None:
    text = {"type": "string", "x-max-tokens": 2}
    schema = {"type": "object", "properties": {"title": text}, "required": ["title"]}
    said = '<tool_call>\n{"name": "note", "arguments": {"title":"abcdef"}}\n</tool_call>'
    _, end = await turn(model_of(said), tools=[ToolSpec("note", "", schema)])
    assert end.finish_reason == "error"  # the script goes on where the text has to end
    said = said.replace("abcdef", "ab")
    _, end = await turn(model_of(said), tools=[ToolSpec("note", "", schema)])
    assert [call.arguments for call in end.message.tool_calls] == [{"title": "ab"}]


async def test_choose_closes_thoughts_that_the_prompt_opens() -> None:
    template = "{{ messages[0].content }}<think>"
    tokenizer = tiny_tokenizer("<think>", "</think>", chat_template=template)
    model = model_of("", tokenizer=tokenizer)
    await model.choose([Message("user", "?")], ["yes"])
    [request] = engine_of(model).requests
    expected = tokenizer.encode("?<think></think>\n\nyes", parse_special=True)
    assert list(request.token_ids) == [*expected, tokenizer.eos_id]


async def test_choose_is_the_softmax_over_summed_logprobs_of_options_and_end() -> None:
    end_id = AS_BYTES.eos_id
    logprobs = {**dict.fromkeys(AS_BYTES.encode("yes"), -0.5), end_id: -0.25}
    model = model_of("", score=lambda token_id: logprobs.get(token_id, -1.0))
    shares = await model.choose([USER], ["yes", "no"])
    yes, no = -0.5 * len(AS_BYTES.encode("yes")) - 0.25, -1.0 * len(AS_BYTES.encode("no")) - 0.25
    assert shares == pytest.approx(
        {"yes": 1 / (1 + math.exp(no - yes)), "no": 1 / (1 + math.exp(yes - no))}
    )
    assert list(shares) == ["yes", "no"]
    for request, option in zip(engine_of(model).requests, ["yes", "no"], strict=True):
        tokens = (*AS_BYTES.encode(option), end_id)
        assert request.token_ids[-request.num_scored_tokens :] == tokens
        assert request.sampling.max_tokens == 0


@pytest.mark.parametrize("options", [[], ["a", "a"], ["a", ""]])
async def test_choose_refuses_options_that_are_none(options: list[str]) -> None:
    with pytest.raises(InvalidRequestError):
        await model_of("").choose([USER], options)


async def test_choose_reports_an_engine_that_is_closed() -> None:
    model = model_of("")
    await engine_of(model).aclose()
    with pytest.raises(Exception, match="closed"):
        await model.choose([USER], ["a", "b"])


async def test_engine_that_goes_silent_is_an_error() -> None:
    class Silent(ScriptedEngine):
        async def generate(self, request: GenerateRequest, constraint: Any = None) -> Any:
            return
            yield

    model = ChatModel("tiny", AS_BYTES, Silent(AS_BYTES), 4096)
    with pytest.raises(GenerationError):
        await turn(model)
    with pytest.raises(GenerationError):
        await model.choose([USER], ["a"])


async def test_count_tokens_is_the_length_of_the_prompt() -> None:
    model = model_of("x")
    events, _ = await turn(model, tools=[NOW], tells_start=True)
    count = await model.count_tokens([USER], [NOW])
    assert count == len(engine_of(model).requests[0].token_ids)
    assert events[0] == TurnStart(count)
    assert count > await model.count_tokens([USER])


async def test_a_plain_text_is_completed_with_no_template_and_to_its_form() -> None:
    model = model_of("[1,2]")
    request = GenerateRequest((5, 6), SamplingParams(max_tokens=20))
    schema = OutputSchema({"type": "array", "items": {"type": "integer"}, "maxItems": 2})
    for output in (None, schema):
        chunks = [chunk async for chunk in model.complete(request, output)]
        assert "".join(chunk.text for chunk in chunks) == "[1,2]"
        assert chunks[-1].finish_reason == "stop"
    assert [one.token_ids for one in engine_of(model).requests] == [(5, 6)] * 2
    with pytest.raises(InvalidRequestError):
        _ = [chunk async for chunk in model.complete(request, OutputSchema({"type": 3}))]
