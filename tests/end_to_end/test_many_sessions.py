"""A hundred sessions at once over one HTTP server: none sees a message of another.

Every session uses the same request ids and progress tokens, so only the server can keep apart
what belongs to whom.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest

from mcp_servers.cli.bench_wire import HANDSHAKE, HEADERS, INITIALIZE, MODERN, make_message
from mcp_servers.guard import make_access
from mcp_servers.service_state import ServiceState
from mcp_servers.toolset_server import build_server
from mcp_servers.web_app import open_web_app
from runtime.agent.tool_tally import ToolCallTally
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import on_port, open_app
from tools.spec import JsonObject, TextContent, ToolResult, ToolSpec
from tools.toolset import CallContext

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

NUM_SESSIONS = 100
NUM_CALLS = 4
NUM_REPORTS = 25
HANGS = ScriptedTurn("on and", hangs=True)


class NamingToolset:
    """One tool: reports its caller's name again and again, then returns it.

    It gives way between reports, so that those of all callers mix.
    """

    def __init__(self) -> None:
        self._random = random.Random(1)

    async def list_tools(self) -> Sequence[ToolSpec]:
        return [ToolSpec("name", "Says a name.", {"type": "object"})]

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> ToolResult:
        caller = arguments["caller"]
        for number in range(1, NUM_REPORTS + 1):
            for _ in range(self._random.randrange(4)):
                await anyio.lowlevel.checkpoint()
            await context.report_progress(number, number, caller)  # the last one: never held back
        return ToolResult((TextContent(caller),))


@dataclass
class Session:
    """One client's connection; `got` is every message that came to it, `pushed` unasked ones."""

    http: httpx2.AsyncClient
    url: str
    era: str
    name: str
    headers: dict[str, str] = field(default_factory=dict)
    got: list[dict[str, Any]] = field(default_factory=list)
    pushed: list[str] = field(default_factory=list)

    async def open(self) -> None:
        self.headers = {**HEADERS, "mcp-protocol-version": self.era}
        if self.era == HANDSHAKE:
            opened = await self._post(1, "initialize", INITIALIZE)
            self.headers["mcp-session-id"] = opened.headers["mcp-session-id"]
            await self._post(None, "notifications/initialized", {})

    async def listen(self) -> None:
        """Keep the stream open on which a server may send what nobody asked for."""
        async with self.http.stream("GET", self.url, headers=self.headers) as response:
            async for line in response.aiter_lines():
                self.pushed.append(line)

    async def call(self, request_id: int, tool: str, arguments: JsonObject) -> dict[str, Any]:
        """Call a tool; return its result, after the messages that came before it."""
        params = {"name": tool, "arguments": arguments, "_meta": {"progressToken": "token"}}
        routing = {"mcp-method": "tools/call", "mcp-name": tool} if self.era == MODERN else {}
        response = await self._post(request_id, "tools/call", params, routing)
        lines = [line.removeprefix("data: ") for line in response.text.splitlines()]
        messages = [json.loads(line) for line in lines if line.startswith("{")]
        self.got += messages
        assert messages[-1]["id"] == request_id
        result: dict[str, Any] = messages[-1]["result"]
        return result

    async def _post(
        self,
        request_id: int | None,
        method: str,
        params: Mapping[str, Any],
        routing: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        message = make_message(request_id, method, params, self.era)
        headers = {**self.headers, **(routing or {})}
        response = await self.http.post(self.url, json=message, headers=headers)
        assert response.status_code in {200, 202}, response.text
        return response


@asynccontextmanager
async def sessions(url: str, eras: Sequence[str]) -> AsyncIterator[list[Session]]:
    """Open a hundred sessions of these eras in turn."""
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(timeout=50, limits=limits, trust_env=False) as http:
        opened = [
            Session(http, url, eras[number % len(eras)], f"caller {number}")
            for number in range(NUM_SESSIONS)
        ]
        async with anyio.create_task_group() as group:
            for session in opened:
                group.start_soon(session.open)
        yield opened


async def test_ten_thousand_messages_of_a_hundred_sessions_reach_their_own() -> None:
    server = build_server("naming", NamingToolset())

    def state() -> ServiceState:
        return ServiceState(0, 0, {}, ToolCallTally(), {})

    async def talk(session: Session) -> None:
        for number in range(NUM_CALLS):
            result = await session.call(number, "name", {"caller": session.name})
            assert result["content"][0]["text"] == session.name

    with anyio.fail_after(50):
        async with (
            open_web_app(server, make_access("127.0.0.1", ()), lambda: "ready", state) as web,
            on_port(web) as url,
            sessions(url, [HANDSHAKE, MODERN]) as opened,
            anyio.create_task_group() as listeners,
        ):
            for session in opened[::2]:
                listeners.start_soon(session.listen)
            async with anyio.create_task_group() as group:
                for session in opened:
                    group.start_soon(talk, session)
            listeners.cancel_scope.cancel()
    messages = [(session.name, message) for session in opened for message in session.got]
    reports = [(name, one["params"]) for name, one in messages if "method" in one]
    assert len(reports) == NUM_SESSIONS * NUM_CALLS * NUM_REPORTS == 10_000
    assert len(messages) == len(reports) + NUM_SESSIONS * NUM_CALLS
    assert {(params["message"] == name, params["progressToken"]) for name, params in reports} == {
        (True, "token")
    }
    assert [line for session in opened for line in session.pushed if line.startswith("data")] == []


async def test_no_session_can_have_the_run_of_another() -> None:
    models = scripted_models(play(HANGS))

    async def talk(session: Session, others: Mapping[str, str]) -> None:
        """Ask for some foreign runs, and for the own one."""
        for number, (name, run_id) in enumerate(list(others.items())[::25]):
            asked = {"run_id": run_id, "wait_seconds": 0, "cancel": True}
            if name != session.name:
                result = await session.call(100 + number, "run_result", asked)
                assert result["isError"]
                assert "no run has this id" in result["content"][0]["text"]
        own = {"run_id": others[session.name], "wait_seconds": 0}
        found = await session.call(200, "run_result", own)
        assert found["structuredContent"] == {"status": "running", "run_id": own["run_id"]}

    async def hand_out(session: Session, runs: dict[str, str]) -> None:
        given = {"prompt": session.name, "wait_seconds": 0}
        result = await session.call(2, "generate", given)
        runs[session.name] = result["structuredContent"]["run_id"]

    async with (
        open_app(models) as app,
        on_port(app.web) as url,
        sessions(url, [HANDSHAKE]) as opened,
    ):
        runs: dict[str, str] = {}
        async with anyio.create_task_group() as group:
            for session in opened:
                group.start_soon(hand_out, session, runs)
        assert len(set(runs.values())) == NUM_SESSIONS
        async with anyio.create_task_group() as group:
            for session in opened:
                group.start_soon(talk, session, runs)
