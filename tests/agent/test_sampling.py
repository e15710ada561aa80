"""Sampling requests of tool servers, answered by a model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from runtime.agent.sampling import model_sampler
from runtime.chat.messages import Message, ToolCall, ToolChoice
from runtime.errors import GenerationError
from tests.helpers.scripted_chat_model import ScriptedChatModel, ScriptedTurn, play
from tools.sampling import SampledCall, SampledMessage, SamplingReply, SamplingRequest
from tools.spec import ToolSpec

pytestmark = pytest.mark.anyio
LOOK = ToolSpec("look", "Looks.", {"type": "object"}, server="s")
HI = SamplingRequest("s", (SampledMessage("user", "Hi"),), max_tokens=64)


@dataclass
class Named(ScriptedChatModel):
    name: str = "tiny"


async def sample(model: Named, request: SamplingRequest) -> SamplingReply:
    held: list[int] = []

    @asynccontextmanager
    async def hold() -> AsyncIterator[Named]:
        try:
            yield model
        finally:
            held.append(model.num_open)

    try:
        return await model_sampler(hold)(request)
    finally:
        assert held == [0]  # let go once its turn was over, and not before


async def test_a_conversation_of_a_server_is_answered_within_its_tokens() -> None:
    model = Named(play(ScriptedTurn("Hello.")))
    request = SamplingRequest("s", HI.messages, max_tokens=64, system="Be brief.")
    assert await sample(model, request) == SamplingReply("Hello.", "tiny", "endTurn")
    [asked] = model.asked
    assert asked.messages == (Message("system", "Be brief."), Message("user", "Hi"))
    assert (asked.tools, asked.tool_choice, asked.max_tokens, asked.conversation) == (
        (),
        ToolChoice(mode="none"),
        64,
        None,
    )


async def test_calls_of_a_servers_tools_are_returned_and_not_made() -> None:
    model = Named(play(ScriptedTurn(calls=(ToolCall("2", "look", {"at": 1}),))))
    said = (
        SampledMessage("user", "Look."),
        SampledMessage("assistant", calls=(SampledCall("1", "look", {}),)),
        SampledMessage("tool", "dark", call_id="1"),
    )
    request = SamplingRequest("s", said, max_tokens=64, tools=(LOOK,), tool_mode="required")
    calls = (SampledCall("2", "look", {"at": 1}),)
    assert await sample(model, request) == SamplingReply("", "tiny", "toolUse", calls)
    [asked] = model.asked
    assert (asked.tools, asked.tool_choice.mode) == (("look",), "required")
    assert asked.messages == (
        Message("user", "Look."),
        Message("assistant", tool_calls=(ToolCall("1", "look", {}),)),
        Message("tool", "dark", call_id="1", name="look"),
    )


async def test_an_answer_that_was_cut_off_says_so() -> None:
    model = Named(play(ScriptedTurn("Hel", finish_reason="length")))
    assert (await sample(model, HI)).stop_reason == "maxTokens"


@pytest.mark.parametrize(
    ("turn", "problem"),
    [
        (ScriptedTurn(finish_reason="error", error="no grammar"), "no grammar"),
        (ScriptedTurn(finish_reason="cancelled"), "the model's turn was cancelled"),
        (ScriptedTurn("He", breaks_off=True), "broke off without an end"),
        (ScriptedTurn(raises=GenerationError("no memory")), "no memory"),
    ],
)
async def test_a_turn_that_fails_is_an_error(turn: ScriptedTurn, problem: str) -> None:
    with pytest.raises(GenerationError, match=problem):
        await sample(Named(play(turn)), HI)
