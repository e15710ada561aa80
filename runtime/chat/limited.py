"""Ends texts that have had their tokens: the hint `x-max-tokens`.

The grammar's own limit on tokens would cut a text amid a character, an escape or its closing
marker. Here a text is closed at the first place where the grammar lets it be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from runtime.chat.cursor import TurnCursor
from runtime.chat.wire_formats.format import BoundFormat, FieldArguments, NotationArguments
from runtime.chat.wire_formats.schemas import Path, hinted_places
from runtime.grammar.constraint import Constraint, ConstraintState
from runtime.grammar.vocabulary import Vocabulary
from runtime.tokenizer.decoder import overlap
from tools.errors import InvalidRequestError
from tools.spec import ToolSpec


def limits_of(tool: ToolSpec) -> dict[Path, int]:
    """The most tokens that a tool's schema allows of its texts, by the paths of its arguments.

    Raises:
        InvalidRequestError: one is no positive integer.
    """
    found = {}
    for path, part in hinted_places(tool.input_schema, "x-max-tokens"):
        value = part["x-max-tokens"]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            place = ".".join(["$", *map(str, path)])
            raise InvalidRequestError(
                f"tool {tool.name!r}: x-max-tokens at {place} must be an integer of at least 1,"
                f" not {value!r}"
            )
        found[path] = value
    return found


class WaysOut:
    """The tokens that close a text, as masks of a vocabulary."""

    def __init__(self, bound: BoundFormat, vocabulary: Vocabulary) -> None:
        style = bound.wire.arguments
        self._ids = bound.ids
        self._vocabulary = vocabulary
        self._masks: dict[str, npt.NDArray[np.int32]] = {}
        self._nested = style.quote if isinstance(style, NotationArguments) else '"'
        self._own = style.after_value if isinstance(style, FieldArguments) else self._nested

    def get(self, written: str, *, is_nested: bool) -> npt.NDArray[np.int32]:
        """The tokens that go on closing a text which ends like `written`: [num_mask_words]."""
        closing = self._nested if is_nested else self._own
        rest = closing[overlap(written[-len(closing) :], closing) :]
        if rest not in self._masks:
            self._masks[rest] = self._build(rest)
        return self._masks[rest]

    def _build(self, rest: str) -> npt.NDArray[np.int32]:
        allowed = np.zeros(32 * self._vocabulary.num_mask_words, dtype=bool)
        if rest[0] in self._ids:
            allowed[self._ids[rest[0]]] = True
        else:
            plain = next((rest[:at] for at, one in enumerate(rest) if one in self._ids), rest)
            for token_ids in self._vocabulary.texts.split_by_prefix(plain.encode()):
                allowed[token_ids] = True
        return np.packbits(allowed, bitorder="little").view(np.int32)


class LimitedConstraint:
    """A constraint under which texts end soon after their limits.

    A text that has had its tokens takes only what closes it, wherever that is legal.
    """

    def __init__(
        self,
        inner: Constraint,
        limits: Mapping[str, Mapping[Path, int]],
        cursor: TurnCursor,
        ways_out: WaysOut,
    ) -> None:
        """Decorate `inner`; `limits` are by tool, `cursor` is where the turn begins."""
        self._inner = inner
        self._limits = limits
        self._cursor = cursor
        self._ways_out = ways_out
        # After each token: the number of the text that it stands in, and of tokens in it so far.
        self._spent: list[tuple[int, int]] = [(0, 0)]

    def fill(self, token_bitmask: npt.NDArray[np.int32], row: int) -> None:
        self._inner.fill(token_bitmask, row)
        ways = self._ways()
        if ways is None:
            return
        words = token_bitmask[row, : len(ways)]
        if (words & ways).any():
            words &= ways

    def advance(self, token_ids: Sequence[int]) -> int:
        for count, token_id in enumerate(token_ids):
            if not self._may_take(token_id) or not self._inner.advance([token_id]):
                return count
            self._follow(token_id)
        return len(token_ids)

    def forced(self) -> list[int]:
        return self._inner.forced()

    def rollback(self, num_tokens: int) -> None:
        self._inner.rollback(num_tokens)
        self._cursor.rollback(num_tokens)
        if num_tokens:
            del self._spent[-num_tokens:]

    def fork(self) -> LimitedConstraint:
        copy = LimitedConstraint(
            self._inner.fork(), self._limits, self._cursor.fork(), self._ways_out
        )
        copy._spent = list(self._spent)
        return copy

    @property
    def state(self) -> ConstraintState:
        return self._inner.state

    def _follow(self, token_id: int) -> None:
        self._cursor.push([token_id])
        at = self._cursor.arguments
        number, spent = self._spent[-1]
        is_same = at.is_in_text and at.num_texts == number
        self._spent.append((at.num_texts, spent + 1 if is_same else 0))

    def _ways(self) -> npt.NDArray[np.int32] | None:
        """What closes the text; None where it may go on."""
        at = self._cursor.arguments
        limit = self._limits.get(self._cursor.tool or "", {}).get(at.path)
        if limit is None or not at.is_in_text or at.is_escaped or self._spent[-1][1] < limit:
            return None
        return self._ways_out.get(self._cursor.text, is_nested=len(at.path) > 1)

    def _may_take(self, token_id: int) -> bool:
        ways = self._ways()
        if ways is None or ways[token_id // 32] >> (token_id % 32) & 1:
            return True
        forced = self._inner.forced()
        if forced and forced[0] == token_id:
            return True
        token_bitmask = np.zeros((1, len(ways)), dtype=np.int32)
        self._inner.fill(token_bitmask, 0)
        return not (token_bitmask[0] & ways).any()
