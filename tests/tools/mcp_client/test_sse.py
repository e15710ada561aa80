"""Tool servers of the older HTTP transport, named as such or found out, and what can be wrong."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.streams.memory import MemoryObjectSendStream
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_servers.toolset_server import build_server
from tests.helpers.http_tool_servers import older_app, serve_app
from tests.helpers.tool_servers import RecordingToolset
from tools.function import FunctionToolset
from tools.mcp_client.config import ServerConfig, Timeouts
from tools.mcp_client.process import MAX_LINE_BYTES
from tools.mcp_client.toolset import McpToolset, open_toolset
from tools.spec import ToolResult
from tools.toolset import CallContext

pytestmark = pytest.mark.anyio
QUICK = Timeouts(connect_s=5, idle_s=5, total_s=10)
CONTEXT = CallContext()


@asynccontextmanager
async def connected(app: ASGIApp, *, is_sse: bool = True) -> AsyncIterator[McpToolset]:
    with anyio.fail_after(20), socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/sse"
        config = ServerConfig("old", url=url, is_sse=is_sse, timeouts=QUICK)
        async with serve_app(app, listener), open_toolset({"old": config}) as toolset:
            yield toolset


async def echo(text: str, context: CallContext) -> str:
    """Say it back, with progress."""
    await context.report_progress(1, 2, "half")
    return text


@pytest.mark.parametrize("is_sse", [True, False])
async def test_tools_are_listed_and_called_whether_or_not_the_entry_names_the_transport(
    is_sse: bool,
) -> None:
    reports: list[tuple[float, float | None, str | None]] = []

    async def report(done: float, total: float | None, message: str | None) -> None:
        reports.append((done, total, message))

    async with connected(older_app(FunctionToolset(echo)), is_sse=is_sse) as toolset:
        state = await toolset.wait_for("old", "ready")
        result = await toolset.call_tool("old__echo", {"text": "a"}, CallContext(report))
    assert state.protocol_version == "2025-11-25"
    assert result.structured == {"result": "a"}
    assert reports == [(1, 2, "half")]


async def test_a_call_that_is_given_up_does_not_hold_up_the_next() -> None:
    async def wait(context: CallContext) -> str:
        """Never answers."""
        await anyio.sleep_forever()
        return ""

    async with connected(older_app(FunctionToolset(echo, wait))) as toolset:
        await toolset.wait_for("old", "ready")
        async with anyio.create_task_group() as group:
            group.start_soon(toolset.call_tool, "old__wait", {}, CONTEXT)
            result = await toolset.call_tool("old__echo", {"text": "b"}, CONTEXT)
            group.cancel_scope.cancel()
        assert result.structured == {"result": "b"}


Answer = Callable[[str, dict[str, Any]], bytes | int | None]
"""Makes, of the method and the message posted, an event to send or a status to answer with."""


class ScriptedSse:
    """A server of one tool, `act`, of this transport, that misbehaves as it is told to."""

    def __init__(
        self, answer: Answer | None = None, first: bytes = b"event: endpoint\ndata: /post\n\n"
    ) -> None:
        self._answer = answer
        self._first = first
        self._out: MemoryObjectSendStream[bytes] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET":
            await self._stream(send)
        elif scope["type"] == "http":
            body = b""
            while (message := await receive()).get("more_body"):
                body += message["body"]
            posted = json.loads(body + message["body"])
            status = await self._take(posted)
            await Response(status_code=status)(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        kind = (b"content-type", b"text/event-stream")
        await send({"type": "http.response.start", "status": 200, "headers": [kind]})
        await send({"type": "http.response.body", "body": self._first, "more_body": True})
        self._out, events = anyio.create_memory_object_stream[bytes](32)
        async with self._out, events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _take(self, posted: dict[str, Any]) -> int:
        told = None if self._answer is None else self._answer(posted["method"], posted)
        if isinstance(told, int):
            return told
        assert self._out is not None
        if told == b"":
            self._out.close()
        elif told is not None:
            await self._out.send(told)
        elif (result := RESULTS.get(posted["method"])) is not None:
            reply = {"jsonrpc": "2.0", "id": posted["id"], "result": result}
            await self._out.send(f"event: message\ndata: {json.dumps(reply)}\n\n".encode())
        return 202


RESULTS: dict[str, Any] = {
    "initialize": {
        "protocolVersion": "2024-11-05",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "scripted", "version": "1"},
    },
    "tools/list": {"tools": [{"name": "act", "inputSchema": {"type": "object"}}]},
    "tools/call": {"content": [{"type": "text", "text": "done"}]},
}
DONE = ToolResult.from_text("done")


@pytest.mark.parametrize(
    ("app", "reason"),
    [
        (Starlette(), "answered with HTTP status 404 at {url}"),
        (
            Starlette(routes=[Route("/sse", lambda request: Response("hi", media_type="text/x"))]),
            "answered with content of the type 'text/x; charset=utf-8', not with events at {url}",
        ),
        (
            ScriptedSse(first=b"event: endpoint\ndata: http://evil.example/post\n\n"),
            "wants its messages at another server, 'evil.example' at {url}",
        ),
        (
            ScriptedSse(first=b"event: message\ndata: {}\n\n"),
            "sent no endpoint, which begins a stream of events at {url}",
        ),
    ],
)
async def test_a_server_that_speaks_otherwise_says_how(app: ASGIApp, reason: str) -> None:
    async with connected(app) as toolset:
        state = await toolset.wait_for("old", "failed")
        told = state.reason or ""
    assert told == reason.format(url=told.rpartition(" ")[2])


async def test_a_refused_post_fails_its_call_at_once() -> None:
    def refuse(method: str, message: dict[str, Any]) -> int | None:
        return 500 if method == "tools/call" else None

    async with connected(ScriptedSse(refuse)) as toolset:
        result = await toolset.call_tool("old__act", {}, CONTEXT)
        assert result == ToolResult.from_text(
            "server 'old' refused the call of old__act: HTTP status 500", is_error=True
        )
        assert toolset.states()["old"].status == "ready"


@pytest.mark.parametrize(
    "event",
    [
        b"",  # the end of the stream
        b"event: message\ndata: no json\n\n",
        b"event: message\ndata: " + b"x" * (MAX_LINE_BYTES + 1) + b"\n\n",
    ],
    ids=["end", "junk", "too long"],
)
async def test_a_stream_that_breaks_in_a_call_fails_it_and_is_opened_again(event: bytes) -> None:
    events = [event]

    def break_once(method: str, message: dict[str, Any]) -> bytes | None:
        return events.pop() if method == "tools/call" and events else None

    async with connected(ScriptedSse(break_once)) as toolset:
        lost = await toolset.call_tool("old__act", {}, CONTEXT)
        assert lost.is_error
        assert "was lost during the call of old__act" in lost.text
        assert await toolset.call_tool("old__act", {}, CONTEXT) == DONE


async def test_a_server_that_only_answers_404_is_reported_as_it_is() -> None:
    async with connected(Starlette(), is_sse=False) as toolset:
        state = await toolset.wait_for("old", "failed")
    assert state.reason is not None
    assert state.reason.startswith("answered with HTTP status 404 at http://127.0.0.1:")


async def test_a_newer_server_is_not_asked_for_events() -> None:
    seen: list[str] = []
    inner = build_server("new", RecordingToolset(["act"])).streamable_http_app(
        streamable_http_path="/sse"
    )

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope.get("method", ""))
        await inner(scope, receive, send)

    async with connected(noting, is_sse=False) as toolset:
        await toolset.wait_for("old", "ready")
    assert "GET" not in seen
