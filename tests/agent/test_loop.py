"""Tests of the agent loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest

from runtime.agent.approval import PendingCall, approve_by_form, make_question
from runtime.agent.events import (
    AgentEnd,
    AgentEvent,
    StepFinished,
    StepStarted,
    ToolCallFinished,
    ToolCallStarted,
)
from runtime.agent.limits import Limits
from runtime.agent.loop import NO_TOOLS, Agent
from runtime.agent.policy import Policy
from runtime.chat.messages import AUTO, Message, TextDelta, ToolCall, ToolChoice
from runtime.errors import PromptTooLongError
from runtime.request import SamplingParams
from tests.helpers.scripted_chat_model import (
    TURN_USAGE,
    ScriptedChatModel,
    ScriptedTurn,
    play,
)
from tests.helpers.scripted_tools import ScriptedToolset, echo, fail, make_spec
from tools.function import FunctionToolset
from tools.mcp_client.config import ToolPolicy
from tools.questions import Answer, Question
from tools.spec import JsonObject, ToolResult
from tools.toolset import CallContext

pytestmark = pytest.mark.anyio

PROMPT = (Message("user", "go"),)
ANSWER = ScriptedTurn("it is done")


def call(name: str, number: int = 0, **arguments: object) -> ToolCall:
    return ToolCall(f"call-{name}-{number}", name, {"number": number, **arguments})


async def collect(
    agent: Agent, messages: Sequence[Message] = PROMPT, *, tool_choice: ToolChoice = AUTO
) -> list[AgentEvent]:
    with anyio.fail_after(5):
        return [event async for event in agent.run(messages, tool_choice=tool_choice)]


async def last(agent: Agent) -> AgentEnd:
    end = (await collect(agent))[-1]
    assert isinstance(end, AgentEnd)
    return end


def texts(end: AgentEnd) -> list[str]:
    return [finished.result.text for finished in end.calls]


async def test_plain_answer_takes_one_step() -> None:
    model = ScriptedChatModel(play(ANSWER))
    end = await last(Agent(model, ScriptedToolset([])))
    assert end == AgentEnd(
        answer="it is done",
        stopped_by="done",
        usage=TURN_USAGE,
        num_steps=1,
        calls=(),
        messages=(*PROMPT, Message("assistant", "it is done", token_ids=(1, 2))),
    )


async def test_events_tell_the_run_in_order() -> None:
    asked = call("echo")
    model = ScriptedChatModel(play(ScriptedTurn("look", (asked,)), ANSWER))
    events = await collect(Agent(model, ScriptedToolset([(make_spec("echo"), echo)])))
    result = ToolResult(structured={"number": 0})
    kinds = [type(event) for event in events]
    assert kinds == [
        *(StepStarted, TextDelta, StepFinished, ToolCallStarted, ToolCallFinished),
        *(StepStarted, TextDelta, TextDelta, TextDelta, StepFinished, AgentEnd),
    ]
    finished = events[4]
    assert isinstance(finished, ToolCallFinished)
    assert finished == ToolCallFinished(1, asked, result, finished.seconds, "policy")
    assert [message.role for message in model.asked[1].messages] == ["user", "assistant", "tool"]
    assert model.asked[1].messages[2] == Message(
        "tool", '{"number":0}', call_id=asked.call_id, name="echo"
    )


async def confirm(context: CallContext) -> str:
    """Ask first."""
    schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}}
    answer = await context.ask(Question("Sure?", schema))
    return f"{answer.action} {answer.content}"


async def test_a_tools_question_reaches_whoever_the_agent_may_ask() -> None:
    asked: list[str] = []

    async def ask(question: Question) -> Answer:
        asked.append(question.message)
        return Answer("accept", {"sure": True})

    def agent() -> Agent:
        turns = play(ScriptedTurn(calls=(ToolCall("1", "confirm", {}),)), ANSWER)
        return Agent(ScriptedChatModel(turns), FunctionToolset(confirm))

    there = await last(replace(agent(), ask=ask))
    assert texts(there) == ['{"result":"accept {\'sure\': True}"}']
    assert texts(await last(agent())) == ['{"result":"decline None"}']
    assert asked == ["Sure?"]


async def test_lists_for_hints_reach_every_turn() -> None:
    model = ScriptedChatModel(play(ScriptedTurn(calls=(call("echo"),)), ANSWER))
    agent = Agent(model, ScriptedToolset([(make_spec("echo"), echo)]))
    with anyio.fail_after(5):
        assert [event async for event in agent.run(PROMPT, choices={"files": ["a"]})]
    assert [asked.choices for asked in model.asked] == [{"files": ["a"]}] * 2


async def test_tools_that_come_and_go_during_a_run_are_offered_from_the_next_turn_on() -> None:
    known = {name: (make_spec(name), echo) for name in ("echo", "late")}
    toolset = ScriptedToolset([])

    async def change(arguments: JsonObject) -> ToolResult:
        toolset.tools = [*toolset.tools[:1], *(known[name] for name in arguments["names"])]
        return ToolResult.from_text("changed")

    toolset.tools = [(make_spec("change"), change), known["echo"]]
    turns = [
        ScriptedTurn(calls=(call("change", 1, names=["echo", "late"]),)),
        ScriptedTurn(calls=(call("late", 2),)),
        ScriptedTurn(calls=(call("change", 3, names=["echo"]),)),
        ScriptedTurn(calls=(call("late", 4),)),
    ]
    model = ScriptedChatModel(play(*turns, ANSWER))
    end = await last(Agent(model, toolset))
    assert [asked.tools for asked in model.asked] == [
        ("change", "echo"),
        ("change", "echo", "late"),
        ("change", "echo", "late"),
        ("change", "echo"),
        ("change", "echo"),
    ]
    assert [finished.result.is_error for finished in end.calls] == [False, False, False, True]


async def test_first_choice_holds_for_the_first_step_only() -> None:
    model = ScriptedChatModel(play(ScriptedTurn(calls=(call("echo"),)), ANSWER))
    agent = Agent(model, ScriptedToolset([(make_spec("echo"), echo)]))
    await collect(agent, tool_choice=ToolChoice(mode="required"))
    assert [asked.tool_choice.mode for asked in model.asked] == ["required", "auto"]


async def test_every_turn_of_a_run_names_the_same_lease_and_every_run_another() -> None:
    names = []
    for _ in range(2):
        model = ScriptedChatModel(play(ScriptedTurn(calls=(call("echo"),)), ANSWER))
        await last(Agent(model, ScriptedToolset([(make_spec("echo"), echo)])))
        assert model.asked[0].conversation == model.asked[1].conversation
        names.append(model.asked[0].conversation)
    assert names[0] != names[1]


async def test_read_only_calls_run_together_and_answer_in_call_order() -> None:
    second_ran = anyio.Event()

    async def wait_for_second(arguments: JsonObject) -> ToolResult:
        if arguments["number"] == 1:
            await second_ran.wait()
        second_ran.set()
        return ToolResult(structured=arguments)

    spec = make_spec("look", server="one", read_only=True)
    toolset = ScriptedToolset([(spec, wait_for_second)])
    turn = ScriptedTurn(calls=(call("look", 1), call("look", 2)))
    end = await last(Agent(ScriptedChatModel(play(turn, ANSWER)), toolset))
    assert texts(end) == ['{"number":1}', '{"number":2}']


async def test_calls_to_different_servers_run_together() -> None:
    both = [anyio.Event(), anyio.Event()]

    async def meet(arguments: JsonObject) -> ToolResult:
        both[arguments["number"]].set()
        await both[1 - arguments["number"]].wait()
        return ToolResult(structured=arguments)

    tools = [(make_spec("a", server="one"), meet), (make_spec("b", server="two"), meet)]
    turn = ScriptedTurn(calls=(call("a", 0), call("b", 1)))
    end = await last(Agent(ScriptedChatModel(play(turn, ANSWER)), ScriptedToolset(tools)))
    assert texts(end) == ['{"number":0}', '{"number":1}']


@pytest.mark.parametrize("server", [None, "one"])
async def test_calls_with_effects_on_one_server_run_in_order(server: str | None) -> None:
    most_running = 0

    async def touch(arguments: JsonObject) -> ToolResult:
        nonlocal most_running
        most_running = max(most_running, len(toolset.running))
        await anyio.lowlevel.checkpoint()
        return ToolResult(structured=arguments)

    toolset = ScriptedToolset([(make_spec("touch", server=server), touch)])
    turn = ScriptedTurn(calls=tuple(call("touch", number) for number in range(3)))
    await last(Agent(ScriptedChatModel(play(turn, ANSWER)), toolset))
    assert most_running == 1
    assert [arguments["number"] for _, arguments in toolset.called] == [0, 1, 2]


async def test_last_step_may_not_call() -> None:
    numbers = iter(range(100))
    model = ScriptedChatModel(
        lambda asked: (
            ANSWER
            if asked.tool_choice == NO_TOOLS
            else ScriptedTurn(calls=(call("echo", next(numbers)),))
        )
    )
    agent = Agent(model, ScriptedToolset([(make_spec("echo"), echo)]), limits=Limits(max_steps=3))
    end = await last(agent)
    assert [asked.tool_choice.mode for asked in model.asked] == ["auto", "auto", "none"]
    assert (end.stopped_by, end.answer, len(end.calls)) == ("steps", "it is done", 2)


async def test_calls_of_a_last_step_are_dropped_from_the_conversation() -> None:
    model = ScriptedChatModel(play(ScriptedTurn("hm", (call("echo"),))))
    agent = Agent(model, ScriptedToolset([(make_spec("echo"), echo)]), limits=Limits(max_steps=1))
    assert (await last(agent)).messages[-1] == Message("assistant", "hm")


async def test_calls_past_the_limit_are_not_made_and_the_model_answers() -> None:
    toolset = ScriptedToolset([(make_spec("echo", read_only=True), echo)])
    turn = ScriptedTurn(calls=tuple(call("echo", number) for number in range(4)))
    model = ScriptedChatModel(play(turn, ANSWER))
    end = await last(Agent(model, toolset, limits=Limits(max_calls=2)))
    assert len(toolset.called) == 2
    assert texts(end)[2:] == [
        "echo was not called: 2 calls are all a run may make.",
        "echo was not called: the run has to end, answer now.",
    ]
    assert model.asked[1].tool_choice == NO_TOOLS
    assert (end.stopped_by, end.answer) == ("calls", "it is done")


async def test_third_equal_call_is_not_made() -> None:
    toolset = ScriptedToolset([(make_spec("echo"), echo)])
    turn = ScriptedTurn(calls=(call("echo", 1, a=1, b=2),))
    same = ScriptedTurn(calls=(ToolCall("x", "echo", {"b": 2, "a": 1, "number": 1}),))
    model = ScriptedChatModel(play(turn, same, turn, ANSWER))
    end = await last(Agent(model, toolset))
    assert len(toolset.called) == 2
    assert (end.stopped_by, end.answer) == ("calls", "it is done")


async def test_three_errors_in_a_row_end_the_run_and_a_success_in_between_does_not() -> None:
    tools = [(make_spec("echo"), echo), (make_spec("fail"), fail)]
    names = iter(["fail", "fail", "echo", "fail", "fail", "fail"])
    numbers = iter(range(100))
    model = ScriptedChatModel(
        lambda asked: (
            ANSWER
            if asked.tool_choice == NO_TOOLS
            else ScriptedTurn(calls=(call(next(names), next(numbers)),))
        )
    )
    end = await last(Agent(model, ScriptedToolset(tools)))
    assert (end.stopped_by, end.answer, len(end.calls)) == ("error", "it is done", 6)
    assert end.messages[2].content == "error: it broke"
    assert end.error is None


async def test_denied_calls_end_the_run_as_denied() -> None:
    toolset = ScriptedToolset([(make_spec("fs__wipe", server="fs", destructive=True), echo)])
    turn = ScriptedTurn(calls=tuple(call("fs__wipe", number) for number in range(3)))
    end = await last(Agent(ScriptedChatModel(play(turn, ANSWER)), toolset))
    assert end.stopped_by == "denied"
    assert toolset.called == []
    assert {finished.approved_by for finished in end.calls} == {None}
    assert texts(end)[0] == (
        "fs__wipe was not called, because it is marked destructive and nobody can be asked; "
        'mcpServers["fs"]["x-runtime"].tools.allow: ["wipe"] would allow it.'
    )


DECLINED = "fs__wipe was not called: the user declined."
NOBODY = (
    "fs__wipe was not called, because it is marked destructive and nobody can be asked; "
    'mcpServers["fs"]["x-runtime"].tools.allow: ["wipe"] would allow it.'
)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Answer("accept", {"call_1": True}), '{"number":0}'),
        (Answer("accept", {"call_1": False}), DECLINED),
        (Answer("accept", {"call_1": "yes"}), DECLINED),
        (Answer("accept"), DECLINED),
        (Answer("decline", {"call_1": True}), DECLINED),
        (Answer("cancel"), NOBODY),
    ],
)
async def test_person_decides_what_asks(answer: Answer, text: str) -> None:
    asked: list[Question] = []

    async def ask(question: Question) -> Answer:
        asked.append(question)
        return answer

    toolset = ScriptedToolset([(make_spec("fs__wipe", server="fs", destructive=True), echo)])
    model = ScriptedChatModel(play(ScriptedTurn(calls=(call("fs__wipe"),)), ANSWER))
    end = await last(Agent(model, toolset, approver=approve_by_form(ask)))
    assert asked == [
        Question(
            "The local model wants to make this call. Which may it make?\n"
            '1. fs__wipe {"number": 0}\n   asks because it is marked destructive',
            {
                "type": "object",
                "properties": {"call_1": {"type": "boolean", "title": "Allow 1. fs__wipe"}},
                "required": ["call_1"],
            },
        )
    ]
    assert texts(end) == [text]
    assert end.calls[0].approved_by == ("user" if toolset.called else None)


async def test_all_calls_of_a_turn_are_asked_about_in_one_form() -> None:
    asked: list[Question] = []

    async def ask(question: Question) -> Answer:
        asked.append(question)
        return Answer("accept", {"call_1": False, "call_2": True})

    wipe, burn, look = (
        make_spec("fs__wipe", server="fs", destructive=True),
        make_spec("fs__burn", server="fs", destructive=True),
        make_spec("fs__look", server="fs", read_only=True),
    )
    toolset = ScriptedToolset([(wipe, echo), (burn, echo), (look, echo)])
    turn = ScriptedTurn(calls=(call("fs__wipe", 1), call("fs__look", 2), call("fs__burn", 3)))
    model = ScriptedChatModel(play(turn, ANSWER))
    end = await last(Agent(model, toolset, approver=approve_by_form(ask)))
    assert [list(question.schema["properties"]) for question in asked] == [["call_1", "call_2"]]
    assert [one.approved_by for one in end.calls] == [None, "policy", "user"]
    assert toolset.called == [("fs__look", {"number": 2}), ("fs__burn", {"number": 3})]


async def test_nobody_who_answers_in_time_denies_and_the_run_ends_by_time() -> None:
    async def ask(question: Question) -> Answer:
        await anyio.sleep_forever()
        raise AssertionError

    toolset = ScriptedToolset([(make_spec("fs__wipe", server="fs", destructive=True), echo)])
    model = ScriptedChatModel(play(ScriptedTurn(calls=(call("fs__wipe"),)), ANSWER))
    limits = Limits(max_seconds=0.05)
    end = await last(Agent(model, toolset, Policy(), limits, approve_by_form(ask)))
    assert (end.stopped_by, toolset.called) == ("time", [])


async def test_long_arguments_are_cut_and_the_form_says_so() -> None:
    spec = make_spec("fs__wipe", server="fs", destructive=True)
    question = make_question([PendingCall(spec, {"text": "x" * 9000}, "is marked destructive")])
    assert "[cut: 5012 of 9012 characters are not shown]" in question.message


async def test_tool_that_raises_is_a_result_and_spares_its_neighbours() -> None:
    async def crash(arguments: JsonObject) -> ToolResult:
        raise KeyError("secret")

    tools = [(make_spec("a", read_only=True), crash), (make_spec("b", read_only=True), echo)]
    turn = ScriptedTurn(calls=(call("a"), call("b"), call("c")))
    end = await last(Agent(ScriptedChatModel(play(turn, ANSWER)), ScriptedToolset(tools)))
    assert texts(end) == [
        "a failed unexpectedly (KeyError); see the log.",
        '{"number":0}',
        "no tool is named 'c'; known are 'a', 'b'",
    ]
    assert end.stopped_by == "done"


async def test_tools_that_are_denied_or_cannot_be_decoded_are_not_offered() -> None:
    model = ScriptedChatModel(play(ANSWER), unsupported={"odd": "patternProperties"})
    names = ["odd", "echo", "fs__look"]
    tools = [(make_spec(name, server="fs"), echo) for name in names]
    policy = Policy({"fs": ToolPolicy(deny=("look",))})
    assert (await last(Agent(model, ScriptedToolset(tools), policy))).stopped_by == "done"
    assert model.asked[0].tools == ("echo",)


async def test_long_result_is_cut_to_a_quarter_of_the_context() -> None:
    async def shout(arguments: JsonObject) -> ToolResult:
        return ToolResult.from_text("x" * 1000)

    model = ScriptedChatModel(
        play(ScriptedTurn(calls=(call("shout"),)), ANSWER), context_length=100
    )
    end = await last(Agent(model, ScriptedToolset([(make_spec("shout"), shout)])))
    assert end.messages[2].content == (
        "x" * 66
        + "\n[cut: 900 of 1000 characters are not shown; read_result id r2 has them]\n"
        + "x" * 34
    )
    assert texts(end) == ["x" * 1000]


async def test_time_limit_stops_a_hanging_turn() -> None:
    model = ScriptedChatModel(play(ScriptedTurn("so far", hangs=True)))
    end = await last(Agent(model, ScriptedToolset([]), limits=Limits(max_seconds=0.05)))
    assert (end.stopped_by, end.answer, end.error) == ("time", "so far", None)
    assert model.num_open == 0


async def test_time_limit_stops_a_hanging_tool_and_keeps_its_neighbours_result() -> None:
    async def hang(arguments: JsonObject) -> ToolResult:
        await anyio.sleep_forever()
        raise AssertionError

    tools = [(make_spec("a", read_only=True), hang), (make_spec("b", read_only=True), echo)]
    toolset = ScriptedToolset(tools)
    model = ScriptedChatModel(play(ScriptedTurn(calls=(call("a"), call("b")))))
    end = await last(Agent(model, toolset, limits=Limits(max_seconds=0.05)))
    assert end.stopped_by == "time"
    assert texts(end) == ["a: the run's 0.05 s were over; its outcome is unknown.", '{"number":0}']
    assert toolset.running == []


async def test_token_limit_bounds_each_turn_and_the_run() -> None:
    numbers = iter(range(100))
    model = ScriptedChatModel(lambda asked: ScriptedTurn(calls=(call("echo", next(numbers)),)))
    agent = Agent(model, ScriptedToolset([(make_spec("echo"), echo)]), limits=Limits(max_tokens=12))
    with anyio.fail_after(5):
        events = [event async for event in agent.run(PROMPT, sampling=SamplingParams(8))]
    end = events[-1]
    assert isinstance(end, AgentEnd)
    assert [asked.max_tokens for asked in model.asked] == [8, 7, 2]
    assert end.stopped_by == "tokens"
    assert end.usage == TURN_USAGE + TURN_USAGE + TURN_USAGE


@pytest.mark.parametrize(
    ("turn", "stopped_by", "error"),
    [
        (ScriptedTurn("cut", finish_reason="length"), "tokens", None),
        (ScriptedTurn("cut", finish_reason="cancelled"), "cancelled", None),
        (ScriptedTurn("cut", finish_reason="error", error="bad mask"), "error", "bad mask"),
        (ScriptedTurn("cut", raises=PromptTooLongError("too long")), "error", "too long"),
        (
            ScriptedTurn("cut", breaks_off=True),
            "error",
            "the model's turn broke off without an end",
        ),
    ],
)
async def test_turn_that_does_not_end_well_ends_the_run(
    turn: ScriptedTurn, stopped_by: str, error: str | None
) -> None:
    end = await last(Agent(ScriptedChatModel(play(turn)), ScriptedToolset([])))
    assert (end.stopped_by, end.answer) == (stopped_by, "cut")
    assert (None if end.error is None else str(end.error)) == error


async def test_conversation_goes_on_from_the_messages_of_the_end() -> None:
    model = ScriptedChatModel(play(ScriptedTurn(calls=(call("echo"),)), ANSWER))
    agent = Agent(model, ScriptedToolset([(make_spec("echo"), echo)]))
    end = await last(agent)
    again = await collect(agent, (*end.messages, Message("user", "more")))
    assert isinstance(again[-1], AgentEnd)
    assert again[-1].messages[: len(end.messages)] == end.messages
