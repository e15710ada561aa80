"""`zonda bench` as a command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mcp_servers
from tests.helpers.tiny_gguf import write_tiny_llama

ROOT = Path(mcp_servers.__file__).parent.parent


@pytest.mark.slow
def test_startup_prints_one_record_a_line(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    write_tiny_llama(model)
    arguments = ["bench", "startup", "--json", "--repeats", "1", "--model", str(model)]
    done = subprocess.run(
        [sys.executable, "-m", "mcp_servers", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(record["params"]["measure"], record["unit"]) for record in records] == [
        ("first MCP answer", "s"),
        ("tools/list answered", "s"),
        ("first token", "s"),
        ("end after end of input", "s"),
        ("peak memory", "MiB"),
    ]
    assert all(record["value"] > 0 for record in records)
    assert {record["repeats"] for record in records} == {1}
