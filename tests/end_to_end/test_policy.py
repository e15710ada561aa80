"""`zonda mcp` as a process, with a policy file: what a model's calls leave in the audit log."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mcp_servers.cli.bench_server import ServerProcess
from tests.helpers.tiny_gguf import write_tiny_llama

pytestmark = [pytest.mark.slow]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A list of one server, the bundled one, and a policy file."""
    entry = {"command": sys.executable, "args": ["-P", "-m", "mcp_servers", "workbench"]}
    servers, policy = tmp_path / "servers.json", tmp_path / "policy.toml"
    servers.write_text(json.dumps({"mcpServers": {"bench": entry}}), encoding="utf-8")
    policy.write_text('[servers.bench]\ndefault = "deny"\nallow = ["*note*"]\n', encoding="utf-8")
    return servers, policy


def test_calls_of_a_run_are_written_down_and_denied_tools_are_not_offered(
    tmp_path: Path, environ: dict[str, str], files: tuple[Path, Path]
) -> None:
    model = write_tiny_llama(tmp_path / "tiny.gguf", context_length=8192)
    options = ["--model", str(model), "--mcp-config", str(files[0]), "--policy", str(files[1])]
    task = {"task": "a secret", "tool_choice": "required", "max_steps": 2}
    with ServerProcess(options, environ) as server:
        server.initialize()
        result = server.ask("tools/call", {"name": "agent_run", "arguments": task})
        server.end()
    steps = result["structuredContent"]["steps"]
    assert steps
    path = tmp_path / "state" / "audit.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    entries: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["tool"] for entry in entries] == [step["tool"] for step in steps]
    assert len({entry["run"] for entry in entries}) == 1
    assert all("note" in entry["tool"] or entry["server"] is None for entry in entries)
    assert "a secret" not in path.read_text()


def test_policy_file_that_is_wrong_stops_the_server_before_it_serves(
    environ: dict[str, str], files: tuple[Path, Path]
) -> None:
    files[1].write_text("[servers.bench]\ndeny = 'all'\n", encoding="utf-8")
    options = ["--mcp-config", str(files[0]), "--policy", str(files[1])]
    done = subprocess.run(
        [sys.executable, "-m", "mcp_servers", "mcp", *options],
        env=environ,
        input="",
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == (
        f"zonda: {files[1]}: servers.bench.deny must be a list of tools, not 'all'"
    )
