"""Hosts as they are, on a clock that jumps: each gets the whole answer of a three-minute run.

What each host does is written in the specification of our tools: Claude Desktop cuts calls at
60 s, Claude Code ends a call that was silent for 300 s, most hosts know no tasks.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import anyio
import mcp_types as t
import pytest
from mcp import Client
from mcp.client.extension import advertise

from runtime.chat.messages import ChatEvent, ToolCall
from tests.helpers.model_service import ScriptedModels, ServedModel, agent_over, connect
from tests.helpers.scripted_chat_model import AskedTurn, ScriptedTurn
from tests.helpers.scripted_tools import ScriptedToolset, make_spec
from tests.helpers.task_client import TaskPolling
from tests.helpers.virtual_time import VIRTUAL_TIME
from tools.spec import JsonObject, ToolResult

pytestmark = pytest.mark.anyio

WORDS = " ".join(f"word{number}" for number in range(179))
RUN_S = 180.0
DESKTOP_CUT_S = 60.0
CODE_IDLE_S = 300.0
WIPE = ToolCall("call-1", "fs__wipe", {"path": "/a"})


@pytest.fixture
def anyio_backend() -> Any:
    return VIRTUAL_TIME


@dataclass
class SlowModel(ServedModel):
    """Takes a second for each word, and for the end."""

    async def stream(self, *args: Any, **options: Any) -> AsyncGenerator[ChatEvent]:
        async with aclosing(super().stream(*args, **options)) as events:
            async for event in events:
                await anyio.sleep(1)
                yield event


@dataclass
class Host:
    """A host's model that calls one tool and takes up the run until it is over."""

    client: Client
    timeout_s: float | None = None
    num_calls: int = 0
    longest_s: float = 0.0

    async def call(self, name: str, arguments: JsonObject) -> JsonObject:
        began = anyio.current_time()
        result = await self.client.call_tool(name, arguments, read_timeout_seconds=self.timeout_s)
        self.num_calls += 1
        self.longest_s = max(self.longest_s, anyio.current_time() - began)
        assert not result.is_error, result.content
        assert isinstance(result.content[0], t.TextContent)
        content = dict(result.structured_content or {})
        assert result.content[0].text == content.get("answer", result.content[0].text)
        return content

    async def work(self) -> JsonObject:
        """Do as the texts of the results say."""
        content = await self.call("agent_run", {"task": "tell all"})
        while content["status"] == "running":
            content = await self.call("run_result", {"run_id": content["run_id"]})
        return content


def telling() -> ScriptedModels:
    return ScriptedModels(SlowModel(lambda asked: ScriptedTurn(WORDS)))


NO_TOOLS = agent_over(ScriptedToolset([]), "fs")


async def test_claude_desktop_gets_the_answer_in_calls_that_it_does_not_cut() -> None:
    ui = advertise("io.modelcontextprotocol/ui", {"mimeTypes": ["text/html;profile=mcp-app"]})
    async with connect(telling(), NO_TOOLS, era="legacy", within_s=400, extensions=[ui]) as client:
        assert client.protocol_version == "2025-11-25"
        host = Host(client, timeout_s=DESKTOP_CUT_S)
        content = await host.work()
        assert anyio.current_time() >= RUN_S
    assert (content["answer"], content["stopped_by"]) == (WORDS, "done")
    assert host.num_calls == 5  # four of 45 s, and what was left
    assert host.longest_s < DESKTOP_CUT_S


async def test_bare_client_gets_the_answer_through_handles() -> None:
    async with connect(telling(), NO_TOOLS, era="2026-07-28", within_s=400) as client:
        host = Host(client)
        content = await host.work()
        assert anyio.current_time() >= RUN_S
    assert content["answer"] == WORDS
    assert host.longest_s < DESKTOP_CUT_S


async def test_client_that_knows_tasks_gets_the_answer_in_one_call() -> None:
    tasks = TaskPolling()
    async with connect(
        telling(), NO_TOOLS, era="2026-07-28", within_s=400, extensions=[tasks]
    ) as client:
        host = Host(client, timeout_s=DESKTOP_CUT_S)  # of each request, not of the task
        content = await host.work()
        assert anyio.current_time() >= RUN_S
    assert content["answer"] == WORDS
    assert host.num_calls == 1
    assert [task["status"] for task in tasks.seen[:-1]] == ["working"] * (len(tasks.seen) - 1)
    assert {task.get("statusMessage") for task in tasks.seen} == {"step 1"}


async def test_claude_code_asks_its_user_and_never_finds_the_call_silent() -> None:
    """One call of nine minutes: a person is asked, a tool is silent for six, a turn takes three."""

    def script(asked: AskedTurn) -> ScriptedTurn:
        is_done = asked.messages[-1].role == "tool"
        return ScriptedTurn(WORDS) if is_done else ScriptedTurn("let me see", (WIPE,))

    async def wipe(arguments: JsonObject) -> ToolResult:
        await anyio.sleep(360)
        return ToolResult.from_text("wiped")

    spec = make_spec("fs__wipe", server="fs", destructive=True)
    toolset = ScriptedToolset([(spec, wipe)])
    news: list[tuple[float, float]] = []  # when, and how far
    asked: list[str] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        news.append((anyio.current_time(), progress))

    async def elicit(context: Any, params: Any) -> t.ElicitResult:
        asked.append(params.message)
        return t.ElicitResult(action="accept", content={"call_1": True})

    models = ScriptedModels(SlowModel(script))
    async with connect(
        models,
        agent_over(toolset, "fs"),
        era="legacy",
        within_s=1000,
        elicitation_callback=elicit,
    ) as client:
        result = await client.call_tool(
            "agent_run", {"task": "tidy up", "wait_seconds": 600}, progress_callback=on_progress
        )
        end = anyio.current_time()
    assert result.structured_content is not None
    assert result.structured_content["answer"] == WORDS
    assert [step["approved_by"] for step in result.structured_content["steps"]] == ["user"]
    assert len(asked) == 1
    times = [0.0, *(when for when, _ in news), end]
    assert end > 360 + RUN_S
    assert max(b - a for a, b in pairwise(times)) < CODE_IDLE_S / 2
    progress = [done for _, done in news]
    assert progress == sorted(set(progress))  # it grows with each notification
