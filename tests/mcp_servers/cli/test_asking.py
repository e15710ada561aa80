"""Questions of tool servers at the terminal."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from mcp_servers.cli.asking import TerminalAsker
from tools.questions import Answer, Question

pytestmark = pytest.mark.anyio
FORM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "title": "City", "description": "Where to?"},
        "days": {"type": "integer", "minimum": 1, "default": 3},
        "rain": {"type": "boolean"},
        "by": {"type": "string", "oneOf": [{"const": "t", "title": "Train"}, {"const": "b"}]},
        "with": {"type": "array", "items": {"type": "string", "enum": ["Ann", "Bob"]}},
    },
    "required": ["city"],
}


async def ask(question: Question, *lines: str) -> tuple[Answer, str]:
    """Type these lines; then the input ends."""
    out = StringIO()
    left = [f"{line}\n" for line in lines]

    async def read() -> str:
        return left.pop(0) if left else ""

    console = Console(file=out, width=200, markup=False, highlight=False, emoji=False)
    answer = await TerminalAsker(console, read)(question)
    return answer, out.getvalue()


@pytest.mark.parametrize(
    ("lines", "content"),
    [
        (
            ["Rome", "2", "y", "1", "Ann, 2"],
            {"city": "Rome", "days": 2, "rain": True, "by": "t", "with": ["Ann", "Bob"]},
        ),
        (["Rome", "", "", "", ""], {"city": "Rome", "days": 3}),
        (
            ["", "Rome", "0", "x", "9", "no", "Train", "2"],
            {"city": "Rome", "days": 9, "rain": False, "by": "t", "with": ["Bob"]},
        ),
    ],
)
async def test_a_form_is_filled_in_field_by_field(lines: list[str], content: Any) -> None:
    answer, _ = await ask(Question("s asks", FORM), "y", *lines)
    assert answer == Answer("accept", content)


async def test_what_is_asked_is_shown_with_its_choices_and_as_text() -> None:
    _, shown = await ask(Question("The tool server 's' asks:\x1b[2J Hi", FORM), "y", "Rome")
    assert shown.splitlines() == [
        "  ? The tool server 's' asks:\N{REPLACEMENT CHARACTER}[2J Hi",
        "    Answer it? [y/N]     City: Where to? >     days (integer, empty for 3) > ",
    ]


async def test_choices_are_numbered_below_their_field() -> None:
    fields = {"by": FORM["properties"]["by"], "with": FORM["properties"]["with"]}
    _, shown = await ask(Question("s asks", {"type": "object", "properties": fields}), "y", "t")
    assert shown.splitlines()[1:] == [
        "    Answer it? [y/N]     by (may be empty)",
        "      1. Train (t)",
        "      2. b >     with (some, with commas between, may be empty)",
        "      1. Ann",
        "      2. Bob > ",
    ]


@pytest.mark.parametrize(
    ("lines", "action"),
    [
        ([], "decline"),
        (["n"], "decline"),
        (["y"], "cancel"),
        (["y", "", "", ""], "cancel"),
        (["y", "Rome", "x", "-1", "no"], "cancel"),
    ],
)
async def test_a_question_may_be_declined_or_left(lines: list[str], action: str) -> None:
    answer, _ = await ask(Question("s asks", FORM), *lines)
    assert (answer.action, answer.content) == (action, None)


async def test_a_page_is_shown_and_never_opened() -> None:
    question = Question("s asks", {"type": "object", "properties": {}}, "https://example.org/x")
    accepted, shown = await ask(question, "y")
    assert accepted == Answer("accept")
    assert "It sends you to https://example.org/x" in shown
    assert (await ask(question, ""))[0] == Answer("decline")
