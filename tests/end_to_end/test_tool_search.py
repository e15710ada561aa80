"""SmolLM2 itself on a context of 2,048 tokens, with 100 tools that would take 10,000."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from runtime.agent.budget import report_tools
from runtime.agent.events import AgentEnd, AgentEvent, StepFinished
from runtime.agent.limits import Limits
from runtime.agent.loop import Agent
from runtime.chat.messages import Message, ToolChoice
from runtime.chat.model import ChatModel
from runtime.config import Config
from runtime.hub import Hub
from runtime.request import SamplingParams
from tests.helpers.many_tools import many_tools

pytestmark = [pytest.mark.real, pytest.mark.anyio, pytest.mark.timeout(300)]

CONTEXT_LENGTH = 2048


@asynccontextmanager
async def open_model(path: Path) -> AsyncIterator[ChatModel]:
    config = Config(model=str(path), device="cpu", context_length=CONTEXT_LENGTH, kv_cache_mib=128)
    async with Hub(config) as hub:
        yield await hub.get()


async def run(
    agent: Agent, messages: Sequence[Message], choice: ToolChoice
) -> tuple[list[StepFinished], AgentEnd]:
    events: list[AgentEvent] = []
    with anyio.fail_after(120):
        async for event in agent.run(
            messages,
            tool_choice=choice,
            sampling=SamplingParams(max_tokens=80),
            conversation="tools",
        ):
            events.append(event)  # noqa: PERF401  an asynchronous comprehension needs no less
    end = events[-1]
    assert isinstance(end, AgentEnd)
    return [event for event in events if isinstance(event, StepFinished)], end


async def test_model_searches_100_tools_and_calls_what_it_found(smollm2: Path) -> None:
    toolset = many_tools(100)
    async with open_model(smollm2) as model:
        tools = await toolset.list_tools()
        report = await report_tools(tools, model.count_tokens, CONTEXT_LENGTH)
        assert report.is_searched
        assert report.num_tokens > 4 * CONTEXT_LENGTH
        agent = Agent(model, toolset, limits=Limits(max_steps=2))
        listed = await agent.list_tools()
        asked = [Message("user", "Which hotel has the number 7?")]
        alone = await model.count_tokens(asked)
        assert await model.count_tokens(asked, listed) - alone < CONTEXT_LENGTH / 5
        await model.prepare(listed)

        one_call = ToolChoice("required", parallel=False)
        searched, first = await run(agent, asked, one_call)
        assert [call.call.name for call in first.calls] == ["search_tools"]
        found = tuple(
            line.partition("(")[0]
            for line in first.calls[0].result.text.splitlines()
            if line.startswith("server")
        )
        assert len(found) == 5

        again = [*first.messages, Message("user", "Call it.")]
        called, second = await run(
            agent, again, ToolChoice("required", parallel=False, allowed=found)
        )
        (call,) = second.calls
        assert call.call.name in found
        assert not call.result.is_error
        assert toolset.called == [(call.call.name, call.call.arguments)]
        assert isinstance(call.call.arguments["number"], int)

        # The prompt only grows: each turn finds all of the one before computed, but for the
        # last, unfinished page.
        steps = [*searched, *called]
        assert all(step.usage.prompt_tokens < CONTEXT_LENGTH for step in steps)
        for before, after in pairwise(steps):
            assert after.usage.cached_tokens > before.usage.prompt_tokens - 16
