"""Runs the README's programs for clients, and more of them, against `zonda serve`: `make clients`.

They run in environments of their own, whose Pythons are the arguments: the newest OpenAI SDK with
Anthropic's and LangChain, the one before with LlamaIndex, and LangChain's tests. What clients need
is none of ours.
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

OPENAI = {"from openai import": ["ChatCompletionMessageFunctionToolCall("]}
NEWEST = OPENAI | {
    "from anthropic import": ["ToolUseBlock("],
    "from langchain_openai import": ["'name': 'get_weather'", "'type': 'text', 'text': 'yes'"],
}
OLDER = OPENAI | {
    "from llama_index.llms.openai_like import": ["It is 12 degrees in ", "'choice': 'yes'"],
}
"""A line that a program has, and what it prints."""
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


def use_langchain_tests(python: Path) -> int:
    """Run LangChain's own tests; return 1 where one fails that the model could pass."""
    with HttpServerProcess("--model", "gemma3-270m", environ=os.environ) as server:
        suite = Path(__file__).with_name("langchain_suite.py")
        command: list[str | Path] = [python, suite, server.url.removesuffix("/mcp")]
        return int(not _run(suite.name, command, " passed"))


def main(newest: Path, older: Path, langchain: Path) -> int:
    failed = use_responses(newest) + use_langchain_tests(langchain)
    with HttpServerProcess(environ=os.environ) as server:
        url = server.url.removesuffix("/mcp")
        for python, wanted_of in ((newest, NEWEST), (older, OLDER)):
            for line, wanted in wanted_of.items():
                (program,) = [one for one in programs() if f"\n{line}" in f"\n{one}"]
                program = program.replace("http://127.0.0.1:8377", url)
                failed += not _run(f"{line} …", [python, "-c", program], *wanted)
        for name, told in SCRIPTS.items():
            script = Path(__file__).with_name(name)
            failed += not _run(name, [newest, script, url], told)
    return failed


def _run(what: str, command: Sequence[Path | str], *wanted: str) -> bool:
    """Run a program; say whether it ended well and printed what it should."""
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    is_right = run.returncode == 0 and all(text in run.stdout for text in wanted)
    sys.stdout.write(f"{'ok' if is_right else 'FAILED'}: {what}\n")
    if not is_right:
        sys.stdout.write(run.stdout + run.stderr)
    return is_right


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
