"""Tests of what commands print."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

import pytest
from rich.console import Console

from mcp_servers.cli.console import AgentPrinter, conclude, plain, tools_table, usage_text
from runtime.agent.events import (
    AgentEnd,
    AgentEvent,
    StepFinished,
    StepStarted,
    ToolCallFinished,
    ToolCallStarted,
)
from runtime.chat.messages import AUTO, TextDelta, ToolCall
from runtime.errors import GenerationError
from runtime.request import Usage
from tests.helpers.scripted_tools import make_spec
from tools.spec import ToolResult, ToolSpec

USAGE = Usage(completion_tokens=84, forced_tokens=51)
ADD = ToolSpec(
    name="add",
    description="Adds numbers. Slowly.\nMore about it.",
    input_schema={"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}},
)


def make_console() -> tuple[Console, StringIO]:
    out = StringIO()
    return Console(file=out, width=100, markup=False, highlight=False, emoji=False), out


def printed(events: Sequence[AgentEvent], *, stream_text: bool = True) -> list[str]:
    console, out = make_console()
    printer = AgentPrinter(console, [ADD], stream_text=stream_text)
    for event in events:
        printer.show(event)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def end(**changes: object) -> AgentEnd:
    values = {"answer": "4", "stopped_by": "done", "usage": USAGE, "num_steps": 1}
    return AgentEnd(**{**values, "calls": (), "messages": (), **changes})  # type: ignore[arg-type]  # test data


CALL = ToolCall("1", "add", {"a": 1})
TURN: list[AgentEvent] = [
    StepStarted(1, AUTO),
    TextDelta("Let me "),
    TextDelta("see"),
    StepFinished(1, "tool_calls", USAGE, 0.5),
    ToolCallStarted(1, CALL),
    ToolCallFinished(1, CALL, ToolResult(structured={"sum": 3}), 0.004, "policy"),
    TextDelta("It is 3"),
    end(),
]


def test_calls_and_results_stand_between_the_text() -> None:
    assert printed(TURN) == [
        "Let me see",
        '  → add {"a": 1}  valid',
        '  ← {"sum":3}  4 ms',
        "It is 3",
    ]


def test_text_can_be_left_out() -> None:
    assert printed(TURN, stream_text=False) == ['  → add {"a": 1}  valid', '  ← {"sum":3}  4 ms']


def test_invalid_arguments_and_failed_calls_are_marked() -> None:
    call = ToolCall("1", "add", {"a": "x"})
    failed = ToolResult.from_text("no\nway", is_error=True)
    events: list[AgentEvent] = [
        ToolCallStarted(1, call),
        ToolCallFinished(1, call, failed, 0.0, None),
    ]
    assert printed(events) == [
        """  → add {"a": "x"}  invalid: $.a: 'x' is not of type 'integer'""",
        "  ✗ no",
        "    way",
    ]


def test_long_results_are_cut() -> None:
    result = ToolResult.from_text("x" * 5000)
    lines = printed([ToolCallFinished(1, CALL, result, 0.0, None)])
    assert "    [cut: 4600 of 5000 characters are not shown]" in lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [("[bold]a[/bold] :smile:", "[bold]a[/bold] :smile:"), ("\x1b[31mred\x07", "�[31mred�")],
)
def test_text_of_others_is_neither_markup_nor_terminal_control(text: str, shown: str) -> None:
    assert plain(text) == shown
    assert printed([TextDelta(text), end()]) == [shown]


def test_tools_are_listed_with_parameters_and_one_sentence() -> None:
    console, out = make_console()
    console.print(tools_table([ADD, make_spec("look")]))
    assert [line.rstrip() for line in out.getvalue().splitlines()] == [
        "  add(a, b)  Adds numbers",
        "  look()     The tool look.",
    ]


def test_usage_says_what_was_forced() -> None:
    assert usage_text(USAGE, 2.0) == (
        "84 tokens in 2.0 s (42 tokens/s, prompt included), 51 of them forced by the grammar"
    )
    assert usage_text(Usage(completion_tokens=3), 0.0).startswith("3 tokens in 0.0 s")


def test_conclusion_says_what_cut_a_run_short_and_raises_what_failed() -> None:
    console, out = make_console()
    conclude(console, end(stopped_by="steps", usage=Usage(completion_tokens=4)), 1.0)
    assert (
        out.getvalue()
        == "[4 tokens in 1.0 s (4 tokens/s, prompt included); the run used all its steps]\n"
    )
    with pytest.raises(GenerationError):
        conclude(console, end(error=GenerationError("no")), 1.0)
