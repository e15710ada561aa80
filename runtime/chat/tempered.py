"""Draws single arguments at temperatures of their own: the hint `x-temperature`.

Follows the calls of a turn by what its parser says, so it knows which argument a token
belongs to, in every wire format.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from runtime.chat.messages import ToolCallDelta
from runtime.chat.parser import MarkedText, TurnParser
from runtime.grammar.constraint import Constraint, ConstraintState
from tools.errors import InvalidRequestError
from tools.spec import JsonObject, ToolSpec

ITEM = 0
"""Stands in a path for any item of a list."""

Path = tuple[str | int, ...]


def temperatures_of(tool: ToolSpec) -> dict[Path, float]:
    """The temperatures that a tool's schema asks for, by the paths of its arguments.

    Raises:
        InvalidRequestError: one is no number in 0..2.
    """
    found = {}
    for path, value in _hints(tool.input_schema, ()):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 2:
            place = ".".join(["$", *map(str, path)])
            raise InvalidRequestError(
                f"tool {tool.name!r}: x-temperature at {place} must be in 0..2, not {value!r}"
            )
        found[path] = float(value)
    return found


def _hints(schema: JsonObject, path: Path) -> Iterator[tuple[Path, object]]:
    if "x-temperature" in schema:
        yield path, schema["x-temperature"]
    properties, items = schema.get("properties"), schema.get("items")
    for name, part in properties.items() if isinstance(properties, dict) else ():
        if isinstance(part, dict):
            yield from _hints(part, (*path, name))
    if isinstance(items, dict):
        yield from _hints(items, (*path, ITEM))


class TemperedConstraint:
    """A constraint that says, too, at which temperature the next token is drawn.

    Attributes:
        temperature: None where the request's own holds.
    """

    def __init__(
        self,
        inner: Constraint,
        temperatures: Mapping[str, Mapping[Path, float]],
        make_parser: Callable[[], tuple[TurnParser, MarkedText]],
    ) -> None:
        """Decorate `inner`; `temperatures` are by tool, `make_parser` begins the turn anew."""
        self.temperature: float | None = None
        self._inner = inner
        self._temperatures = temperatures
        self._make_parser = make_parser
        self._token_ids: list[int] = []
        self._begin()

    def fill(self, token_bitmask: npt.NDArray[np.int32], row: int) -> None:
        self._inner.fill(token_bitmask, row)

    def advance(self, token_ids: Sequence[int]) -> int:
        count = self._inner.advance(token_ids)
        self._follow(token_ids[:count])
        return count

    def forced(self) -> list[int]:
        return self._inner.forced()

    def rollback(self, num_tokens: int) -> None:
        self._inner.rollback(num_tokens)
        kept = self._token_ids[: len(self._token_ids) - num_tokens]
        self._begin()
        self._follow(kept)

    def fork(self) -> TemperedConstraint:
        copy = TemperedConstraint(self._inner.fork(), self._temperatures, self._make_parser)
        copy._follow(self._token_ids)
        return copy

    @property
    def state(self) -> ConstraintState:
        return self._inner.state

    def _begin(self) -> None:
        self._parser, self._text = self._make_parser()
        self._wanted: Mapping[Path, float] = {}
        self._cursor = JsonCursor()
        self._token_ids = []
        self.temperature = None

    def _follow(self, token_ids: Sequence[int]) -> None:
        self._token_ids += token_ids
        for event in self._parser.push(self._text.push(token_ids)):
            if not isinstance(event, ToolCallDelta):
                continue
            if event.name is not None:
                self._wanted = self._temperatures.get(event.name, {})
                self._cursor = JsonCursor()
            self._cursor.push(event.arguments)
        self.temperature = self._wanted.get(self._cursor.path) if self._wanted else None


class JsonCursor:
    """Says where in a JSON text one is that comes bit by bit.

    Attributes:
        path: names, and `ITEM`s, that lead to the value which is being written.
    """

    def __init__(self) -> None:
        self._names: list[str | int | None] = []
        self._in_string = False
        self._is_escaped = False
        self._is_key = False
        self._key = ""

    @property
    def path(self) -> Path:
        names = [name for name in self._names if name is not None]
        return tuple(names) if len(names) == len(self._names) else ()

    def push(self, text: str) -> None:
        """Take more text."""
        for char in text:
            if self._in_string:
                self._push_in_string(char)
            elif char == '"':
                self._in_string = True
                self._key = char
            elif char in "{[":
                self._is_key = char == "{"
                self._names.append(None if char == "{" else ITEM)
            elif char in "}]":
                self._names.pop()
            elif char == ",":
                self._is_key = self._names[-1] != ITEM
                self._names[-1] = None if self._is_key else ITEM
            elif char == ":":
                self._is_key = False

    def _push_in_string(self, char: str) -> None:
        if self._is_key:
            self._key += char
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == '"':
            self._in_string = False
            if self._is_key:
                self._names[-1] = json.loads(self._key)
