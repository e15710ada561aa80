"""Seven broken tool servers beside two good ones, all at once: the good ones do not notice."""

from __future__ import annotations

import anyio
import pytest

from tests.helpers.tool_servers import python_server, scripted_server
from tools.mcp_client.config import ServerConfig, Timeouts
from tools.mcp_client.process import MAX_LINE_BYTES
from tools.mcp_client.toolset import McpToolset, open_toolset
from tools.spec import ToolResult
from tools.toolset import CallContext

pytestmark = pytest.mark.anyio

NUM_CALLS = 40
LIMIT = Timeouts(connect_s=2)
FLOOD = (
    "import sys\nwhile True: print('{}' * 20, file=sys.stdout); print('!' * 40, file=sys.stderr)"
)
BROKEN = {
    "missing": ServerConfig("missing", "no-such-command-anywhere"),
    "exits": python_server("exits", "-c", "import sys; sys.exit(3)"),
    "hangs": ServerConfig("hangs", "/bin/sleep", ("1000",), timeouts=LIMIT),
    "floods": python_server("floods", "-c", FLOOD, timeouts=LIMIT),
    "garbage": python_server(
        "garbage",
        "-c",
        "import os, time; os.write(1, bytes(range(256)) * 9); time.sleep(1000)",
        timeouts=LIMIT,
    ),
    "huge": python_server("huge", "-c", "print('x' * 50_000_000)"),
    "dies": scripted_server("dies"),
}
GOOD = {name: scripted_server(name) for name in ("good1", "good2")}
REASONS = {
    "missing": "cannot be started: its command 'no-such-command-anywhere' was not found; ",
    "exits": "exited with status 3",
    "hangs": "did not answer within 2 s",
    "floods": "did not answer within 2 s; lines of its stdout that are not JSON-RPC: ",
    "garbage": "did not answer within 2 s; lines of its stdout that are not JSON-RPC: ",
    "huge": f"sent a message of more than {MAX_LINE_BYTES} bytes",
}


@pytest.mark.slow
async def test_seven_broken_servers_do_not_disturb_two_good_ones() -> None:
    with anyio.fail_after(30):
        async with open_toolset(BROKEN | GOOD) as toolset:
            async with anyio.create_task_group() as group:
                for name in GOOD:
                    group.start_soon(_call_often, toolset, name)
                group.start_soon(_kill_often, toolset)
                for name, reason in REASONS.items():
                    state = await toolset.wait_for(name, "failed")
                    assert (state.reason or "").startswith(reason)
            offered = {tool.server for tool in await toolset.list_tools()}
            assert offered - {"dies"} == set(GOOD)
            for name in REASONS:  # what a model reads when it calls one of theirs
                result = await toolset.call_tool(f"{name}__echo", {}, CallContext())
                assert result.is_error
                assert result.text.startswith(f"server {name!r} is not available: it ")


@pytest.mark.slow
async def test_storm_of_notifications_in_a_call_delays_nobody_and_changes_no_answer() -> None:
    servers = {name: scripted_server(name, "changing") for name in ("stormy", "good1")}
    with anyio.fail_after(30):
        async with open_toolset(servers) as toolset, anyio.create_task_group() as group:
            group.start_soon(_call_often, toolset, "good1")
            await toolset.wait_for("stormy", "ready")
            for _ in range(2):
                storm = await toolset.call_tool("stormy__storm", {"times": 300}, CallContext())
                assert storm == ToolResult.from_text("calm")
            assert toolset.states()["stormy"].status == "ready"


async def _call_often(toolset: McpToolset, server: str) -> None:
    """Call a good server again and again, whatever the others do meanwhile."""
    await toolset.wait_for(server, "ready")
    pid = toolset.states()[server].pid
    for number in range(NUM_CALLS):
        with anyio.fail_after(5):
            result = await toolset.call_tool(
                f"{server}__echo", {"text": str(number)}, CallContext()
            )
        assert result == ToolResult.from_text(str(number))
    assert toolset.states()[server].pid == pid  # never restarted


async def _kill_often(toolset: McpToolset) -> None:
    """Let a server be killed in a call, twice: each call fails, the server comes back."""
    for _ in range(2):
        result = await toolset.call_tool("dies__die", {}, CallContext())
        assert result.is_error
        await toolset.wait_for("dies", "ready")
