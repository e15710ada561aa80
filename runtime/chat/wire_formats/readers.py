"""Reads text that comes bit by bit: readers are generators that yield when they need more.

What they give out depends on the text alone, never on how it was cut.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from runtime.chat.wire_formats.format import FieldArguments
from runtime.tokenizer.decoder import overlap

Result = TypeVar("Result")
Wait = Generator[None, None, Result]
Emit = Callable[[str], None]


class EndOfTurn(Exception):  # noqa: N818 not an error: a turn may end anywhere
    """The text is over while a reader wants more."""


class Reader:
    """Text that was not read yet.

    Attributes:
        position: characters that were read.
        is_over: no more text will come.
    """

    def __init__(self) -> None:
        self.text = ""
        self.position = 0
        self.is_over = False

    def take(self, length: int) -> str:
        """Read so many characters that are there."""
        taken, self.text = self.text[:length], self.text[length:]
        self.position += length
        return taken

    def more(self) -> Wait[None]:
        """Wait for more text.

        Raises:
            EndOfTurn: there will be none.
        """
        if self.is_over:
            raise EndOfTurn
        yield

    def char(self) -> Wait[str]:
        """Read one character."""
        while not self.text:
            yield from self.more()
        return self.take(1)

    def expect(self, literal: str) -> Wait[None]:
        """Read exactly this; the grammar lets nothing else pass."""
        while len(self.text) < len(literal):
            yield from self.more()
        taken = self.take(len(literal))
        assert taken == literal, f"the grammar let {taken!r} pass for {literal!r}"

    def which(self, options: Sequence[str]) -> Wait[int | None]:
        """Say which option, the longest of several, the text begins with; reads nothing."""
        while True:
            could_be = [one for one in options if one.startswith(self.text)]
            if self.is_over or all(len(one) <= len(self.text) for one in could_be):
                begun = [one for one in options if self.text.startswith(one)]
                return options.index(max(begun, key=len)) if begun else None
            yield

    def until(self, marker: str, emit: Emit) -> Wait[None]:
        """Give out the text up to `marker`, as soon as it is certain, and read the marker."""
        yield from self.up_to(marker, emit)
        self.take(len(marker))

    def up_to(self, marker: str, emit: Emit) -> Wait[None]:
        """As `until`, but leave the marker."""
        while (end := self.text.find(marker)) < 0:
            certain = len(self.text) - (0 if self.is_over else overlap(self.text, marker))
            if certain:
                emit(self.take(certain))
            yield from self.more()
        if end:
            emit(self.take(end))

    def digits(self) -> Wait[str]:
        """Read a whole number, up to what follows it."""
        end = 0
        while True:
            while end == len(self.text):
                yield from self.more()
            if not self.text[end].isdecimal():
                return self.take(end)
            end += 1


def read_json(reader: Reader, emit: Emit) -> Wait[None]:
    """Read a JSON object, list or text to its end."""
    depth, in_string, is_escaped = 0, False, False
    while True:
        while not reader.text:
            yield from reader.more()
        for index, char in enumerate(reader.text):
            if in_string:
                if is_escaped:
                    is_escaped = False
                elif char == "\\":
                    is_escaped = True
                elif char == '"':
                    in_string = False
            elif char == '"':
                in_string = True
            elif char in "{[":
                depth += 1
            elif char in "}]":
                depth -= 1
            if depth == 0 and not in_string:
                emit(reader.take(index + 1))
                return
        emit(reader.take(len(reader.text)))


def read_fields(
    style: FieldArguments, closing: str, fields: Mapping[str, Field], reader: Reader, emit: Emit
) -> Wait[dict[str, tuple[int, int]]]:
    """Read a tool's fields up to `closing`, which stays, and give them out as one JSON object.

    Returns between which positions each value stood.
    """
    spans: dict[str, tuple[int, int]] = {}
    names = list(fields)
    leads = [style.before_key + name + style.before_value for name in names]
    separator = "{"
    while (at := (yield from reader.which([*leads, closing]))) != len(leads):
        if at is None:
            raise EndOfTurn
        reader.take(len(leads[at]))
        emit(f"{separator}{json.dumps(names[at], ensure_ascii=False)}:")
        start = reader.position
        yield from _read_field(style, fields[names[at]], reader, emit)
        spans[names[at]] = (start, reader.position - len(style.after_value))
        separator = ","
    emit("{}" if separator == "{" else "}")
    return spans


Field = tuple[frozenset[str], Callable[[Any], bool]]
"""The JSON types of a field's value, and whether a value that is no text fits its schema."""


def _read_field(style: FieldArguments, field: Field, reader: Reader, emit: Emit) -> Wait[None]:
    types, fits = field
    if types == {"string"}:
        emit('"')
        yield from reader.until(style.after_value, lambda text: emit(_escape(text)))
        emit('"')
    elif "string" in types:
        pieces: list[str] = []
        yield from reader.until(style.after_value, pieces.append)
        emit(_as_json("".join(pieces), fits))
    else:
        while not reader.text:
            yield from reader.more()
        if reader.text[0] in '{["':
            yield from read_json(reader, emit)
            yield from reader.expect(style.after_value)
        else:
            yield from reader.until(style.after_value, emit)


def _as_json(text: str, fits: Callable[[Any], bool]) -> str:
    """A text that may stand for a value of another type is that value where it fits."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        value = text
    if not isinstance(value, str) and text == text.strip() and fits(value):
        return text
    return json.dumps(text, ensure_ascii=False)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _escape(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
