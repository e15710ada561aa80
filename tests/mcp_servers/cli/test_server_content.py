"""`zonda mcp resources` and `prompts`: what servers have beside tools."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import tests.helpers.tool_server_script as script
from mcp_servers.cli import app
from tools.errors import ConfigurationError, InvalidRequestError, ToolServerError

READING = (sys.executable, "-S", script.__file__, "reading")


@pytest.fixture(autouse=True)
def home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A home whose list has one server, `notes`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("ZONDA_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("ZONDA_CONFIG", raising=False)
    zonda(capsys, "mcp", "add", "notes", "--", *READING)


def zonda(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what a command that succeeds prints."""
    assert not app(list(arguments), prog_name="zonda", standalone_mode=False)
    return capsys.readouterr().out


def test_resources_are_listed_and_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert zonda(capsys, "mcp", "resources", "notes").splitlines() == [
        "note://1: a note, About a note.",
        "note://2 (image/png): a picture",
    ]
    assert zonda(capsys, "mcp", "resources", "notes", "note://1") == "hello\n"
    assert zonda(capsys, "mcp", "resources", "notes", "note://2") == (
        "[image image/png, 3 bytes, not shown]\n"
    )
    told = json.loads(zonda(capsys, "mcp", "resources", "notes", "note://2", "--json"))
    assert told == [{"type": "image", "data": "AAEC", "mimeType": "image/png"}]
    first, _ = json.loads(zonda(capsys, "mcp", "resources", "notes", "--json"))
    assert first == {
        "uri": "note://1",
        "name": "a note",
        "description": "About a note.",
        "mime_type": None,
        "size": 5,
        "is_template": False,
    }


def test_prompts_are_listed_and_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert zonda(capsys, "mcp", "prompts", "notes") == "greet whom=…: Greets.\n"
    for given in ("whom=Ann", "Ann"):
        made = zonda(capsys, "mcp", "prompts", "notes", "greet", given)
        assert made == "user: Greet Ann.\nassistant: Hello!\n"
    told = json.loads(zonda(capsys, "mcp", "prompts", "notes", "greet", "Ann", "--json"))
    assert told[1] == {"role": "assistant", "content": {"type": "text", "text": "Hello!"}}


def test_what_cannot_be_done_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ToolServerError, match="refused reading note://9: no such note"):
        zonda(capsys, "mcp", "resources", "notes", "note://9")
    with pytest.raises(InvalidRequestError, match="the prompt 'greet' needs whom=…"):
        zonda(capsys, "mcp", "prompts", "notes", "greet")
    with pytest.raises(ConfigurationError, match="no MCP server is named 'note'"):
        zonda(capsys, "mcp", "resources", "note")
