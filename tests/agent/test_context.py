"""Tests of keeping a run's conversation inside the context."""

from __future__ import annotations

import random
from collections.abc import Sequence

import anyio
import pytest

from runtime.agent.context import READ_RESULT, Context
from runtime.agent.events import AgentEnd
from runtime.agent.limits import Limits
from runtime.agent.loop import Agent
from runtime.chat.messages import Message, ToolCall
from runtime.request import SamplingParams
from tests.helpers.scripted_chat_model import AskedTurn, ScriptedChatModel, ScriptedTurn
from tests.helpers.scripted_tools import ScriptedToolset, echo, make_spec
from tools.spec import JsonObject, ToolResult, ToolSpec
from tools.toolset import CallContext

pytestmark = pytest.mark.anyio

USER = Message("user", "u" * 10)


def asked(number: int) -> Message:
    return Message("assistant", "", (ToolCall(f"c{number}", "look", {}),))


def found(number: int, length: int) -> Message:
    return Message("tool", str(number) * length, call_id=f"c{number}", name="look")


async def count(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> int:
    return sum(len(message.content) for message in messages)


def make_context(max_chars: int = 1_000) -> Context:
    return Context(ScriptedToolset([(make_spec("look"), echo)]), [make_spec("look")], max_chars)


async def read(context: Context, **arguments: object) -> ToolResult:
    return await context.call_tool(READ_RESULT.name, arguments, CallContext())


async def test_other_tools_are_offered_beside_what_was_kept() -> None:
    context = make_context(max_chars=100)
    context.offer([make_spec("look"), make_spec("more")])
    assert [tool.name for tool in context.tools] == ["look", "more"]
    context.cut("x" * 200, 3)
    context.offer([make_spec("more"), make_spec(READ_RESULT.name)])
    assert [tool.name for tool in context.tools] == ["more", READ_RESULT.name]
    assert context.tools[-1] is READ_RESULT
    assert await read(context, id="r3", offset=150) == ToolResult.from_text("x" * 50)


async def test_conversation_that_fits_is_shown_as_it_is() -> None:
    context = make_context()
    messages = [USER, asked(1), found(1, 100)]
    await context.fit(messages, 110, count)
    assert context.show(messages) == messages
    assert [tool.name for tool in context.tools] == ["look"]


async def test_oldest_results_become_stubs_until_a_quarter_is_free() -> None:
    context = make_context()
    messages = [USER, *(one for n in range(1, 6) for one in (asked(n), found(n, 200)))]
    await context.fit(messages, 1_000, count)
    stub = "[result of look, 200 characters, put away; read_result id r{} has it]"
    shown = context.show(messages)
    assert [message.content for message in shown if message.role == "tool"] == [
        stub.format(2),
        stub.format(4),
        "3" * 200,
        "4" * 200,
        "5" * 200,
    ]
    assert [one for one in shown if one.role != "tool"] == [
        one for one in messages if one.role != "tool"
    ]
    assert context.tools[-1] == READ_RESULT
    # The next result fits: what is shown of the others stays, and with it their cached pages.
    messages += [asked(6), found(6, 100)]
    await context.fit(messages, 1_000, count)
    assert context.show(messages)[: len(shown)] == shown


async def test_results_of_the_last_round_go_only_when_the_others_did_not_do() -> None:
    context = make_context()
    messages = [USER, asked(1), found(1, 300), asked(2), found(2, 300), found(2, 300)]
    await context.fit(messages, 750, count)
    sizes = [len(message.content) for message in context.show(messages) if message.role == "tool"]
    assert sizes[0] < 100
    assert sizes[1:] == [300, 300]
    await context.fit(messages, 500, count)
    sizes = [len(message.content) for message in context.show(messages) if message.role == "tool"]
    assert sizes[1] < 100
    assert sizes[2] == 300


async def test_whatever_the_limit_only_results_change_and_each_can_be_read() -> None:
    draw = random.Random(0)
    for _ in range(100):
        context = make_context(max_chars=draw.randrange(100, 400))
        texts: dict[int, str] = {}
        messages = [USER]
        for number in range(1, draw.randrange(2, 8)):
            texts[len(messages) + 1] = text = str(number) * draw.randrange(0, 900)
            content = context.cut(text, len(messages) + 1)
            messages += [asked(number), Message("tool", content, call_id="c", name="look")]
            limit = draw.randrange(10, 2_000)
            await context.fit(messages, limit, count)
            shown = context.show(messages)
            fits = await count(shown, ()) <= limit
            assert fits or all(len(one.content) < 100 for one in shown if one.role == "tool")
            for place, (one, original) in enumerate(zip(shown, messages, strict=True)):
                if one != original or (place in texts and original.content != texts[place]):
                    assert one.role == "tool"
                    assert await read_all(context, f"r{place}") == texts[place]


async def read_all(context: Context, result_id: str) -> str:
    whole = ""
    while True:
        page = (await read(context, id=result_id, offset=len(whole))).text
        text, _, note = page.partition("\n[")
        whole += text
        if not note:
            return whole


async def test_cut_result_says_how_to_read_the_rest() -> None:
    context = make_context(max_chars=90)
    cut = context.cut("a" * 60 + "b" * 100, 2)
    note = "[cut: 70 of 160 characters are not shown; read_result id r2 has them]"
    assert cut == f"{'a' * 60}\n{note}\n{'b' * 30}"
    assert (await read(context, id="r2", offset=155)).text == "b" * 5
    page = (await read(context, id="r2", offset=55)).text
    assert page == f"{'a' * 5}{'b' * 5}\n[65 of 160 characters read; go on with offset 65]"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"id": "r9"}, "no result 'r9'; there are r2"),
        ({"id": "r2", "offset": 160}, "offset 160 is past the end: r2 has 160 characters"),
    ],
)
async def test_reading_what_is_not_there_is_an_error_the_model_can_read(
    arguments: JsonObject, problem: str
) -> None:
    context = make_context(max_chars=90)
    context.cut("a" * 160, 2)
    assert await read(context, **arguments) == ToolResult.from_text(problem, is_error=True)


