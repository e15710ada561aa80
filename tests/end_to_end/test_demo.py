"""The demo and one prompt, as a user types them; what the model says is not judged."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mcp_servers.cli.demo import desktop_entry

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(180)]


def zonda(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "mcp_servers", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=170)


def test_demo_shows_a_valid_call_its_result_and_an_answer() -> None:
    done = zonda("demo")
    assert done.returncode == 0, done.stderr
    assert re.search(r"→ workbench__\w+ \{.*\}  valid\n  [←✗] .+", done.stdout)
    assert re.search(r"\nAnswer\n  .+", done.stdout)
    assert re.search(r"\[\d+ tokens in .* tokens/s.*, \d+ of them forced", done.stdout)
    assert json.dumps({"mcpServers": {"zonda": desktop_entry()}}) in done.stdout


def test_run_prints_the_answer_alone_to_standard_output() -> None:
    done = zonda("run", "Say hello.", "--max-tokens", "4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "[" not in done.stdout
    assert done.stderr.startswith("[4 tokens in ")


def test_run_with_tools_prints_calls_to_standard_error(tmp_path: Path) -> None:
    entry = {"command": sys.executable, "args": ["-P", "-m", "mcp_servers", "workbench"]}
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {"bench": entry}}), encoding="utf-8")
    done = zonda("run", "Say hello.", "--max-tokens", "16", "--mcp-config", str(file))
    assert done.returncode == 0, done.stderr
    assert "→" not in done.stdout
    assert " tokens in " in done.stderr
