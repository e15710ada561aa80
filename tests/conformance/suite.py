"""Runs the conformance suite's program and reads what it found; knows no server and no client."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mcp_servers

ROOT = Path(mcp_servers.__file__).parent.parent
REVISIONS = ("2025-11-25", "2026-07-28")

Side = Literal["server", "client"]

_STAMP = re.compile(r"-\d{4}-\d\d-\d\dT[\d-]+Z$")
_SECTION = re.compile(r"(\w+):")
_ENTRY = re.compile(r"\s+- (\S+)")


@dataclass(frozen=True, slots=True)
class Scenario:
    """How the checks of one scenario ended.

    `untestable` ones failed for want of a fixture, where none is there on purpose.
    """

    name: str
    passed: int
    warned: int
    untestable: int
    failures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of the suite found; `complaint` is what it said if it broke."""

    scenarios: tuple[Scenario, ...]
    complaint: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with an outcome; what failed as `expected` is not."""

    failed: tuple[Scenario, ...] = ()
    stale: tuple[str, ...] = ()
    complaint: str = ""
    expected: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        return not (self.failed or self.stale or self.complaint)


def run_suite(
    program: Path,
    arguments: Sequence[str],
    side: Side,
    output: Path,
    *,
    has_fixtures: bool = True,
) -> Outcome:
    """Run the program once into an empty folder.

    Without fixtures, checks that fail for want of one are told apart. A scenario that made no
    check at all has failed.
    """
    folders = (program.parent, Path(sys.executable).parent)  # its node, and clients' python
    path = os.pathsep.join([*map(str, folders), os.defpath])
    done = subprocess.run(
        [program, side, *arguments, "--output-dir", output],
        cwd=ROOT,
        env={"PATH": path, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    scenarios = tuple(_read_scenarios(output, side, has_fixtures=has_fixtures))
    is_explained = any(one.failures or one.untestable for one in scenarios)
    if scenarios and (done.returncode == 0 or is_explained):
        return Outcome(scenarios)
    return Outcome(scenarios, (done.stderr or done.stdout).strip()[-2000:] or "it ran no scenario")


def judge(outcome: Outcome, expected: Sequence[str]) -> Verdict:
    """Compare an outcome with the scenarios that may fail."""
    failed = [one for one in outcome.scenarios if one.failures]
    return Verdict(
        failed=tuple(one for one in failed if one.name not in expected),
        stale=tuple(
            one.name for one in outcome.scenarios if one.name in expected and not one.failures
        ),
        complaint=outcome.complaint,
        expected=tuple(one.name for one in failed if one.name in expected),
    )


def read_expected(text: str) -> Mapping[str, Sequence[str]]:
    """Read a file of expected failures: the scenarios by side.

    Raises:
        ValueError: a line is neither a side nor a scenario.
    """
    expected: dict[str, list[str]] = {}
    entries: list[str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0].rstrip().removesuffix(" []")
        if not content:
            continue
        if (section := _SECTION.fullmatch(content)) is not None:
            entries = expected.setdefault(section[1], [])
        elif entries is not None and (entry := _ENTRY.fullmatch(content)) is not None:
            entries.append(entry[1])
        else:
            raise ValueError(f"line {number} is neither a side nor a scenario: {line!r}")
    return expected


def _read_scenarios(output: Path, side: Side, *, has_fixtures: bool) -> list[Scenario]:
    scenarios = []
    for path in sorted(output.rglob("checks.json")):
        folder = path.parent.relative_to(output).as_posix()
        name = _STAMP.sub("", folder)
        name = name.removeprefix("server-") if side == "server" else name
        scenarios.append(_read_scenario(name, path, has_fixtures=has_fixtures))
    return scenarios


def _read_scenario(name: str, path: Path, *, has_fixtures: bool) -> Scenario:
    checks = json.loads(path.read_text("utf-8"))
    statuses = [check["status"] for check in checks]
    failing = [check for check in checks if check["status"] == "FAILURE"]
    untestable = [
        check
        for check in failing
        if not has_fixtures and (check.get("details") or {}).get("untestable")
    ]
    failures = tuple(
        f"{check['id']}: {check.get('errorMessage') or check.get('description', '')}"
        for check in failing
        if check not in untestable
    )
    return Scenario(
        name=name,
        passed=statuses.count("SUCCESS"),
        warned=statuses.count("WARNING"),
        untestable=len(untestable),
        failures=failures if checks else ("no check was made",),
    )
