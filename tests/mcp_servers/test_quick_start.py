"""Tests of the short way into the relay: what it takes, and what it leaves to the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import mcp_servers
from mcp_servers.quick_start import read_options

CASES: list[tuple[list[str], Mapping[str, str] | None]] = [
    ([], {}),
    (["--model", "a", "--verbose"], {"--model": "a", "--verbose": ""}),
    (["--model=a=b", "--log-file", "l"], {"--model": "a=b", "--log-file": "l"}),
    (["--model", "a", "--model", "b"], {"--model": "b"}),
    (["--no-share"], None),
    (["--model"], None),
    (["--model", "--verbose"], None),
    (["--verbose=1"], None),
    (["--mod", "a"], None),
    (["--help"], None),
    (["list"], None),
    (["--model", "a", "test"], None),
    (["--", "a"], None),
]


@pytest.mark.parametrize(("arguments", "expected"), CASES)
def test_plain_options_are_read_and_the_rest_is_left(
    arguments: list[str], expected: Mapping[str, str] | None
) -> None:
    assert read_options(arguments) == expected


def test_relay_imports_neither_command_line_nor_event_loop_nor_sdk() -> None:
    code = (
        "import sys\n"
        "import mcp_servers.__main__\n"
        "heavy = {'typer', 'pydantic', 'anyio', 'asyncio', 'mcp', 'mcp_types', 'numpy', 'email'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    root = Path(mcp_servers.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
