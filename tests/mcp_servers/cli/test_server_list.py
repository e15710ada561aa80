"""`zonda mcp add` and its neighbours, and `zonda tools`: the list of servers, and their tools."""

from __future__ import annotations

import json
import stat
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

import tests.helpers.changing_server as changing
import tests.helpers.tool_server_script as script
from mcp_servers.cli import app
from tools.errors import ConfigurationError, InvalidRequestError, UnknownToolError
from tools.mcp_client.pins import why_held
from tools.mcp_client.token_store import Challenge, TokenStore

SCRIPT = (sys.executable, "-S", script.__file__)


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with nothing in it; returns where the list will be."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("ZONDA_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("ZONDA_CONFIG", raising=False)
    if sys.platform == "darwin":
        return tmp_path / "Library" / "Application Support" / "zonda" / "mcp.json"
    return tmp_path / "config" / "zonda" / "mcp.json"


def zonda(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Return the exit status, standard output and standard error."""
    status = app(list(arguments), prog_name="zonda", standalone_mode=False) or 0
    out, err = capsys.readouterr()
    return status, out, err


def entries(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))["mcpServers"]


def test_servers_are_added_listed_and_removed(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = zonda(capsys, "mcp", "add", "local", "--env", "A=b=c", "--", "run", "--me")
    assert (status, out.splitlines()[0]) == (0, f"local was put into {file}.")
    zonda(capsys, "mcp", "add", "web", "https://e.org/mcp?key=1", "--header", "X-Key=${NOT_SET}")
    assert entries(file) == {
        "local": {"command": "run", "args": ["--me"], "env": {"A": "b=c"}},
        "web": {
            "type": "http",
            "url": "https://e.org/mcp?key=1",
            "headers": {"X-Key": "${NOT_SET}"},
        },
    }
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    missing = "cannot be used: mcpServers.web: ${NOT_SET}: the variable NOT_SET is not set"
    assert zonda(capsys, "mcp", "list", "--json")[:2] == (
        0,
        json.dumps(
            {
                "file": str(file),
                "servers": {
                    "local": {"target": "run --me", "state": "ok"},
                    "web": {"target": "", "state": missing},
                },
            }
        )
        + "\n",
    )
    assert zonda(capsys, "mcp", "remove", "web") == (0, f"web was taken out of {file}.\n", "")
    assert list(entries(file)) == ["local"]
    assert zonda(capsys, "mcp", "list") == (0, "local  run --me\n", "")


def test_the_rest_of_the_file_stays_as_it_is(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.parent.mkdir(parents=True)
    text = '// mine\n{"mcpServers": {\n  // slow\n  "a": {"command": "x"}\n}}\n'
    file.write_text(text, encoding="utf-8")
    zonda(capsys, "mcp", "add", "b", "y")
    assert "// slow" in file.read_text(encoding="utf-8")
    zonda(capsys, "mcp", "remove", "b")
    assert file.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "a", "x"], "'a' is in .* already; --force replaces it"),
        (["add", "b", "x", "--header", "A=b"], "--header is for a URL"),
        (["add", "b", "http://x/mcp", "--env", "A=b"], "a URL takes --header"),
        (["add", "b", "x", "--env", "A"], "--env takes NAME=VALUE, not 'A'"),
        (["remove", "b"], "no server is named 'b' in .*; known are 'a'"),
        (["test", "b"], "no MCP server is named 'b'; known are 'a'"),
    ],
)
def test_wrong_use_changes_nothing(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    zonda(capsys, "mcp", "add", "a", "x")
    before = file.read_text(encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message):
        zonda(capsys, "mcp", *arguments)
    assert file.read_text(encoding="utf-8") == before
    assert zonda(capsys, "mcp", "add", "a", "--force", "--", "y")[0] == 0
    assert entries(file) == {"a": {"command": "y", "args": []}}


def test_a_server_is_tried(capsys: pytest.CaptureFixture[str]) -> None:
    zonda(capsys, "mcp", "add", "good", "--", *SCRIPT)
    zonda(capsys, "mcp", "add", "bad", "--", "no-such-command-anywhere")
    status, out, _ = zonda(capsys, "mcp", "test", "good")
    assert (status, out.splitlines()[0]) == (0, "good is ready: 11 tools, protocol 2025-11-25")
    assert "  good__echo" in out.splitlines()
    status, out, _ = zonda(capsys, "mcp", "test", "bad")
    assert (status, out.split(":")[0]) == (1, "bad cannot be started")


@pytest.mark.slow
def test_a_changed_definition_is_disabled_told_and_approved(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    offered = tmp_path / "offered.json"
    offered.write_text('{"x": "One."}', encoding="utf-8")
    server = [sys.executable, "-P", changing.__file__, str(offered)]
    zonda(capsys, "mcp", "add", "s", "--", *server)
    assert zonda(capsys, "mcp", "test", "s")[0] == 0
    offered.write_text('{"x": "Two."}', encoding="utf-8")
    status, out, _ = zonda(capsys, "mcp", "test", "s")
    assert (status, out.splitlines()[-1]) == (
        1,
        f"But {why_held('s', ['x'])}.",
    )
    status, out, err = zonda(capsys, "tools", "call", "s", "x")
    assert (status, out) == (1, "")
    assert "is disabled" in err
    status, out, _ = zonda(capsys, "mcp", "approve", "s", "--yes")
    assert status == 0
    told = [line for line in out.splitlines() if "description" in line or "Approved" in line]
    assert told == ['-  "description": "One.",', '+  "description": "Two.",', "Approved: x."]
    assert zonda(capsys, "tools", "call", "s", "x") == (0, "x\n", "")
    assert zonda(capsys, "mcp", "approve", "s")[1] == (
        "No definition of a tool of s has changed since it was approved.\n"
    )


def test_tools_of_all_servers_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zonda(capsys, "mcp", "add", "own", "--", *SCRIPT)
    more = {"mcpServers": {"named": {"command": SCRIPT[0], "args": list(SCRIPT[1:])}}}
    (tmp_path / "more.json").write_text(json.dumps(more), encoding="utf-8")
    given = ["tools", "list", "--mcp-config", str(tmp_path / "more.json")]
    status, out, err = zonda(capsys, *given)
    names = [line.partition(":")[0] for line in out.splitlines()]
    assert (status, len(names), err) == (0, 22, "")
    assert names == sorted(names)
    tools = json.loads(zonda(capsys, *given, "own", "--json")[1])["tools"]
    assert {tool["server"] for tool in tools} == {"own"}
    assert tools[1]["name"] == "own__die"
    assert tools[3] == {
        "server": "own",
        "name": "own__environment",
        "description": "",
        "inputSchema": {"type": "object"},
        "annotations": {},
    }


def test_a_tool_is_called_by_either_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    zonda(capsys, "mcp", "add", "s", "--", *SCRIPT)
    assert zonda(capsys, "tools", "call", "s", "echo", '{"text": "hi"}') == (0, "hi\n", "")
    assert zonda(capsys, "tools", "call", "s", "s__echo", '{"text": "hi"}') == (0, "hi\n", "")
    monkeypatch.setattr(sys, "stdin", StringIO('{"text": "read"}'))
    status, out, _ = zonda(capsys, "tools", "call", "s", "echo", "-", "--json")
    assert json.loads(out) == {
        "resultType": "complete",
        "content": [{"type": "text", "text": "read"}],
        "isError": False,
    }
    status, out, err = zonda(capsys, "tools", "call", "s", "refuse")
    told = "server 's' refused the call of s__refuse: not today\n"
    assert (status, out, err) == (1, "", told)


@pytest.mark.parametrize(
    ("tool", "arguments", "error", "message"),
    [
        ("eco", "{}", UnknownToolError, "did you mean 's__echo'"),
        ("echo", "{}", InvalidRequestError, "s__echo: .*'text' is a required property"),
        ("echo", "[]", InvalidRequestError, "have to be a JSON object, not list"),
        ("echo", "{", InvalidRequestError, "are no JSON"),
        ("hang", "{}", ConfigurationError, "s__hang was not called, .* deny list"),
    ],
)
def test_a_wrong_call_is_not_made(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tool: str,
    arguments: str,
    error: type[Exception],
    message: str,
) -> None:
    entry = {"command": SCRIPT[0], "args": list(SCRIPT[1:])}
    entry["x-runtime"] = {"tools": {"deny": ["hang"]}}  # type: ignore[assignment]  # a JSON value
    file = tmp_path / "more.json"
    file.write_text(json.dumps({"mcpServers": {"s": entry}}), encoding="utf-8")
    with pytest.raises(error, match=message):
        zonda(capsys, "tools", "call", "s", tool, arguments, "--mcp-config", str(file))


def test_rules_of_arguments_hold_for_calls_by_hand_and_every_call_is_written_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servers, policy = tmp_path / "more.json", tmp_path / "policy.toml"
    entry = {"command": SCRIPT[0], "args": list(SCRIPT[1:])}
    servers.write_text(json.dumps({"mcpServers": {"s": entry}}), encoding="utf-8")
    rule = '{ tool = "echo", arguments = { text = "secret*" } }'
    policy.write_text(f"[servers.s]\ndeny = [{rule}]\n", encoding="utf-8")

    def call(tool: str, **arguments: str) -> None:
        files = ("--mcp-config", str(servers), "--policy", str(policy))
        zonda(capsys, "tools", "call", "s", tool, json.dumps(arguments), *files)

    with pytest.raises(ConfigurationError, match="no tool calls are written down in"):
        zonda(capsys, "logs", "--audit")
    call("echo", text="hi")
    with pytest.raises(ConfigurationError) as raised:
        call("echo", text="Secret plan")
    assert str(raised.value) == (
        f"s__echo was not called, because it is on the deny list (servers.s.deny[0] of {policy});"
        " taking it from there would allow it."
    )
    with pytest.raises(InvalidRequestError):
        call("echo", txt="hi")
    call("refuse")
    status, out, err = zonda(capsys, "logs", "--audit", "--json")
    assert (status, err) == (0, f"{tmp_path / 'state' / 'audit.jsonl'}:\n")
    entries = [json.loads(line) for line in out.splitlines()]
    assert [(entry["tool"], entry["outcome"], entry["approved_by"]) for entry in entries] == [
        ("s__echo", "ok", "user"),
        ("s__echo", "denied", None),
        ("s__echo", "refused", None),
        ("s__refuse", "error", "user"),
    ]
    assert "hi" not in out
    _, out, _ = zonda(capsys, "logs", "--audit", "-n", "3")
    time, _, line = out.splitlines()[0].partition(" ")
    assert time == entries[1]["time"]
    assert line == (
        f"denied  s__echo: {entries[1]['seconds']:.3f} s, 22 -> 0 bytes;"
        f" deny: is on the deny list (servers.s.deny[0] of {policy}); zonda tools call"
    )


def test_no_call_is_written_down_when_the_operator_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    zonda(capsys, "mcp", "add", "s", "--", *SCRIPT)
    monkeypatch.setenv("ZONDA_AUDIT", "off")
    zonda(capsys, "tools", "call", "s", "echo", '{"text": "hi"}')
    assert not (tmp_path / "state" / "audit.jsonl").exists()
    monkeypatch.setenv("ZONDA_AUDIT", "on")
    monkeypatch.setenv("ZONDA_AUDIT_CONTENTS", "on")
    zonda(capsys, "tools", "call", "s", "echo", '{"text": "hi"}')
    _, out, _ = zonda(capsys, "logs", "--audit")
    assert out.endswith(' {"arguments": {"text": "hi"}, "result": "hi"}\n')


def test_a_removed_server_is_logged_out_of_unless_another_is_at_its_url(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, store = "https://a.example/mcp", TokenStore(tmp_path / "state" / "tokens")
    store.save_challenge(url, Challenge("", "read"))
    zonda(capsys, "mcp", "add", "a", url)
    zonda(capsys, "mcp", "add", "b", url)
    zonda(capsys, "mcp", "remove", "a")
    assert store.load(url).challenge is not None
    zonda(capsys, "mcp", "remove", "b")
    assert store.load(url).challenge is None
