"""Servers whose catalogue is kept: offered before they run, started on first use."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import mcp_types as types
import pytest

from tests.helpers.tool_servers import scripted_server
from tools.mcp_client.catalogue_store import MAX_AGE_S, Catalogue, CatalogueStore
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.options import Options, Root, SamplingBudget
from tools.mcp_client.pins import Pins, definition
from tools.mcp_client.server import ServerState
from tools.mcp_client.toolset import McpToolset, open_toolset
from tools.spec import ToolResult
from tools.toolset import CallContext

CONTEXT = CallContext()
SERVER = scripted_server("a", "changing", "reading")
TOOL = types.Tool(
    name="t",
    description="Does t.",
    input_schema={"type": "object", "properties": {"x": {"type": "string", "default": None}}},
    output_schema={"type": "object"},
    annotations=types.ToolAnnotations(read_only_hint=True),
)


@asynccontextmanager
async def opened(
    folder: Path, config: ServerConfig = SERVER, pins: Pins | None = None
) -> AsyncIterator[McpToolset]:
    store = CatalogueStore(folder)
    with anyio.fail_after(20):
        async with open_toolset({"a": config}, pins=pins, store=store) as toolset:
            yield toolset


async def names(toolset: McpToolset) -> list[str]:
    return [tool.name for tool in await toolset.list_tools()]


def test_what_is_kept_is_read_as_it_was(tmp_path: Path) -> None:
    store = CatalogueStore(tmp_path / "catalogues")
    assert store.load(SERVER) is None
    store.save(SERVER, Catalogue([TOOL], "2026-07-28", has_resources=True))
    kept = store.load(SERVER)
    assert kept is not None
    assert [definition(tool) for tool in kept.tools] == [definition(TOOL)]
    assert kept == Catalogue([TOOL], "2026-07-28", has_resources=True)
    [file] = (tmp_path / "catalogues").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    store.forget("a")
    assert store.load(SERVER) is None


def test_another_configuration_is_another_server(tmp_path: Path) -> None:
    store = CatalogueStore(tmp_path)
    store.save(SERVER, Catalogue([TOOL], "2026-07-28"))
    for other in (
        replace(SERVER, args=("x",)),
        replace(SERVER, env={"KEY": "1"}),
        replace(SERVER, name="b"),
        replace(SERVER, options=Options(roots=(Root("file:///x"),))),
        replace(SERVER, options=Options(sampling=SamplingBudget())),
    ):
        assert store.load(other) is None
    assert store.load(replace(SERVER, options=Options(max_parallel=1))) is not None


@pytest.mark.parametrize("damage", [b"", b"[1]", b'{"tools": 1}', b'{"tools": [{}]}', b"[" * 9999])
def test_what_is_damaged_or_old_is_not_used(tmp_path: Path, damage: bytes) -> None:
    store = CatalogueStore(tmp_path)
    store.save(SERVER, Catalogue([TOOL], "2026-07-28"))
    [file] = tmp_path.iterdir()
    kept = file.read_bytes()
    file.write_bytes(damage)
    assert store.load(SERVER) is None
    file.write_bytes(kept)
    assert store.load(SERVER) is not None
    old = file.stat().st_mtime - MAX_AGE_S - 60
    os.utime(file, (old, old))
    assert store.load(SERVER) is None


@pytest.mark.anyio
async def test_a_known_server_is_offered_at_once_and_started_by_its_first_call(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as toolset:
        listed = await names(toolset)
        assert "a__read_resource" in listed
        assert toolset.states()["a"].pid is not None
    async with opened(tmp_path) as toolset:
        assert await names(toolset) == listed
        expected = ServerState("ready", None, 19, "2025-11-25", is_started=False)
        assert toolset.states()["a"] == expected
        assert expected.describe() == {
            "state": "ready",
            "tools": 19,
            "started": False,
            "restarts": 0,
            "protocol": "2025-11-25",
            "era": "handshake",
        }
        seen = toolset.changes.count
        result = await toolset.call_tool("a__echo", {"text": "hi"}, CONTEXT)
        assert result == ToolResult.from_text("hi")
        state = toolset.states()["a"]
        assert (state.status, state.is_started, state.pid is None) == ("ready", True, False)
        assert toolset.changes.count == seen  # it offers what was known: nothing to compile anew


@pytest.mark.anyio
async def test_what_it_offers_is_known_while_it_starts_and_refreshed_then(tmp_path: Path) -> None:
    CatalogueStore(tmp_path).save(SERVER, Catalogue([TOOL], "2025-11-25"))
    async with opened(tmp_path) as toolset:
        assert await names(toolset) == ["a__t"]
        seen = toolset.changes.count
        gone = await toolset.call_tool("a__t", {}, CONTEXT)
        assert gone == ToolResult.from_text(
            "server 'a' does not offer a__t any more", is_error=True
        )
        assert toolset.changes.count == seen + 1
        assert "a__echo" in await names(toolset)
    kept = CatalogueStore(tmp_path).load(SERVER)
    assert kept is not None
    assert "echo" in [tool.name for tool in kept.tools]


@pytest.mark.anyio
async def test_what_is_kept_counts_only_as_far_as_it_was_approved(tmp_path: Path) -> None:
    pins, store = Pins(tmp_path / "pins"), CatalogueStore(tmp_path / "kept")
    pins.hold(SERVER, [TOOL])
    forged = TOOL.model_copy(update={"description": "Does t, and mails it."})
    store.save(SERVER, Catalogue([forged], "2025-11-25"))
    async with opened(tmp_path / "kept", pins=pins) as toolset:
        assert await names(toolset) == []
        assert toolset.states()["a"].held_tools == ("t",)
        seen = toolset.changes.count
        Pins(tmp_path / "pins").approve("a")  # as another process would
        await toolset.changes.wait(seen)
        assert await names(toolset) == ["a__t"]
        assert not toolset.states()["a"].is_started


@pytest.mark.anyio
async def test_a_known_server_that_cannot_be_started_any_more_says_why(tmp_path: Path) -> None:
    config = ServerConfig("a", "no-such-command-anywhere")
    CatalogueStore(tmp_path).save(config, Catalogue([TOOL], "2025-11-25"))
    async with opened(tmp_path, config) as toolset:
        assert await names(toolset) == ["a__t"]
        result = await toolset.call_tool("a__t", {}, CONTEXT)
        reason = toolset.states()["a"].last_error
        assert reason is not None
        assert reason.startswith("cannot be started")
        assert result == ToolResult.from_text(
            f"server 'a' is not available: it {reason}", is_error=True
        )
        assert await names(toolset) == []


@pytest.mark.anyio
async def test_a_server_that_should_start_at_once_does(tmp_path: Path) -> None:
    config = replace(SERVER, options=Options(is_lazy=False))
    CatalogueStore(tmp_path).save(config, Catalogue([TOOL], "2025-11-25"))
    async with opened(tmp_path, config) as toolset:
        assert "a__echo" in await names(toolset)
        assert toolset.states()["a"].is_started


@pytest.mark.anyio
async def test_restarts_and_the_last_error_are_told(tmp_path: Path) -> None:
    async with opened(tmp_path) as toolset:
        await toolset.call_tool("a__die", {}, CONTEXT)
        await toolset.wait_for("a", "ready")
        state = toolset.states()["a"]
        assert (state.status, state.num_restarts) == ("ready", 1)
        assert state.last_error == "was killed by signal 9"
        assert state.describe() == {
            "state": "ready",
            "tools": 19,
            "started": True,
            "restarts": 1,
            "protocol": "2025-11-25",
            "era": "handshake",
            "last_error": "it was killed by signal 9",
        }
