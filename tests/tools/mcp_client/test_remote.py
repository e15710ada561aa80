"""Tool servers over streamable HTTP, and everything that can be wrong with them."""

from __future__ import annotations

import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from tests.helpers.http_tool_servers import Answer, ScriptedHttpServer, http_response, serve_http
from tests.helpers.tool_servers import scripted_server
from tools.function import FunctionToolset
from tools.mcp_client.config import ServerConfig, Timeouts
from tools.mcp_client.process import MAX_LINE_BYTES
from tools.mcp_client.toolset import McpToolset, open_toolset
from tools.spec import ToolResult
from tools.toolset import CallContext

pytestmark = pytest.mark.anyio
CONTEXT = CallContext()
HELLO = ToolResult.from_text("hello")
QUICK = Timeouts(connect_s=5, idle_s=5, total_s=10)


@asynccontextmanager
async def opened(*configs: ServerConfig) -> AsyncIterator[McpToolset]:
    with anyio.fail_after(20):
        async with open_toolset({config.name: config for config in configs}) as toolset:
            yield toolset


@asynccontextmanager
async def answering(answer: Answer, limits: Timeouts) -> AsyncIterator[McpToolset]:
    """A toolset of one server, `web`, that answers as `answer` says."""
    async with (
        ScriptedHttpServer(answer).run() as url,
        opened(ServerConfig("web", url=url, timeouts=limits)) as toolset,
    ):
        yield toolset


async def say_hello(toolset: McpToolset, server: str) -> ToolResult:
    return await toolset.call_tool(f"{server}__echo", {"text": "hello"}, CONTEXT)


def as_scripted(message: dict[str, Any]) -> bytes | None:
    raise NotImplementedError


async def echo(text: str, context: CallContext) -> str:
    """Say it back, with progress."""
    await context.report_progress(1, 2, "half")
    return text


async def test_tools_at_a_url_are_listed_and_called_with_progress() -> None:
    reports: list[tuple[float, float | None, str | None]] = []

    async def report(done: float, total: float | None, message: str | None) -> None:
        reports.append((done, total, message))

    async with serve_http(FunctionToolset(echo)) as url:
        config = ServerConfig("web", url=url, timeouts=QUICK)
        async with opened(config, scripted_server("local")) as toolset:
            result = await toolset.call_tool("web__echo", {"text": "a"}, CallContext(report))
            assert result.structured == {"result": "a"}
            assert reports == [(1, 2, "half")]
            state = toolset.states()["web"]
            assert (state.status, state.num_tools, state.pid) == ("ready", 1, None)
            assert state.protocol_version == "2026-07-28"
            assert {tool.server for tool in await toolset.list_tools()} == {"web", "local"}


async def test_an_older_server_gets_the_headers_of_its_entry() -> None:
    server = ScriptedHttpServer(as_scripted)
    async with server.run() as url:
        config = ServerConfig("web", url=url, headers={"X-Key": "k3y"}, timeouts=QUICK)
        async with opened(config) as toolset:
            assert await say_hello(toolset, "web") == HELLO
            assert toolset.states()["web"].protocol_version == "2025-11-25"
    assert len(server.requests) > 3
    assert all("x-key: k3y" in head.lower() for head in server.requests)


def always(response: bytes | None) -> Answer:
    return lambda message: response


def at(method: str, response: bytes) -> Answer:
    def answer(message: dict[str, Any]) -> bytes | None:
        if message["method"] == method:
            return response
        raise NotImplementedError

    return answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            always(http_response(401)),
            "answered with HTTP status 401 at {place}; check the entry's `headers`",
        ),
        (always(http_response(404)), "answered with HTTP status 404 at {place}"),
        (always(http_response(500, b"oops")), "answered with HTTP status 500 at {place}"),
        (always(None), "did not answer within 0.5 s"),
        (always(b""), "cannot be used at {place}: Server disconnected without sending a response."),
        (
            at("tools/list", http_response(200, b"<html>", content_type="text/html")),
            "answers with something that cannot be used: Unexpected content type: text/html",
        ),
        (
            always(http_response(200, b"x" * (MAX_LINE_BYTES + 1))),
            f"cannot be used at {{place}}: it sent a message of more than {MAX_LINE_BYTES} bytes",
        ),
        (
            always(http_response(200, gzip.compress(b"{}"), "content-encoding: gzip")),
            "cannot be used at {place}: its answer is encoded as 'gzip', unasked",
        ),
    ],
)
async def test_a_server_that_cannot_be_used_says_why_and_harms_no_other(
    answer: Answer, reason: str
) -> None:
    limits = Timeouts(connect_s=0.5 if reason.startswith("did not") else 5)
    async with ScriptedHttpServer(answer).run() as url:
        config = ServerConfig("bad", url=url, timeouts=limits)
        async with opened(config, scripted_server("good")) as toolset:
            assert await say_hello(toolset, "good") == HELLO
            state = await toolset.wait_for("bad", "failed")
            assert state.reason == reason.format(place=url.partition("?")[0])
            assert (await say_hello(toolset, "bad")).is_error
            assert await say_hello(toolset, "good") == HELLO


async def test_nobody_at_the_url_is_told() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # bound, and nobody listens
        url = f"http://127.0.0.1:{unheard.getsockname()[1]}/mcp"
        async with opened(ServerConfig("bad", url=url, timeouts=QUICK)) as toolset:
            state = await toolset.wait_for("bad", "failed")
    assert state.reason == f"cannot be used at {url}: All connection attempts failed"


@pytest.mark.parametrize("failure", [b"", http_response(404)])
async def test_a_server_lost_in_a_call_fails_that_call_and_is_connected_again(
    failure: bytes,
) -> None:
    failures = [failure]

    def answer(message: dict[str, Any]) -> bytes | None:
        if message["method"] == "tools/call" and failures:
            return failures.pop()
        raise NotImplementedError

    async with answering(answer, QUICK) as toolset:
        lost = await say_hello(toolset, "web")
        assert lost == ToolResult.from_text(
            (
                "the connection to server 'web' was lost during the call of web__echo; "
                "whether it had an effect is unknown"
            ),
            is_error=True,
        )
        assert await say_hello(toolset, "web") == HELLO


async def test_a_silent_call_is_given_up_and_the_server_stays() -> None:
    silences = [None]

    def answer(message: dict[str, Any]) -> bytes | None:
        if message["method"] == "tools/call" and silences:
            return silences.pop()
        raise NotImplementedError

    limits = Timeouts(connect_s=5, idle_s=0.5, total_s=10)
    async with answering(answer, limits) as toolset:
        silent = await say_hello(toolset, "web")
        assert silent.text.startswith("server 'web' was silent for 0.5 s")
        assert await say_hello(toolset, "web") == HELLO
