"""Tests of what an agent does about calls that their schemas refuse."""

from __future__ import annotations

import pytest

from runtime.agent.limits import Limits
from runtime.agent.loop import Agent
from runtime.chat.messages import Message
from tests.agent.test_loop import ANSWER, PROMPT, call, last, texts
from tests.helpers.scripted_chat_model import ScriptedChatModel, ScriptedTurn, play
from tests.helpers.scripted_tools import ScriptedToolset, echo, make_spec

pytestmark = pytest.mark.anyio


async def test_model_reads_why_its_call_was_rejected_and_calls_again() -> None:
    good, bad, better = call("echo", 1), call("echo", 2, colour="red"), call("echo", 3)
    problem = "the call of 'echo' does not fit its schema: $.colour: 'red' is not allowed"
    model = ScriptedChatModel(
        play(
            ScriptedTurn("look", (good,), error=problem, rejected=bad),
            ScriptedTurn(calls=(better,)),
            ANSWER,
        )
    )
    toolset = ScriptedToolset([(make_spec("echo"), echo)])
    end = await last(Agent(model, toolset))
    assert [arguments for _, arguments in toolset.called] == [good.arguments, better.arguments]
    refusal = f"echo was not called: {problem}"
    assert [(one.call, one.result.is_error) for one in end.calls] == [
        (good, False),
        (bad, True),
        (better, False),
    ]
    assert texts(end)[1] == refusal
    assert (end.stopped_by, end.answer, end.num_steps) == ("done", "it is done", 3)
    assert model.asked[1].messages == (
        *PROMPT,
        Message("assistant", "look", tool_calls=(good, bad), token_ids=(1, 2)),
        Message("tool", '{"number":1}', call_id=good.call_id, name="echo"),
        Message("tool", f"error: {refusal}", call_id=bad.call_id, name="echo"),
    )


async def test_calls_that_are_rejected_again_and_again_end_the_run() -> None:
    turns = [
        ScriptedTurn(error=f"wrong {number}", rejected=call("echo", number)) for number in range(9)
    ]
    toolset = ScriptedToolset([(make_spec("echo"), echo)])
    end = await last(Agent(ScriptedChatModel(play(*turns)), toolset, limits=Limits(max_errors=3)))
    assert toolset.called == []
    assert end.stopped_by == "error"
    assert texts(end) == [f"echo was not called: wrong {number}" for number in range(3)]
