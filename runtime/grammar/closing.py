"""Keeps an output finishable: of a token limit as much is left as its end takes.

Decorates a constraint; knows no schema, no model and no scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from runtime.grammar.constraint import ConstraintState
from runtime.grammar.end_finder import Closable, EndFinder

# An old end often fits again once the first of its tokens have been said otherwise.
_MAX_SKIPPED = 2


class BudgetedConstraint:
    """A constraint under which an output is complete within `max_tokens`, its end token apart.

    A token after which no end is known that fits the tokens left is refused: `advance` takes
    nothing, and `forced` then dictates how to go on. It dictates nothing where the output is
    complete as it stands.

    Invariant: `_ends` has, for the start and after each token taken, an end that the inner
    constraint takes and that fits the tokens left then.

    Attributes:
        is_guaranteed: whether the invariant holds; otherwise everything is passed on.
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
                one, or with one longer than `max_tokens`, nothing is guaranteed.
        """
        self._inner = inner
        self._max_tokens = max_tokens
        self._finder = finder
        self.is_guaranteed = end is not None and len(end) <= max_tokens
        self._ends: list[tuple[int, ...]] = [tuple(end or ())]
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
        if not self.is_guaranteed or tuple(run) == end[: len(run)]:
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
        copy.is_guaranteed = self.is_guaranteed
        copy._ends = list(self._ends)
        copy._has_refused = self._has_refused
        return copy

    @property
    def state(self) -> ConstraintState:
        return self._inner.state

    @property
    def end(self) -> tuple[int, ...]:
        """The shortest known end from here; empty where the output is complete."""
        return self._ends[-1]

    @property
    def num_left(self) -> int:
        """How many tokens may still be taken."""
        return self._max_tokens - (len(self._ends) - 1)

    def _take(self, token_id: int) -> bool:
        if self.num_left <= 0 or self._inner.advance([token_id]) != 1:
            return False
        end = self._end_after(token_id) if self.is_guaranteed else ()
        if end is None:
            self._inner.rollback(1)
            self._has_refused = True
            return False
        self._ends.append(end)
        return True

    def _end_after(self, token_id: int) -> tuple[int, ...] | None:
        """An end that fits, now that `token_id` was taken; None when none is known."""
        if self._inner.state in {"accepting", "done"}:
            return ()
        known, room = self._ends[-1], self.num_left - 1
        if known[:1] == (token_id,):
            return known[1:]
        for skipped in reversed(range(min(_MAX_SKIPPED, len(known)) + 1)):
            end = known[skipped:]
            if end and len(end) <= room and self._finder.completes(self._inner, end):
                return end
        return self._finder.find(self._inner, room, known)

    def _closing_run(self) -> list[int]:
        """The first token of the end and what the grammar dictates after it."""
        first, rest = self._ends[-1][:1], self._ends[-1][1:]
        if not first:
            return []
        ahead = self._inner.fork()
        ahead.advance(first)
        run = ahead.forced()
        return [*first, *run] if tuple(run) == rest[: len(run)] else list(first)
