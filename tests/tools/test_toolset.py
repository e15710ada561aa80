"""Combinations of toolsets; every kind passes the same contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from tests.helpers.tool_servers import RecordingToolset
from tools.errors import UnknownToolError
from tools.function import FunctionToolset, function_tool
from tools.spec import ToolResult
from tools.toolset import (
    CallContext,
    CombinedToolset,
    FilteredToolset,
    PrefixedToolset,
    Toolset,
    find_tool,
)

pytestmark = pytest.mark.anyio
CONTEXT = CallContext()


async def echo(x: int | None = None) -> dict[str, int | None]:
    return {"x": x}


TOOLSETS: Mapping[str, Callable[[], Toolset]] = {
    "recording": lambda: RecordingToolset(["a", "b"]),
    "functions": lambda: FunctionToolset(
        function_tool(echo, name="a"), function_tool(echo, name="b")
    ),
    "combined": lambda: CombinedToolset(RecordingToolset(["a"]), RecordingToolset(["b"])),
    "prefixed": lambda: FilteredToolset(
        CombinedToolset(RecordingToolset(["a"]), PrefixedToolset(RecordingToolset([""]), "b")),
        lambda tool: True,
    ),
    "filtered": lambda: FilteredToolset(
        RecordingToolset(["a", "secret", "b"]), lambda tool: tool.name != "secret"
    ),
}


@pytest.mark.parametrize("kind", TOOLSETS)
async def test_a_toolset_keeps_the_contract(kind: str) -> None:
    toolset: Toolset = TOOLSETS[kind]()
    assert [tool.name for tool in await toolset.list_tools()] == ["a", "b"]
    assert (await toolset.call_tool("b", {"x": 1}, CONTEXT)).structured == {"x": 1}
    with pytest.raises(UnknownToolError):
        await toolset.call_tool("secret", {}, CONTEXT)


async def test_calls_reach_the_toolset_that_offers_the_tool_under_its_own_name() -> None:
    left, right = RecordingToolset(["get"]), RecordingToolset(["get", "put"])
    toolset = CombinedToolset(left, PrefixedToolset(right, "right__"))
    for name in ("get", "right__get", "right__put"):
        await toolset.call_tool(name, {}, CONTEXT)
    assert left.calls == [("get", {})]
    assert right.calls == [("get", {}), ("put", {})]


async def test_of_two_tools_with_one_name_the_first_is_kept() -> None:
    first, second = RecordingToolset(["get"]), RecordingToolset(["get", "put"])
    toolset = CombinedToolset(first, second)
    assert [tool.name for tool in await toolset.list_tools()] == ["get", "put"]
    await toolset.call_tool("get", {}, CONTEXT)
    assert (len(first.calls), len(second.calls)) == (1, 0)


async def test_find_tool_names_what_is_near() -> None:
    tools = await RecordingToolset(["read_file", "read_dir"]).list_tools()
    assert find_tool(tools, "read_dir").name == "read_dir"
    with pytest.raises(UnknownToolError, match="did you mean 'read_file'"):
        find_tool(tools, "readfile")


def test_a_model_reads_structured_values_as_compact_json_and_content_otherwise() -> None:
    from_text = ToolResult.from_text("plain")
    assert from_text.text == "plain"
    assert ToolResult(from_text.content, {"a": ["é", 1]}).text == '{"a":["é",1]}'
