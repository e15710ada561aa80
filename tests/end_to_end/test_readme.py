"""The README does not lie: its settings are all there are, its program runs."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from runtime.config import Config
from tests.helpers.readme import README, programs


def test_settings_of_the_readme_are_the_settings_there_are() -> None:
    listed = re.findall(r"^\| `ZONDA_([A-Z_]+)` \|", README, re.MULTILINE)
    assert sorted(listed) == sorted(item.name.upper() for item in fields(Config))


def test_commands_of_the_readme_exist() -> None:
    executable = Path(sys.executable).parent / "zonda"
    done = subprocess.run([executable, "--help"], capture_output=True, text=True, check=True)
    known = set(re.findall(r"^  ([a-z]+) ", done.stdout, re.MULTILINE))
    assert set(re.findall(r"^zonda ([a-z]+)", README, re.MULTILINE)) <= known


# Those of clients run in environments of their own: `make clients`.
PROGRAMS = [program for program in programs() if "from runtime import" in program]


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("number", "ending"), [(0, "AgentEnd("), (1, "name=")])
def test_program_of_the_readme_runs(number: int, ending: str, smollm2: Path) -> None:
    assert len(PROGRAMS) == 2
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAMS[number]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert ending in done.stdout.splitlines()[-1]
