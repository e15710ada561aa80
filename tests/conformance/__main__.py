"""Run the official conformance suite against our servers and client, and print a table.

The fixtures' server measures factory, transport, guard, questions and tasks; `zonda serve` with a
tiny model is measured by the scenarios that need no fixture. Ends with 1 when anything fails that
`expected_failures.yml` does not name, or passes though it does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.conformance.suite import (
    REVISIONS,
    ROOT,
    Outcome,
    Side,
    Verdict,
    judge,
    read_expected,
    run_suite,
)
from tests.helpers.http_process import HttpServerProcess
from tests.helpers.tiny_gguf import write_tiny_llama

EXPECTED = Path(__file__).with_name("expected_failures.yml")
PROGRAM = ROOT / ".venv/node/node_modules/.bin/conformance"

FIXTURE_FREE = {
    "2025-11-25": (
        "server-initialize",
        "server-session-lifecycle",
        "logging-set-level",
        "ping",
        "tools-list",
        "resources-list",
        "prompts-list",
        "server-sse-multiple-streams",
        "dns-rebinding-protection",
    ),
    "2026-07-28": (
        "server-stateless",
        "tools-list",
        "resources-list",
        "prompts-list",
        "server-sse-multiple-streams",
        "sep-2164-resource-not-found",
        "dns-rebinding-protection",
        "caching",
        "http-header-validation",
        "input-required-result-unsupported-methods",
    ),
}
"""What the production server is asked; checks that need a fixture after all are told apart."""

CLIENT_TIMEOUT_MS = 60_000
"""The suite runs all client scenarios at once: on two cores each gets this long."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One row of the table."""

    name: str
    outcome: Outcome
    verdict: Verdict
    seconds: float


class Legs:
    """Runs the suite leg by leg."""

    def __init__(self, program: Path, output: Path) -> None:
        self._program = program
        self._output = output
        self._expected = read_expected(EXPECTED.read_text("utf-8"))

    def fixtures(self, revision: str) -> Leg:
        """All scenarios of a revision against our factory."""
        with fixture_server() as url:
            arguments = [["--url", url, "--requirements", revision]]
            return self._run(f"server {revision}", "server", arguments)

    def production(self, revision: str) -> Leg:
        """The scenarios without fixtures against `zonda serve`."""
        with production_server() as url:
            arguments = [
                ["--url", url, "--spec-version", revision, "--scenario", scenario]
                for scenario in FIXTURE_FREE[revision]
            ]
            name = f"zonda serve {revision}"
            return self._run(name, "server", arguments, has_fixtures=False)

    def client(self, revision: str, command: str) -> Leg:
        """All scenarios of a revision against a client program."""
        timeout = str(CLIENT_TIMEOUT_MS)
        arguments = ["--command", command, "--requirements", revision, "--timeout", timeout]
        return self._run(f"client {revision}", "client", [arguments])

    def _run(
        self, name: str, side: Side, runs: Sequence[Sequence[str]], *, has_fixtures: bool = True
    ) -> Leg:
        began = time.monotonic()
        found = []
        for number, arguments in enumerate(runs):
            output = self._output / name.replace(" ", "-") / str(number)
            output.mkdir(parents=True)
            found.append(
                run_suite(self._program, arguments, side, output, has_fixtures=has_fixtures)
            )
        outcome = Outcome(
            tuple(one for outcome in found for one in outcome.scenarios),
            "\n".join(outcome.complaint for outcome in found if outcome.complaint),
        )
        verdict = judge(outcome, self._expected.get(side, ()))
        return Leg(name, outcome, verdict, time.monotonic() - began)


@contextmanager
def fixture_server() -> Iterator[str]:
    """Start the server of the fixtures; yield its address."""
    command = [sys.executable, "-m", "tests.conformance.server"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            if not url:
                raise SystemExit("the server of the fixtures did not start; see above")
            yield url
        finally:
            server.kill()


@contextmanager
def production_server() -> Iterator[str]:
    """Start `zonda serve` with a tiny model; yield its address."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiny_llama(folder / "tiny.gguf")
        environ = {
            "PATH": os.defpath,
            "PYTHONPATH": str(ROOT),
            "ZONDA_STATE_DIR": str(folder / "state"),
            "ZONDA_CACHE_DIR": str(folder / "cache"),
        }
        with HttpServerProcess("--model", str(folder / "tiny.gguf"), environ=environ) as server:
            yield server.url


def show(legs: Sequence[Leg]) -> None:
    """Print the table, and what failed."""
    table = Table(box=None)
    for title in ("leg", "scenarios", "checks", "warned", "untestable", "failed", "expected", "s"):
        table.add_column(title, no_wrap=True, justify="left" if title == "leg" else "right")
    for leg in legs:
        scenarios = leg.outcome.scenarios
        numbers = (
            len(scenarios),
            sum(one.passed for one in scenarios),
            sum(one.warned for one in scenarios),
            sum(one.untestable for one in scenarios),
            len(leg.verdict.failed),
            len(leg.verdict.expected),
        )
        style = "green" if leg.verdict.is_good else "red"
        table.add_row(leg.name, *map(str, numbers), f"{leg.seconds:.0f}", style=style)
    console = Console(width=100, soft_wrap=True)
    console.print(table)
    for leg in legs:
        for scenario in leg.verdict.failed:
            for failure in scenario.failures:
                console.print(f"{leg.name}: {scenario.name}: {failure}", markup=False)
        for name in leg.verdict.stale:
            console.print(f"{leg.name}: {name} passes; take it out of {EXPECTED.name}")
        if leg.verdict.complaint:
            console.print(f"{leg.name}: {leg.verdict.complaint}", markup=False)


def main() -> int:
    """Run what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--client", metavar="COMMAND", help="a client to test, too")
    parser.add_argument("--only", choices=["server", "production", "client"], help="one part")
    parser.add_argument("--output", type=Path, help="an empty folder for what the suite writes")
    parser.add_argument("--program", type=Path, default=PROGRAM, help="the suite's program")
    options = parser.parse_args()
    if not options.program.exists():
        parser.error(f"the suite is not at {options.program}; `make test` installs it")
    if options.only == "client" and options.client is None:
        parser.error("give the client with --client")
    with tempfile.TemporaryDirectory() as folder:
        legs = Legs(options.program, options.output or Path(folder))
        done: list[Leg] = []
        for revision in REVISIONS:
            if options.only in {None, "server"}:
                done.append(legs.fixtures(revision))
            if options.only in {None, "production"}:
                done.append(legs.production(revision))
            if options.only in {None, "client"} and options.client is not None:
                done.append(legs.client(revision, options.client))
    show(done)
    return 0 if all(leg.verdict.is_good for leg in done) else 1


if __name__ == "__main__":
    sys.exit(main())
