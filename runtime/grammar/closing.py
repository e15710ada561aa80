"""Keeps an output finishable: of a token limit as much is left as its end takes.

Decorates a constraint; knows no schema, no model and no scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from runtime.grammar.constraint import ConstraintState
from runtime.grammar.end_finder import MAX_END_TOKENS, Closable, EndFinder

# An old end often fits again once the first of its tokens have been said otherwise.
_MAX_SKIPPED = 2
_NEAR_TOKENS = 64
_RETRY_TOKENS = 64


class BudgetedConstraint:
    """A constraint under which an output is complete within `max_tokens`, its end token apart.

    A token whose shortest known end does not fit the tokens left is refused: `advance` takes
    nothing, and `forced` then dictates how to go on. It dictates nothing where the output is
    complete as it stands.

    Where no end can be found at all, near the limit the token is refused too; far from it the
    token is taken and nothing is guaranteed until an end is known again. So a part of a
    language that the search cannot close may still be said.

    Invariant: `_ends` has, for the start and after each token taken, an end that the inner
    constraint takes and that fits the tokens left then, or None while nothing is guaranteed.
    """

    def __init__(
        self,
        inner: Closable,
        max_tokens: int,
        finder: EndFinder,
        end: Sequence[int] | None,
    ) -> None:
        """Decorate `inner`.

        Args:
            inner: the constraint to keep finishable.
            max_tokens: how many tokens may be taken.
            finder: of the same vocabulary.
            end: an end of `inner` as it is, such as `finder.get_end` of its grammar. Without
                one, or with one longer than `max_tokens`, nothing is guaranteed at first.
        """
        self._inner = inner
        self._max_tokens = max_tokens
        self._finder = finder
        fits = end is not None and len(end) <= max_tokens
        self._ends: list[tuple[int, ...] | None] = [
            tuple(end) if end is not None and fits else None
        ]
        self._has_refused = False

    def fill(self, token_bitmask: npt.NDArray[np.int32], row: int) -> None:
        self._inner.fill(token_bitmask, row)

    def advance(self, token_ids: Sequence[int]) -> int:
        """Take tokens up to the first that is illegal or leaves no room for an end."""
        self._has_refused = False
        for count, token_id in enumerate(token_ids):
            if not self._take(token_id):
                return count
        return len(token_ids)

    def forced(self) -> list[int]:
        """What must come next; after a refusal the first steps of an end that fits."""
        if self._has_refused:
            return self._closing_run()
        run = self._inner.forced()
        end = self._ends[-1]
        if end is None or tuple(run) == end[: len(run)]:
            return run
        # The same text may take more tokens than in the end that is known.
        count = self.fork().advance(run)
        return run[:count] or list(end[:1])

    def rollback(self, num_tokens: int) -> None:
        self._has_refused = False
        if num_tokens:
            self._inner.rollback(num_tokens)
            del self._ends[-num_tokens:]

    def fork(self) -> BudgetedConstraint:
        copy = BudgetedConstraint(self._inner.fork(), self._max_tokens, self._finder, None)
        copy._ends = list(self._ends)
        copy._has_refused = self._has_refused
        return copy

    @property
    def state(self) -> ConstraintState:
        return self._inner.state

    @property
    def is_guaranteed(self) -> bool:
        """Whether the output is known to be complete within the tokens left."""
        return self._ends[-1] is not None

    @property
    def end(self) -> tuple[int, ...]:
        """The shortest known end from here; empty where the output is complete or none is known."""
        return self._ends[-1] or ()

    @property
    def num_left(self) -> int:
        """How many tokens may still be taken."""
        return self._max_tokens - (len(self._ends) - 1)

    def _take(self, token_id: int) -> bool:
        known, room = self._ends[-1], self.num_left - 1
        if room < 0 or self._inner.advance([token_id]) != 1:
            return False
        is_near = known is not None and room < 2 * len(known) + _NEAR_TOKENS
        end = self._end_after(token_id, room, is_near=is_near)
        fits = end is not None and len(end) <= room
        if known is not None and not fits and (is_near or end is not None):
            self._inner.rollback(1)
            self._has_refused = True
            return False
        self._ends.append(end if fits else None)
        return True

    def _end_after(self, token_id: int, room: int, *, is_near: bool) -> tuple[int, ...] | None:
        """An end now that `token_id` was taken, None when none is known; near, one that fits."""
        finder, inner, known = self._finder, self._inner, self._ends[-1]
        if inner.state in {"accepting", "done"}:
            return ()
        if known is None:
            return None if room % _RETRY_TOKENS else finder.find(inner, room)
        if known[:1] == (token_id,):
            return known[1:]
        for skipped in reversed(range(min(_MAX_SKIPPED, len(known)) + 1)):
            end = known[skipped:]
            if end and len(end) <= room and finder.completes(inner, end):
                return end
        if is_near:
            return finder.find(inner, room, known)
        return finder.find(inner, MAX_END_TOKENS, known) or finder.find_shortest(inner)

    def _closing_run(self) -> list[int]:
        """The first token of the end and what the grammar dictates after it."""
        first, rest = self.end[:1], self.end[1:]
        if not first:
            return []
        ahead = self._inner.fork()
        ahead.advance(first)
        run = ahead.forced()
        return [*first, *run] if tuple(run) == rest[: len(run)] else list(first)
