"""Servers whose tools change while they run, as real processes of both eras."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
import pytest

from tests.helpers.tool_servers import changing_server, scripted_server
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.toolset import McpToolset, open_toolset
from tools.spec import ToolResult
from tools.toolset import CallContext, ChangingToolset

pytestmark = pytest.mark.anyio
CONTEXT = CallContext()
ERAS = {"2025-11-25": scripted_server("a", "changing"), "2026-07-28": changing_server("a")}


@asynccontextmanager
async def opened(*configs: ServerConfig) -> AsyncIterator[McpToolset]:
    with anyio.fail_after(30):
        async with open_toolset({config.name: config for config in configs}) as toolset:
            yield toolset


async def described(toolset: McpToolset) -> dict[str, str]:
    return {tool.name: tool.description for tool in await toolset.list_tools()}


async def become(toolset: McpToolset, tools: Mapping[str, str], times: int = 1) -> None:
    """Let the server offer these tools, and wait until the toolset does."""
    seen = toolset.changes.count
    arguments = {"tools": dict(tools), "times": times}
    result = await toolset.call_tool("a__become", arguments, CONTEXT)
    assert result == ToolResult.from_text("become")
    await toolset.changes.wait(seen)


@pytest.mark.parametrize("era", ERAS)
async def test_tools_that_come_change_and_go_are_offered_as_they_are(era: str) -> None:
    async with opened(ERAS[era]) as toolset:
        before = await described(toolset)
        assert isinstance(toolset, ChangingToolset)
        assert toolset.states()["a"].protocol_version == era
        three = {"x1": "One.", "x2": "Two.", "x3": "Three."}
        await become(toolset, three)
        offered = {f"a__{name}": text for name, text in three.items()}
        assert await described(toolset) == before | offered
        assert toolset.states()["a"].num_tools == len(before) + 3
        await become(toolset, {"x1": "Another."})
        assert await described(toolset) == before | {"a__x1": "Another."}
        await become(toolset, {})
        assert await described(toolset) == before
        gone = await toolset.call_tool("a__become", {"tools": {}}, CONTEXT)
        assert gone == ToolResult.from_text("become")  # the connection is the same, and works


@pytest.mark.parametrize("era", ERAS)
async def test_nobody_is_told_of_a_list_that_is_as_it_was(era: str) -> None:
    async with opened(ERAS[era]) as toolset:
        await become(toolset, {"x": "One."})
        seen = toolset.changes.count
        await toolset.call_tool("a__become", {"tools": {"x": "One."}}, CONTEXT)
        await become(toolset, {"x": "Two."})
        assert toolset.changes.count == seen + 1


async def test_a_storm_of_changes_is_one_change() -> None:
    async with opened(ERAS["2025-11-25"]) as toolset:
        await toolset.wait_for("a", "ready")
        seen = toolset.changes.count
        await become(toolset, {"x": "One."}, times=2000)
        assert (await described(toolset))["a__x"] == "One."
        assert toolset.changes.count == seen + 1


async def test_coming_up_and_being_lost_for_good_are_changes() -> None:
    async with opened(scripted_server("a")) as toolset:
        assert await toolset.changes.wait(0) == 1
        await toolset.call_tool("a__die", {}, CONTEXT)
        await toolset.wait_for("a", "ready")
        assert toolset.changes.count == 1  # it offers what it did


async def test_a_cancelled_call_is_cancelled_at_a_server_of_the_modern_era() -> None:
    async with opened(changing_server("a", {"hang": "Does not answer."})) as toolset:
        assert "a__hang" in await described(toolset)
        seen = toolset.changes.count
        with anyio.move_on_after(0.1):
            await toolset.call_tool("a__hang", {}, CONTEXT)
        await toolset.changes.wait(seen)
        assert "a__was_cancelled" in await described(toolset)
