"""Runs the README's programs for OpenAI's clients against `zonda serve`: `make clients`.

They run in an environment of their own, whose Python is the argument: what clients need is none
of ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.http_process import HttpServerProcess
from tests.helpers.readme import programs

PROGRAMS = {"from openai import": "ChatCompletionMessageFunctionToolCall("}
"""How a program begins, and what it prints in the end."""


def main(python: Path) -> int:
    failed = 0
    with HttpServerProcess(environ=os.environ) as server:
        for beginning, wanted in PROGRAMS.items():
            (program,) = [one for one in programs() if one.startswith(beginning)]
            program = program.replace("http://127.0.0.1:8377", server.url.removesuffix("/mcp"))
            run = subprocess.run(
                [python, "-c", program], capture_output=True, text=True, timeout=120, check=False
            )
            is_right = run.returncode == 0 and wanted in run.stdout
            failed += not is_right
            sys.stdout.write(f"{'ok' if is_right else 'FAILED'}: {beginning} …\n")
            if not is_right:
                sys.stdout.write(run.stdout + run.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
