"""`zonda doctor`: every fault is found, told with what to do, and is the exit status."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import tests.helpers.changing_server as changing
import tests.helpers.tool_server_script as script
from mcp_servers.cli import app
from mcp_servers.cli.doctor import Check, _tokens, _tools
from runtime.agent.budget import ToolReport, ToolTokens
from runtime.chat.support import ToolSupport
from tests.helpers.tiny_gguf import write_tiny_llama


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, with nothing in it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ZONDA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ZONDA_STATE_DIR", str(tmp_path / "state"))
    for name in ("XDG_CONFIG_HOME", "CLAUDE_CONFIG_DIR", "ZONDA_MODEL", "ZONDA_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def examine(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the exit status and the checks by name."""
    given = ["doctor", "--json", *arguments]
    status = app(given, prog_name="zonda", standalone_mode=False) or 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] == (status == 0)
    return status, {check.pop("name"): check for check in report["checks"]}


def test_a_fresh_machine_is_well_but_for_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    status, checks = examine(capsys)
    assert (status, set(checks)) == (
        0,
        {"machine", "configuration", "cache folder", "state folder", "model"},
    )
    assert checks["model"] == {
        "status": "warning",
        "found": "smollm2-135m is not here yet",
        "advice": "zonda pull smollm2-135m",
    }


