"""Draws single arguments at temperatures of their own: the hint `x-temperature`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from runtime.chat.cursor import TurnCursor
from runtime.chat.wire_formats.schemas import Path, hinted_places
from runtime.grammar.constraint import Constraint, ConstraintState
from tools.errors import InvalidRequestError
from tools.spec import ToolSpec


def temperatures_of(tool: ToolSpec) -> dict[Path, float]:
    """The temperatures that a tool's schema asks for, by the paths of its arguments.

    Raises:
        InvalidRequestError: one is no number in 0..2.
    """
    found = {}
    for path, part in hinted_places(tool.input_schema, "x-temperature"):
        value = part["x-temperature"]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 2:
            place = ".".join(["$", *map(str, path)])
            raise InvalidRequestError(
                f"tool {tool.name!r}: x-temperature at {place} must be in 0..2, not {value!r}"
            )
        found[path] = float(value)
    return found


class TemperedConstraint:
    """A constraint that says, too, at which temperature the next token is drawn."""

    def __init__(
        self,
        inner: Constraint,
        temperatures: Mapping[str, Mapping[Path, float]],
        cursor: TurnCursor,
    ) -> None:
        """Decorate `inner`; `temperatures` are by tool, `cursor` is where the turn begins."""
        self._inner = inner
        self._temperatures = temperatures
        self._cursor = cursor

    @property
    def temperature(self) -> float | None:
        """None where the request's own holds."""
        wanted = self._temperatures.get(self._cursor.tool or "", {})
        return wanted.get(self._cursor.arguments.path) if wanted else None

    def fill(self, token_bitmask: npt.NDArray[np.int32], row: int) -> None:
        self._inner.fill(token_bitmask, row)

    def advance(self, token_ids: Sequence[int]) -> int:
        count = self._inner.advance(token_ids)
        self._cursor.push(token_ids[:count])
        return count

    def forced(self) -> list[int]:
        return self._inner.forced()

    def rollback(self, num_tokens: int) -> None:
        self._inner.rollback(num_tokens)
        self._cursor.rollback(num_tokens)

    def fork(self) -> TemperedConstraint:
        return TemperedConstraint(self._inner.fork(), self._temperatures, self._cursor.fork())

    @property
    def state(self) -> ConstraintState:
        return self._inner.state
