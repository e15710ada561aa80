"""Tests of the command line: help, errors as one line, nothing heavy imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import mcp_servers
from mcp_servers.cli import COMMANDS, app
from mcp_servers.cli.errors import exit_status
from mcp_servers.cli.records import Measurement, Place, make_record, percentile
from runtime.errors import DownloadError
from runtime.sources import MODELS
from tools.errors import ConfigurationError, UnknownToolError

ROOT = Path(mcp_servers.__file__).parent.parent


def zonda(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "mcp_servers", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from mcp_servers.cli import app\n"
        "app(['--help'], prog_name='zonda', standalone_mode=False)\n"
        "heavy = {'torch', 'mcp', 'mcp_types', 'numpy', 'pydantic', 'rich', 'anyio'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    *page, heavy = done.stdout.splitlines()
    listed = [line.split()[0] for line in page[page.index("Commands:") + 1 :]]
    assert listed == list(COMMANDS)
    assert heavy == "[]"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nope"], "zonda: No such command 'nope'."),
        (["mcp", "--nope"], "zonda: No such option: --nope"),
        (["bench", "startu"], "zonda: no area is named 'startu'; did you mean 'startup'?"),
        (
            ["bench", "decode", "--url", "http://127.0.0.1:1"],
            "zonda: --url and --peer are for serve and prefix, decode measures our engine",
        ),
        (
            ["bench", "decode", "--plot", "a.svg"],
            "zonda: --plot FILE.svg, and --with what to draw too, are for serve",
        ),
        (
            ["bench", "serve", "--concurrency", "1,none"],
            "zonda: --concurrency takes numbers like 1,4,16, not '1,none'",
        ),
        (["mcp", "--device", "gpu"], "zonda: device must be auto, cpu or cuda, not 'gpu'"),
        (
            ["mcp", "--expose", "chatt"],
            "zonda: --expose names a tool, and none is 'chatt'; did you mean 'chat'?",
        ),
        (
            ["serve", "--prompts", "/nowhere"],
            "zonda: --prompts must be a folder, and /nowhere is none",
        ),
        (
            ["mcp", "--mcp-config", "/nowhere.json"],
            "zonda: cannot read the tool servers in /nowhere.json: No such file or directory",
        ),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    arguments: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZONDA_STATE_DIR", str(tmp_path))
    done = zonda(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0].startswith(line)
    assert len(done.stderr.splitlines()) == 1


def test_models_says_what_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZONDA_CACHE_DIR", str(tmp_path))
    source = MODELS["smollm2-135m"]
    app(["models"], prog_name="zonda", standalone_mode=False)
    assert "* smollm2-135m     98 MB  Apache-2.0    not here yet: zonda pull" in (
        capsys.readouterr().out
    )
    source.path(tmp_path).parent.mkdir(parents=True)
    with source.path(tmp_path).open("wb") as file:
        file.truncate(source.size_bytes)  # sparse: what is in it is not looked at
    app(["models"], prog_name="zonda", standalone_mode=False)
    assert f"in {source.path(tmp_path)}" in capsys.readouterr().out


def test_pull_prints_the_path_of_what_is_here_already(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "mine.gguf"
    model.write_bytes(b"")
    app(["pull", str(model)], prog_name="zonda", standalone_mode=False)
    assert capsys.readouterr().out == f"{model}\n"


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (SystemExit(3), 3, ""),
        (SystemExit(None), 0, ""),
        (typer.Exit(4), 4, ""),
        (typer.Abort(), 130, ""),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 1, ""),
        (DownloadError("no network;\n  try later"), 1, "zonda: no network; try later\n"),
        (ConfigurationError("bad file"), 2, "zonda: bad file\n"),
        (
            BaseExceptionGroup("tasks", [ExceptionGroup("", [UnknownToolError("a", ["b"])])]),
            2,
            "zonda: no tool is named 'a'; known are 'b'\n",
        ),
        (KeyError("x"), 70, "zonda: internal error, KeyError: 'x'; please report it\n"),
    ],
)
def test_whatever_ends_a_command_becomes_a_status_and_at_most_one_line(
    raised: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(raised) == status
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([3.0], 0.9, 3.0), ([2.0, 1.0, 3.0], 0.5, 2.0), ([0.0, 10.0], 0.1, 1.0)],
)
def test_percentile(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_record_of_a_measurement() -> None:
    params = {"measure": "first token"}
    taken = Measurement("startup", params, [2.0, 1.0, 3.0], "s", limit=4.0, bandwidth_gb_s=33.333)
    record = make_record(taken, Place("tiny", "cpu", "abc"))
    assert json.loads(record.to_json()) == {
        "bench": "startup",
        "model": "tiny",
        "params": {"measure": "first token"},
        "value": 2.0,
        "p10": 1.2,
        "p90": 2.8,
        "repeats": 3,
        "unit": "s",
        "limit": 4.0,
        "fraction": 0.5,
        "bandwidth_gb_s": 33.33,
        "device": "cpu",
        "commit": "abc",
    }
