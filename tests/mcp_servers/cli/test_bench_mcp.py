"""Tests of measuring what MCP costs: every wire, and the door of a busy server."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_servers.cli.bench_door import Crowd, measure_door
from mcp_servers.cli.bench_mcp import measure_wires
from mcp_servers.cli.bench_setup import BenchOptions
from mcp_servers.cli.bench_wire import HANDSHAKE, MODERN, make_message
from runtime.config import Config
from tests.helpers.tiny_gguf import write_tiny_llama

ERAS = [HANDSHAKE, MODERN]


def test_messages_say_their_version_where_there_was_no_handshake() -> None:
    params = {"name": "answer", "_meta": {"progressToken": 1}}
    assert make_message(3, "tools/call", params, HANDSHAKE) == {
        "jsonrpc": "2.0",
        "id": 3,
        "method": "tools/call",
        "params": params,
    }
    modern = make_message(None, "tools/call", params, MODERN)
    assert "id" not in modern
    assert modern["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] == MODERN
    assert modern["params"]["_meta"]["progressToken"] == 1


@pytest.mark.slow
def test_calls_and_notifications_are_timed_over_every_wire_of_both_eras() -> None:
    options = BenchOptions(Config(device="cpu"), "none", repeats=1)
    direct, *others = measure_wires(options)
    assert (direct.params, direct.unit) == ({"measure": "call in this process"}, "ms")
    assert [one.params for one in others] == [
        {"measure": measure, "transport": transport, "era": era}
        for transport in ("stdio", "http")
        for era in ERAS
        for measure in ("added to a call", "progress notification")
    ]
    assert {(one.unit, len(one.values), one.limit) for one in others} == {("ms", 1, None)}


@pytest.mark.slow
def test_hosts_come_to_a_busy_server_and_are_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZONDA_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("ZONDA_DEVICE", "cpu")
    model = str(write_tiny_llama(tmp_path / "tiny.gguf", context_length=2048))
    options = BenchOptions(Config(model=model, device="cpu"), model, repeats=1)
    taken = measure_door(options, Crowd(num_sessions=3, new_per_s=10, round_s=1))
    assert [(one.params["measure"], one.limit) for one in taken] == [
        ("initialize, p50", None),
        ("initialize, p99", 250.0),
        ("server/discover, p50", None),
        ("server/discover, p99", 250.0),
    ]
    assert all(one.values[0] > 0 for one in taken)
