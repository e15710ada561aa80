"""The tests that OpenAI's Python client comes with, against our API over a real tiny model.

`python -m tests.clients.openai_python PYTHON SOURCE`: the Python that has the client and pytest,
and the folder of its source. These tests ask for things by ids that nobody made, so that they are
put there before each request (`openai_python_seeds.py`). Ends with 1 when a test fails that
`openai_python_expected.yml` does not name, or passes though it does.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import anyio
from rich.console import Console
from rich.table import Table

from mcp_servers.model_server.tools import Surface
from runtime.config import Config
from tests.clients.openai_python_seeds import FINE_TUNED, Seeds
from tests.conformance.suite import Outcome, Scenario, judge, read_expected
from tests.helpers.tiny_gguf import write_tiny_llama
from tests.helpers.web_service import HubModels, on_port, open_app

EXPECTED = Path(__file__).with_name("openai_python_expected.yml")
FOLDER = "tests/api_resources"
FILES = (
    *("chat/test_completions.py", "chat/completions/test_messages.py"),
    *("test_completions.py", "test_embeddings.py", "test_models.py", "test_responses.py"),
    *("responses/test_input_items.py", "responses/test_input_tokens.py"),
    *("test_conversations.py", "conversations/test_items.py"),
)
WITHIN_S = 300
NOTHING = "<testsuites/>"
"""The report of no test."""
FILL_IN = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
"""Control tokens of a model that fills gaps, as completions with a suffix need."""


async def run_tests(python: Path, source: Path) -> list[Scenario]:
    """Run the files against a server of its own, one test after the other."""
    # A model is found by its path, too: in its folder that is the name that is asked for.
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = Path(name)
        write_tiny_llama(folder / FINE_TUNED)
        write_tiny_llama(folder / "tiny.gguf", special_tokens=FILL_IN)
        config = Config(model="tiny.gguf", cache_dir=folder, state_dir=folder, kv_cache_mib=64)
        seeds = Seeds()
        async with open_app(
            HubModels(config),
            model_name=config.model,
            any_name=True,
            memory=seeds.memory,
            chats=seeds.chats,
            surface=Surface(loadable=()),
            within_s=WITHIN_S,
        ) as app:
            await app.service.prepare()
            seeded = replace(app.web, asgi=seeds.before_each(app))
            async with on_port(seeded) as url:
                base_url = url.removesuffix("mcp") + "v1"
                await seeds.grow(base_url)
                return read_report(await _run_pytest(python, source, base_url, folder))


async def _run_pytest(python: Path, source: Path, base_url: str, folder: Path) -> str:
    """Return the report of a run, which is made in `folder`; that of no test where it failed."""
    report = folder / "report.xml"
    options = ["--quiet", "-p", "no:cacheprovider", "--override-ini=addopts="]
    files = [f"{FOLDER}/{file}" for file in FILES]
    done = await anyio.run_process(
        [str(python), "-m", "pytest", *options, f"--junitxml={report}", *files],
        cwd=source,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "TEST_API_BASE_URL": base_url},
        check=False,
    )
    if not report.exists():
        sys.stderr.write(f"pytest did not run: {(done.stderr or done.stdout).decode()[-2000:]}")
        return NOTHING
    return report.read_text("utf-8")


def read_report(text: str) -> list[Scenario]:
    """Read pytest's report of a run in JUnit's format: each test by its file below `FOLDER`."""
    found = []
    for case in ElementTree.fromstring(text).iter("testcase"):
        *modules, class_name = case.attrib["classname"].split(".")
        file = "/".join(modules).removeprefix(f"{FOLDER}/") + ".py"
        name = f"{file}::{class_name}::{case.attrib['name']}"
        bad = [one for one in case if one.tag != "properties"]  # failure, error or skipped
        failures = tuple(one.attrib.get("message", one.tag) for one in bad)
        found.append(Scenario(name, int(not bad), 0, 0, failures))
    return found


def find_problems(tests: Sequence[Scenario], expected: Sequence[str]) -> list[str]:
    """Say what is not as it was expected."""
    verdict = judge(Outcome(tuple(tests)), expected)
    names = {one.name for one in tests}
    absent = [name for name in expected if name not in names]
    empty = [file for file in FILES if not any(one.startswith(f"{file}::") for one in names)]
    return [
        *(f"{one.name}: {one.failures[0]}" for one in verdict.failed),
        *(f"{name} passes; take it out of {EXPECTED.name}" for name in verdict.stale),
        *(f"{name} is in {EXPECTED.name}, but did not run" for name in absent),
        *(f"{file}: no test of it ran" for file in empty),
    ]


def write_table(tests: Sequence[Scenario], expected: Sequence[str]) -> Table:
    """Count the tests of each file, and of all."""
    table = Table(box=None)
    for title in ("openai-python's own tests", "passed", "failed", "expected"):
        table.add_column(title, justify="right" if table.columns else "left")
    for name in (*FILES, ""):
        verdict = judge(
            Outcome(of := tuple(one for one in tests if one.name.startswith(name))), expected
        )
        numbers = sum(one.passed for one in of), len(verdict.failed), len(verdict.expected)
        style = "red" if verdict.failed else "green"
        table.add_row(name or "all", *map(str, numbers), style=style)
    return table


def main(python: Path, source: Path) -> int:
    """Run the tests; return the exit status."""
    groups = read_expected(EXPECTED.read_text("utf-8"))
    expected = [name for names in groups.values() for name in names]
    tests = anyio.run(run_tests, python.absolute(), source.absolute())
    console = Console(width=100, soft_wrap=True)
    console.print(write_table(tests, expected))
    problems = find_problems(tests, expected)
    for problem in problems:
        console.print(problem, markup=False)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
