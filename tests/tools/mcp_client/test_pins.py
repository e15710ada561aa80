"""Definitions that change behind the operator's back are held back until approved."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import anyio
import mcp_types as types
import pytest

from tests.helpers.tool_servers import changing_server, scripted_server
from tools.errors import ConfigurationError
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.pins import DefinitionChange, Pins, definition, digest, why_held
from tools.mcp_client.toolset import McpToolset, open_toolset
from tools.spec import ToolResult
from tools.toolset import CallContext

SERVER = ServerConfig("my server", "run", ("me",))


def tool(name: str = "t", description: str = "Does t.", *, read_only: bool = True) -> types.Tool:
    return types.Tool(
        name=name,
        description=description,
        input_schema={"type": "object"},
        annotations=types.ToolAnnotations(read_only_hint=read_only),
    )


def test_first_sight_is_approved_and_every_part_of_a_definition_counts(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "pins")
    assert pins.hold(SERVER, [tool()]) == ()
    others = [
        tool(description="Does t, and mails it."),
        tool(read_only=False),
        tool().model_copy(update={"annotations": None}),
        tool().model_copy(update={"input_schema": {"type": "object", "properties": {}}}),
    ]
    for other in others:
        assert Pins(tmp_path / "pins").hold(SERVER, [other]) == ("t",)
        assert pins.changes("my server") == [
            DefinitionChange("my server", "t", definition(tool()), definition(other))
        ]
        assert pins.hold(SERVER, [tool()]) == ()  # it is what was approved again
        assert pins.changes("my server") == []


def test_the_order_of_a_definition_and_what_no_model_reads_do_not_count(tmp_path: Path) -> None:
    one = {"type": "object", "properties": {}}
    other = {"properties": {}, "type": "object"}
    pins = Pins(tmp_path)
    assert pins.hold(SERVER, [tool().model_copy(update={"input_schema": one})]) == ()
    again = tool().model_copy(update={"input_schema": other, "output_schema": {"type": "object"}})
    assert pins.hold(SERVER, [again]) == ()
    assert digest(one) == digest(other)


def test_approval_makes_the_change_count_and_going_away_does_not(tmp_path: Path) -> None:
    pins, changed = Pins(tmp_path), tool(description="Another.")
    pins.hold(SERVER, [tool(), tool("u")])
    pins.hold(SERVER, [])  # a server that hides a tool for a while has not changed it
    assert pins.hold(SERVER, [changed, tool("new")]) == ("t",)
    stamp = pins.stamp(SERVER)
    pins.approve("my server")
    assert pins.stamp(SERVER) != stamp
    assert pins.hold(SERVER, [changed, tool("u"), tool("new")]) == ()
    assert pins.hold(SERVER, [tool()]) == ("t",)  # the old one is not approved any more


def test_servers_of_one_name_and_other_sources_do_not_share_pins(tmp_path: Path) -> None:
    pins = Pins(tmp_path)
    pins.hold(SERVER, [tool()])
    other = replace(SERVER, args=("you",))
    assert pins.hold(other, [tool(description="Another.")]) == ()
    assert pins.hold(replace(SERVER, name="my_server"), [tool(description="Another.")]) == ()
    pins.forget("my server")
    assert pins.hold(SERVER, [tool(description="Another.")]) == ()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"server": 1, "approved": [], "cha'])
def test_a_damaged_file_holds_everything_back_until_it_is_approved(
    tmp_path: Path, damage: bytes
) -> None:
    pins = Pins(tmp_path)
    pins.hold(SERVER, [tool()])
    [file] = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_bytes(damage)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        pins.changes("my server")
    assert pins.hold(SERVER, [tool(), tool("u")]) == ("t", "u")
    assert pins.changes("my server") == [
        DefinitionChange("my server", name, None, definition(tool(name))) for name in "tu"
    ]
    pins.approve("my server")
    assert pins.hold(SERVER, [tool(), tool("u")]) == ()


def test_a_folder_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "pins").touch()
    assert Pins(tmp_path / "pins").hold(SERVER, [tool()]) == ()
    assert "cannot be written" in caplog.text


@pytest.mark.anyio
@pytest.mark.parametrize("config", [scripted_server("a", "changing"), changing_server("a")])
async def test_a_tool_that_changes_while_its_server_runs_is_disabled_until_approved(
    tmp_path: Path, config: ServerConfig, caplog: pytest.LogCaptureFixture
) -> None:
    pins = Pins(tmp_path)
    with anyio.fail_after(30):
        async with open_toolset({"a": config}, pins=pins) as toolset:
            await _become(toolset, {"x": "One.", "y": "One."})
            await _become(toolset, {"x": "Two.", "y": "One."})
            assert {"a__x", "a__y"} & await _names(toolset) == {"a__y"}
            assert toolset.states()["a"].held_tools == ("x",)
            refused = await toolset.call_tool("a__x", {}, CallContext())
            assert refused == ToolResult.from_text(why_held("a", ["a__x"]), is_error=True)
            assert f"server=a: {why_held('a', ['x'])}" in caplog.messages
            seen = toolset.changes.count
            Pins(tmp_path).approve("a")  # as another process would
            await toolset.changes.wait(seen)
            assert {"a__x", "a__y"} <= await _names(toolset)
            assert toolset.states()["a"].held_tools == ()


async def _names(toolset: McpToolset) -> set[str]:
    return {tool.name for tool in await toolset.list_tools()}


async def _become(toolset: McpToolset, tools: dict[str, str]) -> None:
    await toolset.list_tools()
    seen = toolset.changes.count
    await toolset.call_tool("a__become", {"tools": tools}, CallContext())
    await toolset.changes.wait(seen)
