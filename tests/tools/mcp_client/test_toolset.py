"""Tool servers that misbehave in every way we know, as real processes."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from tests.helpers.tool_servers import is_running, python_server, scripted_server
from tools.errors import ConfigurationError, UnknownToolError
from tools.mcp_client.config import ServerConfig, Timeouts
from tools.mcp_client.process import MAX_LINE_BYTES
from tools.mcp_client.toolset import McpToolset, open_toolset
from tools.spec import ToolResult
from tools.toolset import CallContext

pytestmark = pytest.mark.anyio
CONTEXT = CallContext()
HELLO = ToolResult.from_text("hello")


@asynccontextmanager
async def opened(*configs: ServerConfig) -> AsyncIterator[McpToolset]:
    with anyio.fail_after(20):
        async with open_toolset({config.name: config for config in configs}) as toolset:
            yield toolset


async def say_hello(toolset: McpToolset, server: str) -> ToolResult:
    return await toolset.call_tool(f"{server}__echo", {"text": "hello"}, CONTEXT)


async def test_tools_of_all_servers_are_listed_in_order_and_called() -> None:
    async with opened(scripted_server("b"), scripted_server("a")) as toolset:
        names = [tool.name for tool in await toolset.list_tools()]
        assert names == sorted(names)
        assert len(names) == 22
        assert [await say_hello(toolset, server) for server in "ab"] == [HELLO, HELLO]
        state = toolset.states()["a"]
        assert (state.status, state.num_tools, state.protocol_version) == (
            "ready",
            11,
            "2025-11-25",
        )
        with pytest.raises(UnknownToolError, match="did you mean 'a__echo'"):
            await toolset.call_tool("a__eco", {}, CONTEXT)
        wrong = await toolset.call_tool("a__echo", {}, CONTEXT)
        assert wrong == ToolResult.from_text(
            "Invalid arguments for a__echo: $: 'text' is a required property", is_error=True
        )


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            ServerConfig("bad", "no-such-command-anywhere"),
            (
                "cannot be started: its command 'no-such-command-anywhere' was not found; "
                "install it or give its full path"
            ),
        ),
        (
            replace(scripted_server("bad"), cwd=Path("/no/such/folder")),
            "cannot be started: its folder '/no/such/folder' does not exist",
        ),
        (
            ServerConfig("bad", "/etc/passwd"),
            (
                "cannot be started: its command '/etc/passwd' fails with "
                "[Errno 13] Permission denied: '/etc/passwd'"
            ),
        ),
        (
            python_server("bad", "-c", "import sys; sys.exit('no licence')"),
            "exited with status 1; the last line of its stderr is 'no licence'",
        ),
        (
            python_server("bad", "-c", "import os, time; os.close(1); time.sleep(1000)"),
            "closed its output",
        ),
        (
            ServerConfig(
                "bad",
                "/bin/sh",
                ("-c", "echo Welcome!; exec /bin/sleep 1000"),
                timeouts=Timeouts(connect_s=0.5),
            ),
            (
                "did not answer within 0.5 s; lines of its stdout that are not JSON-RPC: 1, "
                "the first is 'Welcome!'"
            ),
        ),
        (
            ServerConfig("bad", "/bin/sleep", ("1000",), timeouts=Timeouts(connect_s=0.2)),
            "did not answer within 0.2 s",
        ),
        (
            python_server("bad", "-c", f"print('x' * {MAX_LINE_BYTES + 1})"),
            f"sent a message of more than {MAX_LINE_BYTES} bytes",
        ),
        (
            ServerConfig("bad", problem="`command` is missing"),
            "cannot be used: `command` is missing",
        ),
    ],
)
async def test_a_server_that_cannot_be_used_says_why_and_harms_no_other(
    config: ServerConfig, reason: str
) -> None:
    async with opened(config, scripted_server("good")) as toolset:
        assert await say_hello(toolset, "good") == HELLO  # whatever the other one does meanwhile
        state = await toolset.wait_for("bad", "failed")
        assert state.reason == reason
        assert {tool.server for tool in await toolset.list_tools()} == {"good"}
        assert await toolset.call_tool("bad__echo", {}, CONTEXT) == ToolResult.from_text(
            f"server 'bad' is not available: it {reason}", is_error=True
        )
        assert await say_hello(toolset, "good") == HELLO


async def test_a_disabled_server_is_not_started() -> None:
    config = replace(scripted_server("off"), is_enabled=False)
    async with opened(config) as toolset:
        assert await toolset.list_tools() == []
        assert toolset.states()["off"].status == "disabled"
        assert (await say_hello(toolset, "off")).is_error


async def test_a_server_killed_in_a_call_fails_that_call_and_is_started_again() -> None:
    async with opened(scripted_server("a"), scripted_server("b")) as toolset:
        first = await toolset.wait_for("a", "ready")
        lost = await toolset.call_tool("a__die", {}, CONTEXT)
        assert lost == ToolResult.from_text(
            (
                "the connection to server 'a' was lost during the call of a__die; "
                "whether it had an effect is unknown"
            ),
            is_error=True,
        )
        assert toolset.states()["a"].status == "restarting"
        assert await say_hello(toolset, "b") == HELLO
        assert len(await toolset.list_tools()) == 22  # its tools stay while it is restarting
        assert await say_hello(toolset, "a") == HELLO  # waits for the new process
        assert toolset.states()["a"].pid != first.pid


async def test_a_server_killed_between_calls_is_started_again() -> None:
    async with opened(scripted_server("a")) as toolset:
        pid = (await toolset.wait_for("a", "ready")).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await toolset.wait_for("a", "restarting")
        assert await say_hello(toolset, "a") == HELLO


async def test_a_silent_call_is_given_up_and_the_server_stays() -> None:
    config = scripted_server("a", timeouts=Timeouts(connect_s=5, idle_s=0.5, total_s=5))
    async with opened(config) as toolset:
        assert await toolset.call_tool("a__hang", {}, CONTEXT) == ToolResult.from_text(
            (
                "server 'a' was silent for 0.5 s, so the call of a__hang was given up; "
                "it may still have had an effect"
            ),
            is_error=True,
        )
        assert await say_hello(toolset, "a") == HELLO


async def test_progress_is_passed_on_and_only_grows() -> None:
    reports: list[tuple[float, float | None]] = []

    async def report(done: float, total: float | None, message: str | None) -> None:
        reports.append((done, total))

    async with opened(scripted_server("a")) as toolset:
        result = await toolset.call_tool("a__count", {}, CallContext(report))
    assert result == ToolResult.from_text("counted")
    assert reports == [(1, 3), (3, 3)]


@pytest.mark.slow
async def test_progress_keeps_a_call_alive_and_its_whole_time_is_bounded() -> None:
    limits = Timeouts(connect_s=5, idle_s=1, total_s=3)
    async with opened(scripted_server("a", "changing", timeouts=limits)) as toolset:
        slow = await toolset.call_tool("a__crawl", {"steps": 14}, CONTEXT)
        assert slow == ToolResult.from_text("there")
        endless = await toolset.call_tool("a__crawl", {"steps": 100}, CONTEXT)
        assert endless == ToolResult.from_text(
            (
                "server 'a' took more than 3 s, so the call of a__crawl was given up; "
                "it may still have had an effect"
            ),
            is_error=True,
        )


async def test_a_call_that_is_cancelled_or_given_up_is_cancelled_at_the_server() -> None:
    limits = Timeouts(connect_s=5, idle_s=0.2, total_s=5)
    async with opened(scripted_server("a", "changing", timeouts=limits)) as toolset:
        await toolset.wait_for("a", "ready")
        with anyio.move_on_after(0.1) as scope:
            await toolset.call_tool("a__hang", {}, CONTEXT)
        assert scope.cancelled_caught
        assert (await toolset.call_tool("a__hang", {}, CONTEXT)).is_error
        found = await toolset.call_tool("a__cancelled", {}, CONTEXT)
        assert found.structured == {"num_cancelled": 2}


async def test_a_call_is_left_at_once_although_the_server_reads_nothing_any_more() -> None:
    async with opened(scripted_server("a", "changing")) as toolset:
        await toolset.call_tool("a__deafen", {}, CONTEXT)
        with anyio.fail_after(3), anyio.move_on_after(0.1) as scope:
            await toolset.call_tool("a__echo", {"text": "x" * 1_000_000}, CONTEXT)
        assert scope.cancelled_caught


async def test_junk_between_messages_is_ignored_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opened(scripted_server("a", "junk")) as toolset:
        assert await say_hello(toolset, "a") == HELLO
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert warnings == ["server=a prints lines to stdout that are not JSON-RPC; they are ignored"]


@pytest.mark.parametrize(
    ("tool", "text"),
    [
        ("refuse", "server 'a' refused the call of a__refuse: not today"),
        ("mislead", "server 'a' answered the call of a__mislead with what is no result: "),
        ("malform", "server 'a' answered the call of a__malform with what is no result: "),
    ],
)
async def test_a_wrong_answer_is_an_error_result(tool: str, text: str) -> None:
    async with opened(scripted_server("a")) as toolset:
        result = await toolset.call_tool(f"a__{tool}", {}, CONTEXT)
        assert result.is_error
        assert result.text.startswith(text)
        assert await say_hello(toolset, "a") == HELLO


async def test_a_large_result_arrives_whole_and_a_huge_one_ends_the_connection() -> None:
    async with opened(scripted_server("a")) as toolset:
        large = await toolset.call_tool("a__flood", {"size": 3_000_000}, CONTEXT)
        assert len(large.text) == 3_000_000
        huge = await toolset.call_tool("a__flood", {"size": MAX_LINE_BYTES}, CONTEXT)
        assert huge.is_error
        assert await say_hello(toolset, "a") == HELLO


async def test_a_tool_with_an_invalid_schema_is_left_out() -> None:
    async with opened(scripted_server("a", "invalid")) as toolset:
        names = [tool.name for tool in await toolset.list_tools()]
    assert len(names) == 10
    assert "a__refuse" not in names


async def test_a_server_sees_nothing_of_our_environment_and_leads_its_own_session(
    tmp_path: Path,
) -> None:
    config = replace(scripted_server("a"), env={"ONLY": "this"}, cwd=tmp_path)
    async with opened(config) as toolset:
        found = (await toolset.call_tool("a__environment", {}, CONTEXT)).structured
    assert found is not None
    added_by_python = {"LC_CTYPE"}
    assert set(found["env"]) - added_by_python == {"ONLY"}
    assert found["cwd"] == str(tmp_path)
    assert found["sid"] == found["pid"] != os.getsid(0)


async def test_stderr_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with opened(scripted_server("a", "loud")) as toolset:
            await toolset.wait_for("a", "ready")
    assert "server=a stderr: starting up" in [r.getMessage() for r in caplog.records]


async def test_a_flood_on_stderr_is_cut_and_its_last_line_is_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    code = "import sys; sys.stderr.write('noise\\n\\n' * 20_000); sys.exit('no licence')"
    with caplog.at_level(logging.INFO):
        async with opened(python_server("bad", "-c", code)) as toolset:
            state = await toolset.wait_for("bad", "failed")
    assert state.reason == "exited with status 1; the last line of its stderr is 'no licence'"
    shown = [r for r in caplog.records if "server=bad stderr: noise" in r.getMessage()]
    assert 0 < len(shown) <= 100  # 25 non-blank ones in each second


async def test_leaving_ends_every_process_and_its_children() -> None:
    async with opened(scripted_server("a"), scripted_server("b", "stubborn")) as toolset:
        pids = await _pids(toolset, "a", "b")
    assert [pid for pid in pids if is_running(pid)] == []


async def test_being_cancelled_ends_every_process_and_its_children() -> None:
    pids: list[int] = []
    with anyio.CancelScope() as scope:
        async with opened(scripted_server("a"), scripted_server("b", "stubborn")) as toolset:
            pids += await _pids(toolset, "a", "b")
            scope.cancel()
            await toolset.call_tool("a__hang", {}, CONTEXT)
    assert scope.cancelled_caught
    assert len(pids) == 4
    assert [pid for pid in pids if is_running(pid)] == []


async def test_children_of_a_server_that_exits_do_not_outlive_it() -> None:
    async with opened(scripted_server("a")) as toolset:
        result = await toolset.call_tool("a__spawn_and_exit", {}, CONTEXT)
        assert result.structured is not None
        assert is_running(result.structured["pid"])
        await toolset.wait_for("a", "restarting")
        await toolset.wait_for("a", "ready")
        assert not is_running(result.structured["pid"])


async def test_what_the_caller_raises_leaves_unwrapped() -> None:
    with pytest.raises(ConfigurationError, match="mine"):
        async with opened(scripted_server("a")):
            raise ConfigurationError("mine")


async def _pids(toolset: McpToolset, *servers: str) -> list[int]:
    """Return the processes of the servers and of a child that each has started."""
    pids: list[int] = []
    for server in servers:
        child = (await toolset.call_tool(f"{server}__spawn", {}, CONTEXT)).structured
        own = toolset.states()[server].pid
        assert child is not None
        assert own is not None
        pids += [own, child["pid"]]
    assert all(is_running(pid) for pid in pids)
    return pids
