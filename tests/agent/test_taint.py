"""Tests of runs whose conversation holds text of strangers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from runtime.agent.approval import PendingCall
from runtime.agent.events import AgentEnd
from runtime.agent.loop import Agent
from runtime.agent.policy import Policy
from runtime.agent.rules import parse_policy
from runtime.chat.messages import Message, ToolCall
from tests.helpers.scripted_chat_model import ScriptedChatModel, ScriptedTurn, play
from tests.helpers.scripted_tools import Behaviour, ScriptedToolset, echo, fail, make_spec
from tools.spec import ToolSpec

pytestmark = pytest.mark.anyio

FETCH = make_spec("web__fetch", server="web", read_only=True, open_world=True)
POST = make_spec("chat__post", server="chat", read_only=False, open_world=True, destructive=False)
SAVE = make_spec("fs__save", server="fs", read_only=False, open_world=False, destructive=False)
ANSWER = ScriptedTurn("done")
WHY = "can send data out after a result of web__fetch that strangers may have written"
PROMPT = (Message("user", "go"),)


def turn(*specs: ToolSpec) -> ScriptedTurn:
    return ScriptedTurn(calls=tuple(ToolCall(f"c-{spec.name}", spec.name, {}) for spec in specs))


async def run(
    *turns: ScriptedTurn,
    messages: Sequence[Message] = PROMPT,
    policy: Policy | None = None,
    fetch: Behaviour = echo,
) -> tuple[AgentEnd, list[tuple[str, str]]]:
    """Run, and let a person allow whatever they are asked; return what they were asked, too."""
    asked: list[tuple[str, str]] = []

    async def approve(calls: Sequence[PendingCall]) -> list[bool]:
        asked.extend((call.tool.name, call.reason) for call in calls)
        return [True] * len(calls)

    toolset = ScriptedToolset([(FETCH, fetch), (POST, echo), (SAVE, echo)])
    model = ScriptedChatModel(play(*turns, ANSWER))
    agent = Agent(model, toolset, policy or Policy(), approver=approve)
    with anyio.fail_after(5):
        end = [event async for event in agent.run(messages)][-1]
    assert isinstance(end, AgentEnd)
    return end, asked


async def test_what_sends_asks_once_a_strangers_text_was_read_and_each_time() -> None:
    _, asked = await run(turn(FETCH), turn(POST), turn(SAVE), turn(POST))
    assert asked == [("chat__post", WHY)] * 2


async def test_answer_to_what_was_sent_is_a_strangers_text() -> None:
    _, asked = await run(turn(POST), turn(POST))
    assert asked == [("chat__post", WHY.replace("web__fetch", "chat__post"))]


async def test_error_of_a_tool_is_a_strangers_text_too() -> None:
    _, asked = await run(turn(FETCH), turn(POST), fetch=fail)
    assert asked == [("chat__post", WHY)]


async def test_calls_of_the_turn_that_reads_were_thought_of_before() -> None:
    _, asked = await run(turn(FETCH, POST), turn(POST))
    assert asked == [("chat__post", WHY)]


async def test_each_run_begins_anew_with_what_its_conversation_holds() -> None:
    first, _ = await run(turn(FETCH))
    _, asked = await run(turn(POST))
    assert asked == []
    _, asked = await run(turn(POST), messages=(*first.messages, Message("user", "post it")))
    assert asked == [("chat__post", WHY)]


@pytest.mark.parametrize(
    "text", ["servers.web.taints = false", 'servers.chat.when_tainted = "allow"']
)
async def test_rule_is_off_where_the_operator_says_so(text: str) -> None:
    policy = Policy(file=parse_policy(text, Path("/p.toml")))
    _, asked = await run(turn(FETCH), turn(POST), policy=policy)
    assert asked == []


async def test_with_nobody_to_ask_the_call_is_denied() -> None:
    toolset = ScriptedToolset([(FETCH, echo), (POST, echo)])
    model = ScriptedChatModel(play(turn(FETCH), turn(POST), ANSWER))
    with anyio.fail_after(5):
        end = [event async for event in Agent(model, toolset).run(PROMPT)][-1]
    assert isinstance(end, AgentEnd)
    assert [name for name, _ in toolset.called] == ["web__fetch"]
    assert end.calls[1].result.text == (
        f"chat__post was not called, because it {WHY} and nobody can be asked; when_tainted ="
        ' "allow" under [servers."chat"] in a policy file (--policy) would allow it.'
    )
