"""Runs the README's programs for clients, and more of them, against `zonda serve`: `make clients`.

They run in an environment of their own, whose Python is the argument: what clients need is none
of ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.helpers.http_process import HttpServerProcess
from tests.helpers.readme import programs

PROGRAMS = {
    "from openai import": "ChatCompletionMessageFunctionToolCall(",
    "from anthropic import": "ToolUseBlock(",
}
"""How a program begins, and what it prints in the end."""
SCRIPTS = {"anthropic_sdk.py": "anthropic's SDK is served as it expects"}
"""A file here that takes the server's address, and what it prints in the end."""

WORKBENCH = {"command": sys.executable, "args": ["-m", "mcp_servers", "workbench"]}


def use_responses(python: Path) -> int:
    """Run `responses.py` against a server that has the workbench; return 1 where it fails."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "mcp.json"
        file.write_text(json.dumps({"mcpServers": {"workbench": WORKBENCH}}), encoding="utf-8")
        with HttpServerProcess("--mcp-config", str(file), environ=os.environ) as server:
            program = Path(__file__).with_name("responses.py")
            command: list[str | Path] = [python, program, server.url.removesuffix("/mcp")]
            return int(not _run(program.name, command, "tool_servers"))


def main(python: Path) -> int:
    failed = use_responses(python)
    with HttpServerProcess(environ=os.environ) as server:
        for beginning, wanted in PROGRAMS.items():
            (program,) = [one for one in programs() if one.startswith(beginning)]
            program = program.replace("http://127.0.0.1:8377", server.url.removesuffix("/mcp"))
            failed += not _run(f"{beginning} …", [python, "-c", program], wanted)
        for name, wanted in SCRIPTS.items():
            script = Path(__file__).with_name(name)
            failed += not _run(name, [python, script, server.url.removesuffix("/mcp")], wanted)
    return failed


def _run(what: str, command: Sequence[Path | str], wanted: str) -> bool:
    """Run a program; say whether it ended well and printed what it should."""
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    is_right = run.returncode == 0 and wanted in run.stdout
    sys.stdout.write(f"{'ok' if is_right else 'FAILED'}: {what}\n")
    if not is_right:
        sys.stdout.write(run.stdout + run.stderr)
    return is_right


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
