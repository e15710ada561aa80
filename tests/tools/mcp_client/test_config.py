"""Files of tool servers: what hosts write is read, and one bad entry harms no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.errors import ConfigurationError
from tools.mcp_client.config import ServerConfig, Timeouts, ToolPolicy, load_servers

ENVIRON = {"PATH": "/bin", "HOME": "/home/me", "SECRET": "s3", "DATA": "/data"}


def load(tmp_path: Path, servers: object) -> dict[str, ServerConfig]:
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers, "theme": "dark"}), encoding="utf-8")
    return dict(load_servers(path, ENVIRON))


def test_an_entry_is_read_with_a_scrubbed_environment_and_variables_expanded(
    tmp_path: Path,
) -> None:
    entry = {
        "command": "${TOOLS:-/opt}/server",
        "args": ["--root", "${DATA}", "$HOME"],
        "env": {"TOKEN": "${env:SECRET}"},
        "cwd": "/tmp",
        "autoApprove": ["someone else's key"],
        "x-runtime": {
            "timeout": {"connect": 3, "idle": 4},
            "tools": {"allow": ["read"], "ask": ["write"], "deny": ["drop"]},
        },
    }
    assert load(tmp_path, {"db": entry}) == {
        "db": ServerConfig(
            name="db",
            command="/opt/server",
            args=("--root", "/data", "$HOME"),
            env={"PATH": "/bin", "HOME": "/home/me", "TOKEN": "s3"},
            cwd=Path("/tmp"),
            timeouts=Timeouts(connect_s=3, idle_s=4, total_s=600),
            policy=ToolPolicy(allow=("read",), ask=("write",), deny=("drop",)),
        )
    }


@pytest.mark.parametrize("entry", [{"disabled": True}, {"x-runtime": {"enabled": False}}])
def test_an_entry_can_be_switched_off(tmp_path: Path, entry: dict[str, object]) -> None:
    assert not load(tmp_path, {"a": {"command": "x", **entry}})["a"].is_enabled


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"url": "http://x"}, "mcpServers.a: http servers cannot be used yet; give a `command`"),
        ({"type": "sse"}, "mcpServers.a: sse servers cannot be used yet; give a `command`"),
        ({}, "mcpServers.a: `command` is missing"),
        ({"command": 3}, "mcpServers.a.command: Input should be a valid string"),
        ({"command": "x", "args": ["a", 1]}, "mcpServers.a.args.1: Input should be a valid string"),
        ({"command": "${NO}"}, "mcpServers.a: ${NO}: the variable NO is not set"),
        (
            {"command": "x", "x-runtime": {"timeout": {"idle": 0}}},
            "mcpServers.a.x-runtime.timeout.idle: Input should be greater than 0",
        ),
        (
            {"command": "x", "x-runtime": {"tool": {}}},
            "mcpServers.a.x-runtime.tool: Extra inputs are not permitted",
        ),
    ],
)
def test_a_bad_entry_tells_its_problem_and_leaves_the_others(
    tmp_path: Path, entry: object, problem: str
) -> None:
    servers = load(tmp_path, {"a": entry, "b": {"command": "x"}})
    assert servers["a"] == ServerConfig("a", problem=problem)
    assert servers["b"].problem is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"mcpServers":\n {,}}', "mcp.json, line 2, column 3: not JSON: "),
        (b"\xff", "mcp.json: not UTF-8 at byte 0"),
        (b"[]", 'mcp.json: expected an object {"mcpServers": {name: entry}}'),
        (b'{"mcpServers": []}', 'mcp.json: expected an object {"mcpServers": {name: entry}}'),
    ],
)
def test_a_file_that_is_no_configuration_is_one_error(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "mcp.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load_servers(path, ENVIRON)
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.json: No such file"):
        load_servers(tmp_path / "none.json", ENVIRON)
