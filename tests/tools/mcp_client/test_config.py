"""Files of tool servers: what hosts write is read, and one bad entry harms no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.errors import ConfigurationError
from tools.mcp_client.config import ServerConfig, Timeouts, ToolPolicy, load_servers
from tools.mcp_client.oauth_config import OAuthConfig
from tools.mcp_client.options import Options, Sandbox

ENVIRON = {"PATH": "/bin", "HOME": "/home/me", "SECRET": "s3", "DATA": "/data"}
NO_SERVERS = (
    'mcp.json: expected an object {"mcpServers": {name: entry}}, or "servers" as '
    "VS Code or mistral.rs has it"
)


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
        (
            {"type": "ws", "url": "ws://x"},
            (
                "mcpServers.a: 'ws' servers cannot be used; give a `command`, or the `url` of a "
                'server of type "http" (streamable HTTP) or "sse"'
            ),
        ),
        ({"url": "ws://x"}, "mcpServers.a: `url` must be http://… or https://…, not 'ws://x'"),
        ({"type": "http"}, "mcpServers.a: `url` must be http://… or https://…, not ''"),
        (
            {"url": "http://[x"},
            "mcpServers.a: `url` must be http://… or https://…, not 'http://[x'",
        ),
        (
            {"url": "http://x", "headers": {"A": "b\nc"}},
            "mcpServers.a: headers.A: only printable ASCII can be sent",
        ),
        (
            {"command": "x", "args": ["${config:editor.tabSize}"]},
            "mcpServers.a: ${config:editor.tabSize}: only the editor knows it; write the value",
        ),
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
        (b"[]", NO_SERVERS),
        (b'{"mcpServers": []}', NO_SERVERS),
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


VSCODE = """{
  // what the editor asks for
  "inputs": [
    {"type": "promptString", "id": "api-key", "description": "Key of the hub", "password": true},
  ],
  "servers": {
    "files": {
      "type": "stdio", "command": "${workspaceFolder}/bin/files",
      "args": ["${userHome}", "${workspaceFolderBasename}", "${not ours}", "a${/}b"],
      "envFile": "${workspaceFolder}/.env",
      "env": {"LEVEL": 3, "GONE": null, "BOTH": "entry"}, /* numbers, too */
      "sandboxEnabled": true,
    },
    "hub": {
      "type": "http", "url": "https://${HOST:-hub.example}/mcp",
      "headers": {"Authorization": "Bearer ${input:api-key}"},
    },
  },
}
"""


def test_an_editors_file_is_read_as_it_is(tmp_path: Path) -> None:
    workspace = tmp_path / "project"
    (workspace / ".vscode").mkdir(parents=True)
    (workspace / ".vscode" / "mcp.json").write_text(VSCODE, encoding="utf-8")
    env_file = (
        "# keys\nexport TOKEN='a # b' # mine\nBOTH=file\nGONE=x\nTEXT=\"1\\n2\"\nBARE=a b # c\n\n"
    )
    (workspace / ".env").write_text(env_file, encoding="utf-8")
    environ = {"HOME": "/home/me", "ZONDA_INPUT_API_KEY": "k3y"}
    servers = load_servers(workspace / ".vscode" / "mcp.json", environ)
    own = {"LEVEL": "3", "BOTH": "entry", "TOKEN": "a # b", "TEXT": "1\n2", "BARE": "a b"}
    assert servers == {
        "files": ServerConfig(
            name="files",
            command=f"{workspace}/bin/files",
            args=("/home/me", "project", "${not ours}", "a/b"),
            env={"HOME": "/home/me", **own},
            options=Options(sandbox=Sandbox()),
        ),
        "hub": ServerConfig(
            name="hub",
            url="https://hub.example/mcp",
            headers={"Authorization": "Bearer k3y"},
        ),
    }


def test_an_input_that_nobody_answers_is_named_and_the_other_servers_stay(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(VSCODE, encoding="utf-8")
    servers = load_servers(path, {"HOME": "/home/me"})
    assert servers["hub"].problem == (
        "servers.hub: the input 'api-key' (Key of the hub) is asked for by the editor; here the "
        "variable ZONDA_INPUT_API_KEY must hold it"
    )
    missing = f"servers.files: envFile {tmp_path}/.env cannot be read: No such file or directory"
    assert servers["files"].problem == missing


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"A=1\nsecret", "line 2: expected NAME=value"),
        (b"A=\xff", "is not UTF-8 at byte 2"),
    ],
)
def test_a_bad_env_file_is_told_without_its_values(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    (tmp_path / ".env").write_bytes(content)
    found = load(tmp_path, {"a": {"command": "x", "envFile": ".env"}})["a"].problem
    assert found is not None
    assert found.endswith(problem)


def test_the_list_of_mistralrs_is_read(tmp_path: Path) -> None:
    process = {
        "type": "Process",
        "command": "npx",
        "args": ["-y", "files"],
        "env": {"KEY": "v"},
        "work_dir": "/path",
    }
    http = {"type": "Http", "url": "https://e.org/mcp", "headers": {"A": "b"}, "timeout_secs": 20}
    document = {
        "servers": [
            {"id": "fs-1", "name": "files", "tool_prefix": "fs", "source": process},
            {"name": "web", "bearer_token": "s3", "resources": ["x://**"], "source": http},
            {"name": "web", "enabled": False, "source": {"type": "Http", "url": "http://e.org"}},
            {"name": "old", "source": {"type": "WebSocket", "url": "ws://e.org"}},
            {"id": "no-source"},
        ],
        "auto_register_tools": True,
        "tool_timeout_secs": 30,
        "max_concurrent_calls": 10,
    }
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    half_a_minute = Timeouts(idle_s=30, total_s=30)
    assert load_servers(path, ENVIRON) == {
        "files": ServerConfig(
            name="files",
            command="npx",
            args=("-y", "files"),
            env={"PATH": "/bin", "HOME": "/home/me", "KEY": "v"},
            cwd=Path("/path"),
            timeouts=half_a_minute,
        ),
        "web": ServerConfig(
            name="web",
            url="https://e.org/mcp",
            headers={"A": "b", "Authorization": "Bearer s3"},
            timeouts=Timeouts(idle_s=20, total_s=20),
        ),
        "web2": ServerConfig(
            name="web2", url="http://e.org", is_enabled=False, timeouts=half_a_minute
        ),
        "old": ServerConfig(
            "old",
            problem=(
                'servers[3]: servers of type "WebSocket" cannot be used; give the `url` of '
                'streamable HTTP, "Http"'
            ),
        ),
        "no-source": ServerConfig(
            "no-source",
            problem=(
                'servers[4]: `source` has to be an object with the `type` "Process" or "Http"'
            ),
        ),
    }


def test_wrong_headers_in_the_list_of_mistralrs_are_told(tmp_path: Path) -> None:
    source = {"type": "Http", "url": "http://e.org", "headers": "x"}
    document = {"servers": [{"name": "a", "bearer_token": "t", "source": source}]}
    (tmp_path / "mcp.json").write_text(json.dumps(document), encoding="utf-8")
    assert load_servers(tmp_path / "mcp.json", ENVIRON) == {
        "a": ServerConfig("a", problem="servers[0].headers: Input should be a valid dictionary")
    }


@pytest.mark.parametrize("limit", ["soon", -1, [1]])
def test_a_wrong_limit_in_the_list_of_mistralrs_is_told(tmp_path: Path, limit: object) -> None:
    source = {"type": "Process", "command": "x"}
    document = {"servers": [{"name": "a", "source": source}], "tool_timeout_secs": limit}
    (tmp_path / "mcp.json").write_text(json.dumps(document), encoding="utf-8")
    problem = load_servers(tmp_path / "mcp.json", ENVIRON)["a"].problem
    assert problem is not None
    assert problem.startswith("servers[0].x-runtime.timeout.idle: ")


@pytest.mark.parametrize(
    ("keys", "oauth"),
    [
        ({}, OAuthConfig()),
        (
            {"oauth": {"clientId": "c", "callbackPort": 8080}},
            OAuthConfig(client_id="c", redirect_port=8080),
        ),
        (
            {"auth": {"CLIENT_ID": "c", "CLIENT_SECRET": "${TOKEN}", "scopes": ["a", "b"]}},
            OAuthConfig(client_id="c", client_secret="t0ken", scopes=("a", "b")),
        ),
        ({"auth": "oauth", "oauth": False}, OAuthConfig()),
        (
            {
                "oauth": {"clientId": "theirs"},
                "x-runtime": {
                    "oauth": {
                        "grant": "client_credentials",
                        "client_id": "ours",
                        "private_key": "${TOKEN}",
                        "issuer": "https://login.example.org",
                    }
                },
            },
            OAuthConfig(
                grant="client_credentials",
                client_id="ours",
                private_key="t0ken",
                issuer="https://login.example.org",
            ),
        ),
    ],
)
def test_what_an_entry_says_of_oauth_is_read(
    tmp_path: Path, keys: dict[str, Any], oauth: OAuthConfig
) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"a": {"url": "https://x/mcp", **keys}}}), "utf-8")
    server = load_servers(path, {"TOKEN": "t0ken"})["a"]
    assert server == ServerConfig("a", url="https://x/mcp", oauth=oauth)
    assert "t0ken" not in repr(server)


@pytest.mark.parametrize(
    ("oauth", "problem"),
    [
        ({"grant": "client_credentials"}, "needs `client_id` and `issuer`"),
        (
            {"grant": "client_credentials", "client_id": "c", "issuer": "https://i"},
            "needs `client_secret` or `private_key`",
        ),
        ({"client_metadata_url": "http://x/y"}, "has to be https://…/… with a path"),
        ({"scopes": ['a"b']}, "String should match pattern"),
        ({"redirect_port": 70000}, "less than or equal to 65535"),
        ({"client": "c"}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_setting_of_oauth_is_told(
    tmp_path: Path, oauth: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "mcp.json"
    entry = {"url": "https://x/mcp", "x-runtime": {"oauth": oauth}}
    path.write_text(json.dumps({"mcpServers": {"a": entry}}), "utf-8")
    told = load_servers(path, {})["a"].problem
    assert told is not None
    assert told.startswith("mcpServers.a.x-runtime.oauth")
    assert problem in told


def test_a_server_of_the_older_transport_is_marked(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text('{"servers": {"a": {"type": "sse", "url": "https://x/sse"}}}', "utf-8")
    assert load_servers(path, {}) == {"a": ServerConfig("a", url="https://x/sse", is_sse=True)}
