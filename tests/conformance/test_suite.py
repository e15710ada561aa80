"""What becomes of the suite's findings: a failure is never taken for a success."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio
import mcp_types as t
import pytest
from mcp import Client

from runtime.agent.runs import Runs
from tests.conformance.__main__ import EXPECTED
from tests.conformance.server import make_server
from tests.conformance.suite import Outcome, Scenario, Verdict, judge, read_expected, run_suite

GOOD = Scenario("ping", 2, 0, 0, ())
BAD = Scenario("caching", 1, 0, 0, ("ttl: there is none",))


@pytest.mark.parametrize(
    ("outcome", "expected", "verdict", "is_good"),
    [
        (Outcome((GOOD,)), [], Verdict(), True),
        (Outcome((GOOD, BAD)), [], Verdict(failed=(BAD,)), False),
        (Outcome((GOOD, BAD)), ["caching"], Verdict(expected=("caching",)), True),
        (Outcome((GOOD,)), ["ping"], Verdict(stale=("ping",)), False),
        (Outcome((GOOD,)), ["not run"], Verdict(), True),
        (Outcome((), "it broke"), [], Verdict(complaint="it broke"), False),
    ],
)
def test_verdict_names_what_is_wrong(
    outcome: Outcome, expected: list[str], verdict: Verdict, is_good: bool
) -> None:
    assert judge(outcome, expected) == verdict
    assert verdict.is_good == is_good


def test_expected_failures_are_those_of_the_sdk() -> None:
    assert read_expected(EXPECTED.read_text("utf-8")) == {
        "server": [],
        "client": ["auth/dpop", "auth/dpop-nonce", "auth/wif-jwt-bearer"],
    }


@pytest.mark.parametrize("text", ["  - early", "server:\n  nonsense", "server:\n - a b"])
def test_damaged_file_of_expected_failures_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is neither a side nor a scenario"):
        read_expected(text)


PROGRAM = """#!{python}
import json, pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index("--output-dir") + 1])
for name, checks in {found}.items():
    folder = out / f"{{name}}-2026-11-26T00-59-47-832Z"
    folder.mkdir(parents=True)
    (folder / "checks.json").write_text(json.dumps(checks))
print("something to say", file=sys.stderr)
sys.exit({status})
"""
PASSES = {"id": "a", "status": "SUCCESS"}
WARNS = {"id": "b", "status": "WARNING"}
FAILS = {"id": "c", "status": "FAILURE", "errorMessage": "it is wrong"}
LACKS = {
    "id": "d",
    "status": "FAILURE",
    "errorMessage": "there is no such tool",
    "details": {"untestable": True},
}


@pytest.mark.parametrize(
    ("found", "status", "has_fixtures", "outcome"),
    [
        (
            {"server-ping": [PASSES, WARNS, FAILS, LACKS]},
            1,
            False,
            Outcome((Scenario("ping", 1, 1, 1, ("c: it is wrong",)),)),
        ),
        (
            {"server-ping": [PASSES, LACKS], "server-sub/initialize": []},
            1,
            True,
            Outcome(
                (
                    Scenario("ping", 1, 0, 0, ("d: there is no such tool",)),
                    Scenario("sub/initialize", 0, 0, 0, ("no check was made",)),
                )
            ),
        ),
        ({"server-ping": [PASSES]}, 0, True, Outcome((Scenario("ping", 1, 0, 0, ()),))),
        (
            {"server-ping": [PASSES]},
            1,
            True,
            Outcome((Scenario("ping", 1, 0, 0, ()),), "something to say"),
        ),
        ({}, 0, True, Outcome((), "something to say")),
    ],
)
def test_checks_are_read_and_a_broken_run_complains(
    found: dict[str, Any], status: int, has_fixtures: bool, outcome: Outcome, tmp_path: Path
) -> None:
    program = tmp_path / "conformance"
    program.write_text(PROGRAM.format(python=sys.executable, found=found, status=status))
    program.chmod(0o755)
    output = tmp_path / "out"
    assert run_suite(program, [], "server", output, has_fixtures=has_fixtures) == outcome


@pytest.mark.anyio
@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
async def test_fixtures_are_served(era: str) -> None:
    with anyio.fail_after(5):
        async with Runs() as runs, Client(make_server(runs), mode=era) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            greeting = await client.call_tool("greet", {"name": "Ada"})
            told = await client.call_tool("test_embedded_resource", {})
    assert len(tools) == len(set(tools))
    assert greeting.content == [t.TextContent(text="Hello, Ada!")]
    assert isinstance(told.content[0], t.EmbeddedResource)
