"""The shipped tools: values, bounds, and no way out of the root folder."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tools.builtin.calculator import calculator_toolset, evaluate
from tools.builtin.clock import clock_toolset
from tools.builtin.files import files_toolset
from tools.builtin.notes import notes_toolset
from tools.errors import InvalidArgumentsError
from tools.spec import ToolResult
from tools.toolset import CallContext

pytestmark = pytest.mark.anyio
CONTEXT = CallContext()


async def test_the_time_is_given_in_the_asked_zone() -> None:
    clock = clock_toolset(lambda: datetime(2026, 3, 1, 23, 30, tzinfo=UTC))
    result = await clock.call_tool("get_time", {"timezone": "Asia/Tokyo"}, CONTEXT)
    assert result.structured == {
        "timezone": "Asia/Tokyo",
        "datetime": "2026-03-02T08:30:00+09:00",
        "weekday": "Monday",
    }
    wrong = await clock.call_tool("get_time", {"timezone": "Asia/Tokio"}, CONTEXT)
    assert wrong.is_error
    assert "did you mean 'Asia/Tokyo'" in wrong.text
    escape = await clock.call_tool("get_time", {"timezone": "../../etc/passwd"}, CONTEXT)
    assert escape.is_error


async def test_days_are_counted_over_a_leap_day_and_backwards() -> None:
    clock = clock_toolset()
    dates = {"start": "2028-02-28", "end": "2028-03-01"}
    assert (await clock.call_tool("days_between", dates, CONTEXT)).structured == {"days": 2}
    back = {"start": dates["end"], "end": dates["start"]}
    assert (await clock.call_tool("days_between", back, CONTEXT)).structured == {"days": -2}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", 14),
        (" (17 * 23) // 2 ", 195),
        ("-2 ** 2", -4),
        ("sqrt(16) + abs(-1)", 5.0),
        ("round(2 * pi, 3)", 6.283),
        ("2 ** 100", 2**100),
        ("max(1, 2, 3) % 2", 1),
    ],
)
def test_arithmetic_is_evaluated(expression: str, value: float) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("1 +", "'1 +' is not an arithmetic expression"),
        ("", "'' is not an arithmetic expression"),
        ("1 / 0", "'1 / 0' divides by zero"),
        ("9 ** 9 ** 9", "the value of '9 ** 9 ** 9' is too large"),
        ("1e308 * 10", "the value of '1e308 * 10' is too large"),
        ("sqrt(-1)", "'sqrt(-1)': "),
        ("(-1) ** 0.5", "'(-1) ** 0.5': -1 ** 0.5 is not a real number"),
        ("open('x')", "\"open('x')\": \"open('x')\" is not arithmetic"),
        ("(1).real", "'(1).real': '1 .real' is not arithmetic"),
        ("True + 1", "'True + 1': 'True' is not arithmetic"),
        ("'a' * 3", "\"'a' * 3\": \"'a'\" is not arithmetic"),
        ("sqrt(1, 2)", "'sqrt(1, 2)': "),
        ("(" * 400, f"{'(' * 400!r} is not an arithmetic expression"),
    ],
)
def test_what_is_not_finite_arithmetic_is_refused(expression: str, message: str) -> None:
    with pytest.raises(InvalidArgumentsError) as caught:
        evaluate(expression)
    assert str(caught.value).startswith(message)


async def test_deep_expressions_end_in_an_answer() -> None:
    calculator = calculator_toolset()
    result = await calculator.call_tool("calculate", {"expression": "-" * 399 + "1"}, CONTEXT)
    assert result.is_error or result.structured == {"result": -1}


async def test_notes_are_kept_in_order_and_per_toolset() -> None:
    notes = notes_toolset()
    await notes.call_tool("add_note", {"text": "milk"}, CONTEXT)
    added = await notes.call_tool("add_note", {"text": "eggs"}, CONTEXT)
    assert added.structured == {"id": 2, "text": "eggs"}
    assert (await notes.call_tool("list_notes", {}, CONTEXT)).structured == {
        "notes": [{"id": 1, "text": "milk"}, {"id": 2, "text": "eggs"}]
    }
    assert (await notes_toolset().call_tool("list_notes", {}, CONTEXT)).structured == {"notes": []}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("hello é", encoding="utf-8")
    (tmp_path / "root-secret.txt").write_text("secret", encoding="utf-8")
    (folder / "out").symlink_to(tmp_path / "root-secret.txt")
    (folder / "in").symlink_to(folder / "a.txt")
    os.mkfifo(folder / "pipe")
    return folder


async def test_files_are_listed_and_read(root: Path) -> None:
    files = files_toolset(root)
    listing = await files.call_tool("list_files", {}, CONTEXT)
    assert listing.structured is not None
    assert [(e["name"], e["kind"]) for e in listing.structured["entries"]] == [
        ("a.txt", "file"),
        ("in", "other"),
        ("out", "other"),
        ("pipe", "other"),
        ("sub", "folder"),
    ]
    for name in ("a.txt", "in", "sub/../a.txt", str(root / "a.txt")):
        result = await files.call_tool("read_file", {"path": name}, CONTEXT)
        assert result.structured == {"text": "hello é", "size_bytes": 8, "next_offset": None}


async def test_long_files_are_read_in_pieces(root: Path) -> None:
    (root / "long").write_bytes(b"x" * 65_536 + b"yz")
    files = files_toolset(root)
    first = await files.call_tool("read_file", {"path": "long"}, CONTEXT)
    assert first.structured == {"text": "x" * 65_536, "size_bytes": 65_538, "next_offset": 65_536}
    rest = await files.call_tool("read_file", {"path": "long", "offset": 65_536}, CONTEXT)
    assert rest.structured == {"text": "yz", "size_bytes": 65_538, "next_offset": None}


@pytest.mark.parametrize(
    "path",
    ["../root-secret.txt", "out", "sub/../../root-secret.txt", "/etc/passwd", "a\0b", "nothing"],
)
async def test_nothing_outside_of_the_root_can_be_read(root: Path, path: str) -> None:
    result = await files_toolset(root).call_tool("read_file", {"path": path}, CONTEXT)
    assert result.is_error
    assert "secret" not in result.text.replace(path, "").replace(repr(path), "")


async def test_a_pipe_is_refused_and_not_waited_for(root: Path) -> None:
    result = await files_toolset(root).call_tool("read_file", {"path": "pipe"}, CONTEXT)
    assert result == ToolResult.from_text(
        "'pipe' is not a file; list_files lists folders", is_error=True
    )
