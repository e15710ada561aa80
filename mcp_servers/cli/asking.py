"""Puts the questions of tool servers to the person at the terminal.

What a server wrote is printed as text, without the control characters that drive a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
from rich.console import Console
from rich.text import Text

from mcp_servers.cli.console import plain, read_line
from tools.questions import Answer, Ask, Question, decline
from tools.spec import JsonObject
from tools.validation import first_problem

MAX_TRIES = 3
_YES, _NO = frozenset({"y", "yes", "true", "1"}), frozenset({"n", "no", "false", "0"})


class TerminalAsker:
    """Asks field by field; an empty line takes the default or leaves a field out."""

    def __init__(self, console: Console, read: Callable[[], Awaitable[str]] = read_line) -> None:
        self._console = console
        self._read = read
        self._one_at_a_time = anyio.Lock()

    async def __call__(self, question: Question) -> Answer:
        async with self._one_at_a_time:
            self._say(question.message, "bold yellow", mark="  ? ")
            if question.url is not None:
                self._say(f"It sends you to {question.url}")
                done = await self._confirm("Open it yourself if you trust it. Have you done so?")
                return Answer("accept" if done else "decline")
            if not await self._confirm("Answer it?"):
                return Answer("decline")
            return await self._fill_in(question.schema)

    async def _fill_in(self, schema: JsonObject) -> Answer:
        content: JsonObject = {}
        required = schema.get("required", ())
        for name, field in schema["properties"].items():
            for _ in range(MAX_TRIES):
                text = await self._ask_field(name, field, is_required=name in required)
                if text is None:
                    return Answer("cancel")
                problem = _take(content, name, field, text, is_required=name in required)
                if problem is None:
                    break
                self._say(problem, "red")
            else:
                self._say("Given up; the server is told that the question was left.", "red")
                return Answer("cancel")
        return Answer("accept", content)

    async def _ask_field(self, name: str, field: JsonObject, *, is_required: bool) -> str | None:
        """Return what was typed; None at the end of the input."""
        title = str(field.get("title") or name)
        told = f"{title}: {field['description']}" if field.get("description") else title
        told = f"{told} {_hint(field, is_required=is_required)}".rstrip()
        for number, (value, label) in enumerate(_choices(field), 1):
            told += f"\n  {number}. {label}" + (f" ({value})" if label != value else "")
        self._say(told, end=" > ")
        line = await self._read()
        return line.strip() if line else None

    async def _confirm(self, text: str) -> bool:
        self._say(f"{text} [y/N]", "bold", end=" ")
        return (await self._read()).strip().lower() in _YES

    def _say(self, text: str, style: str = "", *, mark: str = "    ", end: str = "\n") -> None:
        indented = plain(text).replace("\n", "\n    ")
        self._console.print(Text(mark + indented, style), end=end, soft_wrap=True)


def terminal_asker(console: Console) -> Ask:
    """Return an asker, or one that declines when nobody sits at a terminal."""
    return TerminalAsker(console) if sys.stdin.isatty() else decline


def _take(
    content: JsonObject, name: str, field: JsonObject, text: str, *, is_required: bool
) -> str | None:
    """Put what was typed into the answer; return what is wrong with it."""
    if not text:
        if "default" in field:
            content[name] = field["default"]
        return "An answer is needed." if is_required and "default" not in field else None
    value = _parse(field, text)
    if (problem := first_problem(field, value)) is not None:
        return f"That does not do: {problem}"
    content[name] = value
    return None


def _parse(field: JsonObject, text: str) -> Any:
    """Return the value that was meant; the text itself where it is none of the field's type."""
    kind = field.get("type", "string")
    choices = _choices(field)
    if kind == "array":
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return [_chosen(choices, part) for part in parts]
    if kind == "boolean":
        word = text.lower()
        return True if word in _YES else False if word in _NO else text
    if kind in {"integer", "number"}:
        try:
            return int(text) if kind == "integer" else float(text)
        except ValueError:
            return text
    return _chosen(choices, text)


def _chosen(choices: Sequence[tuple[Any, Any]], text: str) -> Any:
    """Return the choice that a number or a label stands for."""
    if text.isdecimal() and 0 < int(text) <= len(choices):
        return choices[int(text) - 1][0]
    return next((value for value, label in choices if text in {value, label}), text)


def _choices(field: JsonObject) -> list[tuple[Any, Any]]:
    """Return the values that a field can have, each with its label."""
    source = field.get("items", {}) if field.get("type") == "array" else field
    if titled := source.get("oneOf") or source.get("anyOf"):
        return [(one.get("const"), one.get("title", one.get("const"))) for one in titled]
    values = source.get("enum", [])
    labels = source.get("enumNames", values)
    return list(zip(values, labels if len(labels) == len(values) else values, strict=True))


def _hint(field: JsonObject, *, is_required: bool) -> str:
    kind = field.get("type", "string")
    parts = [field["format"]] if "format" in field else [] if kind == "string" else [kind]
    if kind == "boolean":
        parts = ["y/n"]
    if kind == "array":
        parts = ["some, with commas between"]
    if "default" in field:
        parts.append(f"empty for {field['default']!r}")
    elif not is_required:
        parts.append("may be empty")
    return f"({', '.join(map(str, parts))})" if parts else ""