def test_a_wrong_setting_and_a_folder_that_cannot_be_written_are_told(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZONDA_THREADS", "many")
    status, checks = examine(capsys)
    assert (status, checks["configuration"]["status"]) == (1, "failed")
    assert "ZONDA_THREADS" in checks["configuration"]["found"]
    monkeypatch.setenv("ZONDA_THREADS", "1")
    monkeypatch.setenv("ZONDA_CACHE_DIR", str(home / "file" / "cache"))
    (home / "file").touch()
    status, checks = examine(capsys)
    assert (status, checks["cache folder"]) == (
        1,
        {
            "status": "failed",
            "found": f"{home}/file/cache cannot be written",
            "advice": "make it writable or set ZONDA_CACHE_DIR",
        },
    )


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model"])
def test_a_damaged_model_is_told(
    home: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (home / "m.gguf").write_bytes(content)
    status, checks = examine(capsys, "--model", str(home / "m.gguf"))
    assert (status, checks["model"]["status"]) == (1, "failed")
    assert "memory" not in checks


def test_hosts_are_told_as_they_stand(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".claude.json").write_text('{"mcpServers": {"zonda": {"command": "/gone/zonda"}}}')
    (home / ".cursor").mkdir()
    (home / ".cursor" / "mcp.json").write_text("{}")
    status, checks = examine(capsys)
    assert status == 0
    assert checks["Claude Code"] == {
        "status": "warning",
        "found": f"{home}/.claude.json starts /gone/zonda, which is not there",
        "advice": "zonda connect claude-code",
    }
    assert checks["Cursor"]["found"] == "does not start zonda; zonda connect cursor would"
    assert {"Claude Desktop", "VS Code"}.isdisjoint(checks)


def test_each_tool_server_is_started_and_told(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"command": sys.executable, "args": ["-S", script.__file__]}
    servers = {
        "good": good,
        "off": {**good, "disabled": True},
        "missing": {"command": "no-such-command-anywhere"},
        "wrong": {"command": 3},
    }
    file = home / "servers.json"
    file.write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")
    status, checks = examine(capsys, "--mcp-config", str(file))
    told = {name.removeprefix("server "): check for name, check in checks.items()}
    assert status == 1
    ready = "11 tools, protocol 2025-11-25"
    assert told["good"] == {"status": "ok", "found": ready, "advice": ""}
    assert told["off"]["status"] == "ok"
    assert told["missing"] == {
        "status": "failed",
        "found": (
            "cannot be started: its command 'no-such-command-anywhere' was not found; "
            "install it or give its full path"
        ),
        "advice": "mend its entry",
    }
    assert told["wrong"]["advice"] == "mend its entry"


def test_tools_are_graded_by_the_models_tokens(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = home / "servers.json"
    entry = {"command": sys.executable, "args": ["-S", script.__file__, "hard"]}
    file.write_text(json.dumps({"mcpServers": {"a": entry}}), encoding="utf-8")
    model = write_tiny_llama(home / "tiny.gguf")
    status, checks = examine(capsys, "--mcp-config", str(file), "--model", str(model))
    assert status == 0
    assert checks["tools of a"] == {
        "status": "ok",
        "found": "10 of 11 are decoded strictly",
        "advice": "",
    }
    size = "1006 tokens, 196.5% of a context of 512"
    assert checks["definitions' size of a"]["found"] == size
    assert checks["definitions' size"]["found"] == f"{size}: the model searches them"
    assert {name for name in checks if name.startswith("tool ")} == {"tool a__hang"}
    assert checks["tool a__hang"] == {
        "status": "warning",
        "found": (
            "refused: tool 'a__hang': keyword 'pattern' at $.properties.a is longer than 4096"
            " bytes; shorten it"
        ),
        "advice": "the model is not offered it: simplify its input schema",
    }


def test_sizes_of_definitions_are_told_server_by_server() -> None:
    servers = (ToolTokens("a", 2, 100, 0.05), ToolTokens("b", 9, 800, 0.4))
    report = ToolReport(servers, 880, 0.44, is_searched=True)
    assert list(_tokens(report, 2000)) == [
        Check("definitions' size of a", "ok", "100 tokens, 5.0% of a context of 2000"),
        Check("definitions' size of b", "ok", "800 tokens, 40.0% of a context of 2000"),
        Check(
            "definitions' size",
            "ok",
            "880 tokens, 44.0% of a context of 2000: the model searches them",
        ),
    ]
    *_, last = _tokens(ToolReport(servers[:1], 100, 0.05, is_searched=False), 2000)
    assert last.found == "100 tokens, 5.0% of a context of 2000: all are listed"


@pytest.mark.parametrize(
    ("text", "status", "found", "advice"),
    [
        ("servers.a.deny = ['x']", "ok", "{}: rules of a", ""),
        ("", "ok", "{}: rules of nothing", ""),
        (
            "servers.b.deny = ['x']",
            "warning",
            "{}: rules of b",
            "no configured server is named b; its rules do nothing",
        ),
        (
            "servers.a.dny = ['x']",
            "failed",
            "{}: servers.a: no key is named 'dny'; did you mean 'deny'?",
            "mend the line that the message names",
        ),
    ],
)
def test_policy_file_is_looked_at(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    status: str,
    found: str,
    advice: str,
) -> None:
    policy, servers = home / "policy.toml", home / "servers.json"
    policy.write_text(text, encoding="utf-8")
    servers.write_text('{"mcpServers": {"a": {"command": "x", "disabled": true}}}')
    code, checks = examine(capsys, "--mcp-config", str(servers), "--policy", str(policy))
    assert code == int(status == "failed")
    expected = {"status": status, "found": found.format(policy), "advice": advice}
    assert checks["policy"] == expected


def test_tools_below_strict_are_told_one_by_one() -> None:
    support = {
        "a__x": ToolSupport("strict"),
        "a__y": ToolSupport("coerced"),
        "a__z": ToolSupport("lenient", ("not", "uniqueItems")),
        "a__no": ToolSupport("refused", problem="too deep"),
    }
    assert list(_tools("a", support)) == [
        Check("tools of a", "ok", "1 of 4 are decoded strictly"),
        Check("tool a__y", "ok", "coerced: nothing left out"),
        Check("tool a__z", "ok", "lenient: not, uniqueItems"),
        Check(
            "tool a__no",
            "warning",
            "refused: too deep",
            "the model is not offered it: simplify its input schema",
        ),
    ]
    assert list(_tools("a", {})) == []


def test_a_person_reads_lines(capsys: pytest.CaptureFixture[str]) -> None:
    app(["doctor"], prog_name="zonda", standalone_mode=False)
    *_, model, advice = capsys.readouterr().out.splitlines()
    assert model == "warning  model: smollm2-135m is not here yet"
    assert advice == "         -> zonda pull smollm2-135m"


@pytest.mark.slow
def test_a_tool_whose_definition_changed_is_told(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offered = home / "offered.json"
    offered.write_text('{"x": "One."}', encoding="utf-8")
    entry = {"command": sys.executable, "args": ["-P", changing.__file__, str(offered)]}
    (home / "servers.json").write_text(json.dumps({"mcpServers": {"s": entry}}), encoding="utf-8")
    assert "definitions of s" not in examine(capsys, "--mcp-config", str(home / "servers.json"))[1]
    offered.write_text('{"x": "Two."}', encoding="utf-8")
    status, checks = examine(capsys, "--mcp-config", str(home / "servers.json"))
    assert (status, checks["definitions of s"]) == (
        0,
        {
            "status": "warning",
            "found": "disabled, for their definition has changed since it was approved: x",
            "advice": "zonda mcp approve s",
        },
    )
