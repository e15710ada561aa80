"""Random runs of the agent loop: rules that hold at each event, await and end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from runtime.agent.approval import PendingCall
from runtime.agent.audit import AuditLog, CallRecord
from runtime.agent.events import (
    AgentEnd,
    AgentEvent,
    StepFinished,
    ToolCallFinished,
    ToolCallStarted,
)
from runtime.agent.limits import Limits
from runtime.agent.loop import Agent
from runtime.agent.policy import Policy
from runtime.chat.messages import Message, ToolCall
from runtime.errors import PromptTooLongError
from runtime.request import Usage
from tests.helpers.scripted_chat_model import ScriptedChatModel, ScriptedTurn
from tests.helpers.scripted_tools import ScriptedToolset, echo, fail, make_spec
from tools.spec import JsonObject, ToolResult

pytestmark = pytest.mark.anyio

PROMPT = (Message("user", "go"),)
ANSWER = ScriptedTurn("it is done")


class RecordedCalls(AuditLog):
    """Keeps the names of the calls that are recorded."""

    def __init__(self, records: list[str]) -> None:
        super().__init__(Path("/nowhere"))
        self.records = records

    def write(self, run_id: str, principal: str, record: CallRecord) -> None:
        self.records.append(record.tool)


class Walk:
    """A random model and random tools, and the rules every run keeps.

    In every third walk the tools are too much for the prompt and have to be found first; some
    tools bring text of strangers, and some could send it on.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        context_length = 100 if seed % 3 == 0 else 8192
        self.model = ScriptedChatModel(self.next_turn, context_length=context_length)
        self.records: list[str] = []
        behaviours = {"echo": echo, "fail": fail, "crash": self.crash, "slow": self.slow}
        tools = []
        for name, behaviour in behaviours.items():
            server = self.random.choice([None, "one", "two"])
            spec = make_spec(
                name,
                server=server,
                read_only=self.random.choice([None, True]),
                destructive=self.random.choice([None, None, True]),
                open_world=self.random.choice([None, False, True]),
            )
            tools.append((spec, behaviour))
        self.toolset = ScriptedToolset(tools)
        self.limits = Limits(max_steps=6, max_calls=8, max_tokens=60)

    def agent(self) -> Agent:
        audit = RecordedCalls(self.records)
        return Agent(self.model, self.toolset, Policy(), self.limits, self.approve, audit)

    def next_turn(self, asked: object) -> ScriptedTurn:
        if self.random.random() < 0.1:
            return self.random.choice(
                [
                    ANSWER,
                    ScriptedTurn("cut", finish_reason="length"),
                    ScriptedTurn(raises=PromptTooLongError("too long")),
                    ScriptedTurn(finish_reason="error", error="bad mask"),
                ]
            )
        known = ["echo", "fail", "crash", "slow", "ghost", "search_tools", "describe_tool"]
        found = self.random.choice(known)
        calls = tuple(
            ToolCall(f"call-{at}", name, {"query": found, "name": found})
            for at, name in enumerate(self.random.choices(known, k=3))
        )
        return ScriptedTurn("hm", calls[: self.random.randrange(1, 4)])

    async def crash(self, arguments: JsonObject) -> ToolResult:
        await anyio.lowlevel.checkpoint()
        raise ValueError("crash")

    async def slow(self, arguments: JsonObject) -> ToolResult:
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        return ToolResult.from_text("slow")

    async def approve(self, calls: Sequence[PendingCall]) -> list[bool] | None:
        await anyio.lowlevel.checkpoint()
        if self.random.random() < 0.2:
            return None
        return [self.random.random() < 0.5 for _ in calls]

    def check_events(self, events: Sequence[AgentEvent]) -> None:
        started = [event.call for event in events if isinstance(event, ToolCallStarted)]
        finished = [event for event in events if isinstance(event, ToolCallFinished)]
        assert [one.call for one in finished] == started[: len(finished)]
        assert len(finished) <= len(self.records) <= len(started)
        made = [one for one in finished if one.approved_by is not None]
        assert len(made) <= self.limits.max_calls
        ends = [event for event in events if isinstance(event, AgentEnd)]
        assert [*events[-1:]] == ends if ends else True

    def check_end(self, events: Sequence[AgentEvent]) -> None:
        end = events[-1]
        assert isinstance(end, AgentEnd)
        finished = [event for event in events if isinstance(event, ToolCallFinished)]
        assert list(end.calls) == finished
        assert self.records == [one.call.name for one in finished]
        assert end.num_steps <= self.limits.max_steps
        usages = [event.usage for event in events if isinstance(event, StepFinished)]
        assert end.usage == sum(usages, Usage())
        asked = [one for turn in end.messages for one in turn.tool_calls]
        answered = [turn.call_id for turn in end.messages if turn.role == "tool"]
        assert [one.call_id for one in asked] == answered

    def check_nothing_runs(self) -> None:
        assert self.toolset.running == []
        assert self.model.num_open == 0


@pytest.mark.parametrize("seed", range(40))
async def test_random_runs_keep_the_rules(seed: int) -> None:
    walk = Walk(seed)
    events: list[AgentEvent] = []
    with anyio.fail_after(5):
        async for event in walk.agent().run(PROMPT):
            events.append(event)
            walk.check_events(events)
    walk.check_end(events)
    walk.check_nothing_runs()


@pytest.mark.parametrize("seed", range(4))
async def test_run_cancelled_at_any_await_leaves_nothing_running(seed: int) -> None:
    for num_awaits in range(1, 1000):
        walk = Walk(seed)
        events: list[AgentEvent] = []
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_cancel_after, num_awaits, tasks.cancel_scope)
                async for event in walk.agent().run(PROMPT):
                    events.append(event)  # noqa: PERF401  what came before the cancellation counts
                tasks.cancel_scope.cancel()
        walk.check_events(events)
        walk.check_nothing_runs()
        if events and isinstance(events[-1], AgentEnd):
            return
    raise AssertionError("the run never ended")


async def _cancel_after(num_awaits: int, scope: anyio.CancelScope) -> None:
    for _ in range(num_awaits):
        await anyio.lowlevel.checkpoint()
    scope.cancel()


@pytest.mark.parametrize("seed", range(4))
async def test_run_left_at_any_event_leaves_nothing_running(seed: int) -> None:
    for num_events in range(1, 1000):
        walk = Walk(seed)
        run = walk.agent().run(PROMPT)
        with anyio.fail_after(5):
            events = [await anext(run) for _ in range(num_events)]
            await run.aclose()
        walk.check_nothing_runs()
        if isinstance(events[-1], AgentEnd):
            return
    raise AssertionError("the run never ended")
