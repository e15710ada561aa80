"""Tests of what is told of a run of openai-python's tests."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.clients import openai_python
from tests.clients.openai_python import FILES, find_problems, read_report
from tests.conformance.suite import Scenario, read_expected

REPORT = """<testsuites><testsuite>
<testcase classname="tests.api_resources.chat.test_completions.TestC" name="test_a[loose]"/>
<testcase classname="tests.api_resources.test_models.TestM" name="test_b[strict]">
<properties/><failure message="it broke">trace</failure></testcase>
<testcase classname="tests.api_resources.test_models.TestM" name="test_c"><skipped/></testcase>
</testsuite></testsuites>"""

GOOD = "chat/test_completions.py::TestC::test_a[loose]"
BROKEN = "test_models.py::TestM::test_b[strict]"
SKIPPED = "test_models.py::TestM::test_c"


def test_a_report_is_read_and_what_was_skipped_has_not_passed() -> None:
    assert read_report(REPORT) == [
        Scenario(GOOD, 1, 0, 0, ()),
        Scenario(BROKEN, 0, 0, 0, ("it broke",)),
        Scenario(SKIPPED, 0, 0, 0, ("skipped",)),
    ]


@pytest.mark.parametrize(
    ("expected", "problems"),
    [
        ([BROKEN, SKIPPED], []),
        ([BROKEN], [f"{SKIPPED}: skipped"]),
        (
            [GOOD, BROKEN, SKIPPED],
            [f"{GOOD} passes; take it out of openai_python_expected.yml"],
        ),
        (
            [BROKEN, SKIPPED, "test_models.py::TestM::test_d"],
            [
                "test_models.py::TestM::test_d is in openai_python_expected.yml, but did not run",
            ],
        ),
    ],
)
def test_all_that_was_not_expected_is_a_problem(
    expected: Sequence[str], problems: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_python, "FILES", ("chat/test_completions.py", "test_models.py"))
    assert find_problems(read_report(REPORT), expected) == problems


def test_a_file_of_which_no_test_ran_is_a_problem() -> None:
    assert find_problems([], []) == [f"{file}: no test of it ran" for file in FILES]


def test_each_test_that_may_fail_is_named_once_and_in_a_file_that_runs() -> None:
    groups = read_expected(openai_python.EXPECTED.read_text("utf-8"))
    names = [name for group in groups.values() for name in group]
    assert len(set(names)) == len(names)
    assert {name.partition("::")[0] for name in names} <= set(FILES)
