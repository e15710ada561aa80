"""The check before each commit: format, lint, import contracts, types, structure, tests.

`python -m tests.check` runs the quick tests, `--all` the whole suite. Stops at the first
failure; prints what each part took. Quick tests run on all processors at once; the others one
by one, for most of them use all processors themselves.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("runtime", "tools", "mcp_servers")
SOURCES = (*PACKAGES, "tests", "examples")
MAX_FILE_LINES = 500
MAX_BODY_LINES = 60
QUICK = "not slow and not real"


def main() -> int:
    """Run the parts in order; return the exit status."""
    in_parallel = ("--numprocesses", "auto", "--dist", "worksteal")
    parts: dict[str, tuple[str, ...] | None] = {
        "format": ("ruff", "format", "--check", "--quiet", *SOURCES),
        "lint": ("ruff", "check", "--quiet", *SOURCES),
        "imports": ("lint-imports", "--no-logo"),
        "types": ("mypy", "--no-error-summary"),
        "structure": None,
        "kernels": ("python", "-m", "runtime.kernels.cpu.build"),
        "quick tests": ("pytest", "--quiet", "-m", QUICK, *in_parallel),
    }
    if "--all" in sys.argv[1:]:
        parts["slow tests"] = ("pytest", "--quiet", "-m", f"not ({QUICK})")
    for name, command in parts.items():
        began = time.monotonic()
        passed = _structure() if command is None else _run(name, command)
        print(f"{name}: {'ok' if passed else 'FAILED'}, {time.monotonic() - began:.1f} s")
        if not passed:
            return 1
    return 0


def _run(name: str, command: tuple[str, ...]) -> bool:
    executable = Path(sys.executable).parent / command[0]
    shows_output = name.endswith("tests")
    done = subprocess.run(
        [str(executable), *command[1:]], capture_output=not shows_output, text=True, check=False
    )
    if done.returncode and not shows_output:
        print(done.stdout + done.stderr)
    return done.returncode == 0


def _structure() -> bool:
    problems = [
        problem
        for package in PACKAGES
        for path in sorted(Path(package).rglob("*.py"))
        for problem in _problems(path)
    ]
    print("\n".join(problems), end="\n" if problems else "")
    return not problems


def _problems(path: Path) -> Iterator[str]:
    source = path.read_text(encoding="utf-8")
    num_lines = source.count("\n")
    if num_lines > MAX_FILE_LINES:
        yield f"{path}: {num_lines} lines, at most {MAX_FILE_LINES}: find the second concept"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[1] if ast.get_docstring(node) and node.body[1:] else node.body[0]
            length = (node.end_lineno or 0) - first.lineno + 1
            if length > MAX_BODY_LINES and "gpu" not in path.parts:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines"


if __name__ == "__main__":
    sys.exit(main())