async def test_tool_of_the_same_name_is_left_alone() -> None:
    own = make_spec(READ_RESULT.name)
    context = Context(ScriptedToolset([(own, echo)]), [own], max_chars=100)
    assert context.cut("a" * 300, 1).count("[cut: 200 of 300 characters are not shown]") == 1
    messages = [USER, asked(1), found(1, 300)]
    await context.fit(messages, 100, count)
    assert context.show(messages)[2].content == "[result of look, 300 characters, put away]"
    assert context.tools == [own]
    assert (await read(context, id="r1")).structured == {"id": "r1"}


async def test_run_goes_on_past_its_context_and_reads_what_was_put_away() -> None:
    async def report(arguments: JsonObject) -> ToolResult:
        return ToolResult.from_text(f"page {arguments['number']}: " + "x" * 150)

    def speak(turn: AskedTurn) -> ScriptedTurn:
        step = sum(message.role == "assistant" for message in turn.messages)
        if step < 4:
            return ScriptedTurn(calls=(ToolCall(f"c{step}", "look", {"number": step}),))
        if step == 4:
            return ScriptedTurn(calls=(ToolCall("c4", READ_RESULT.name, {"id": "r2"}),))
        return ScriptedTurn("it is done")

    model = ScriptedChatModel(speak, context_length=600)
    tools = ScriptedToolset([(make_spec("look"), report)])
    agent = Agent(model, tools, limits=Limits(max_result_chars=200))
    with anyio.fail_after(5):
        events = [event async for event in agent.run([USER], sampling=SamplingParams())]
    end = events[-1]
    assert isinstance(end, AgentEnd)
    assert end.answer == "it is done"
    for turn in model.asked:
        assert sum(len(message.content) for message in turn.messages) <= 600 - 600 // 4
        assert turn.messages[0] == USER
    assert [turn.tools for turn in model.asked] == [
        *[("look",)] * 3,
        *[("look", READ_RESULT.name)] * 3,
    ]
    assert end.calls[-1].result.text.startswith("page 0: ")
    # The caller gets the conversation itself, not what the model was shown of it.
    assert [len(message.content) for message in end.messages if message.role == "tool"] == [158] * 5
