"""Tests of `zonda config`, `zonda logs`, `zonda models` and shell completion."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from itertools import islice
from pathlib import Path

import pytest

from mcp_servers.cli import app
from mcp_servers.cli.logs import describe_call, follow_lines, last_lines
from runtime.config import Config
from runtime.memory import free_memory
from runtime.sources import MODELS
from tools.errors import ConfigurationError


def _zonda(*arguments: str) -> None:
    app(list(arguments), prog_name="zonda", standalone_mode=False)


def test_config_prints_every_value_with_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "zonda.toml"
    file.write_text("\nthreads = 3\n", encoding="utf-8")
    monkeypatch.setenv("ZONDA_MODEL", "mine")
    _zonda("config", "--config", str(file))
    *rows, end = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == [item.name for item in fields(Config)]
    assert rows[0].split() == ["model", "mine", "ZONDA_MODEL"]
    assert rows[4].split(maxsplit=2) == ["threads", "3", f"{file}, line 2"]
    assert rows[5].split() == ["context_length", "0", "default"]
    assert end == f"Flags win over ZONDA_* variables, these over {file} (read)."
    _zonda("config", "--config", str(file), "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["threads"] == {"value": "3", "origin": f"{file}, line 2"}
    assert found["file"] == str(file)


def test_file_of_a_command_changes_what_it_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "zonda.toml"
    file.write_text(f'model = "qwen3-4b"\ncache_dir = "{tmp_path}"\n', encoding="utf-8")
    _zonda("models", "--config", str(file))
    out = capsys.readouterr().out
    assert "* qwen3-4b " in out
    assert "  smollm2-135m     98 MB  Apache-2.0    not here yet" in out


def test_models_says_what_is_too_big_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("runtime.memory.free_memory", lambda: 4 << 30)
    _zonda("models")
    lines = capsys.readouterr().out.splitlines()
    too_big = [lines[at - 1][2:].split()[0] for at, line in enumerate(lines) if "too big" in line]
    needed = {name: source.size_bytes + (512 << 20) for name, source in MODELS.items()}
    assert too_big == [name for name, num_bytes in needed.items() if num_bytes > 4 << 30]
    assert lines[2 * len(MODELS)].startswith("4.0 GiB of memory are free")


def test_free_memory_of_this_machine_is_known() -> None:
    assert (free_memory() or 0) > 0


def test_logs_prints_the_end_across_rotated_files_without_control_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZONDA_STATE_DIR", str(tmp_path))
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "mcp.log").write_text("three\nfour \x1b[31mred\n", encoding="utf-8")
    (folder / "mcp.log.1").write_text("one\ntwo\n", encoding="utf-8")
    _zonda("logs", "-n", "3")
    captured = capsys.readouterr()
    assert captured.out == "two\nthree\nfour \N{REPLACEMENT CHARACTER}[31mred\n"
    assert captured.err == f"{folder / 'mcp.log'}:\n"
    assert last_lines(folder / "mcp.log", 1) == ["four \N{REPLACEMENT CHARACTER}[31mred"]
    with pytest.raises(ConfigurationError, match=r"no log is named 'mpc' .*did you mean 'mcp'"):
        _zonda("logs", "mpc")


def test_logs_follow_whole_lines_and_a_file_that_was_rotated(tmp_path: Path) -> None:
    path = tmp_path / "mcp.log"
    path.write_text("old\nnew\nhal", encoding="utf-8")
    lines = follow_lines(path, len("old\n"))
    assert next(lines) == "new"
    with path.open("a", encoding="utf-8") as file:
        file.write("f\n")
    assert next(lines) == "half"
    path.write_text("a\nb\n", encoding="utf-8")
    assert list(islice(lines, 2)) == ["a", "b"]


@pytest.mark.parametrize(
    "line", ["", "{", "3", "[]", '{"tool": "x"}', '{"time": 3, "seconds": "x"}']
)
def test_line_of_the_audit_log_that_is_damaged_is_shown_as_it_is(line: str) -> None:
    assert describe_call(line) == line


def test_shell_completes_commands() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "zonda"],
        env={"_ZONDA_COMPLETE": "complete_bash", "COMP_WORDS": "zonda co", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.split() == ["connect", "config"]
