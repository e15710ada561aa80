"""Tests of counting the calls that agents make."""

from __future__ import annotations

import anyio
import pytest

from runtime.agent.tool_tally import TalliedToolset, ToolCallTally
from tests.helpers.scripted_tools import ScriptedToolset, echo, fail, make_spec
from tools.errors import UnknownToolError
from tools.spec import JsonObject, ToolResult
from tools.toolset import CallContext

pytestmark = pytest.mark.anyio
CONTEXT = CallContext()


async def hang(arguments: JsonObject) -> ToolResult:
    await anyio.sleep_forever()
    raise AssertionError


async def test_calls_are_counted_by_server_and_by_how_they_went() -> None:
    times = iter([0.0, 0.25, 1.0, 1.5, 2.0, 5.0, 6.0, 6.0])
    tally = ToolCallTally(lambda: next(times))
    tools = [
        (make_spec("a__echo", server="a"), echo),
        (make_spec("a__fail", server="a"), fail),
        (make_spec("b__hang", server="b"), hang),
    ]
    toolset = TalliedToolset(ScriptedToolset(tools), tally)
    assert await toolset.list_tools() == [spec for spec, _ in tools]
    assert await toolset.call_tool("a__echo", {"x": 1}, CONTEXT) == ToolResult(structured={"x": 1})
    assert (await toolset.call_tool("a__fail", {}, CONTEXT)).is_error
    with anyio.CancelScope() as scope:
        scope.cancel()
        await toolset.call_tool("b__hang", {}, CONTEXT)
    with pytest.raises(UnknownToolError):
        await toolset.call_tool("none", {}, CONTEXT)
    assert tally.num_calls == {
        ("a", "ok"): 1,
        ("a", "error"): 1,
        ("b", "cancelled"): 1,
        ("", "error"): 1,
    }
    assert {server: one.sum for server, one in tally.seconds.items()} == {
        "a": 0.75,
        "b": 3.0,
        "": 0.0,
    }
