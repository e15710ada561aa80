"""Keeps an output finishable: of a token limit as much is left as its end takes.

Decorates a constraint; knows no schema, no model and no scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from runtime.grammar.constraint import ConstraintState, guess_token
from runtime.grammar.end_finder import Closable, EndFinder

# An old end often fits again once the first of its tokens have been said otherwise.
_MAX_SKIPPED = 2
# While more is left than the last end, what a token may open and this, ends are looked for now
# and then: after so many tokens, as many as any end takes, where that is known, or a third of
# what is over.
_NEAR_TOKENS = 64
_LOOK_TOKENS = 16
# Where no end could be found, it is tried again after so many tokens.
_RETRY_TOKENS = 64


class BudgetedConstraint:
    """A constraint under which an output is complete within `max_tokens`, its end token apart.

    Near the limit a token whose shortest known end does not fit the tokens left is refused:
    `advance` takes nothing, and `forced` then dictates how to go on. It dictates nothing where
    the output is complete as it stands. Far from it a token costs nothing more than without.

    Where no end can be found at all the token is taken, and nothing is guaranteed until an end
    is known again. So a part of a language that the search cannot close may still be said.

    Invariant: `_ends` has, for the start and after each token taken, an end that the inner
    constraint takes and that fits the tokens left then, or None where none was looked for.
    """

    def __init__(
        self,
        inner: Closable,
        max_tokens: int,
        finder: EndFinder,
        end: Sequence[int] | None,
        *,
        reserve: int = 0,
        longest: int = 0,
    ) -> None:
        """Decorate `inner`.

        Args:
            inner: the constraint to keep finishable.
            max_tokens: how many tokens may be taken.
            finder: of the same vocabulary.
            end: an end of `inner` as it is, such as `finder.get_end` of its grammar. Without
                one, or with one longer than `max_tokens`, nothing is guaranteed at first.
            reserve: tokens that must be left beyond an end where a complete output is gone on
                with, so that what is begun there (a call) can be what was meant, and need not
                be whatever is shortest.
            longest: about as many tokens as any end may take, where that is known: a token may
                open more than all before it, and from there on each is looked at.
        """
        self._inner = inner
        self._max_tokens = max_tokens
        self._finder = finder
        self._reserve = reserve
        fits = end is not None and len(end) <= max_tokens
        self._ends: list[tuple[int, ...] | None] = [
            tuple(end) if end is not None and fits else None
        ]
        self._longest = longest
        self._length = len(end or ())
        self._is_lost = not fits
        self._has_refused = False
        # How many tokens may be taken before the next look for an end.
        self._num_blind = self._count_blind()

    def fill(self, token_bitmask: npt.NDArray[np.int32], row: int) -> None:
        self._inner.fill(token_bitmask, row)

    def advance(self, token_ids: Sequence[int]) -> int:
        """Take tokens up to the first that is illegal or leaves no room for an end."""
        self._has_refused = False
        count = 0
        while count < len(token_ids):
            if self._num_blind > 0:
                unseen = token_ids[count : count + self._num_blind]
                taken = self._inner.advance(unseen)
                self._ends += [None] * taken
                self._num_blind -= taken
                is_taken = taken == len(unseen)
            else:
                taken = is_taken = self._take(token_ids[count])
            count += taken
            if not is_taken:
                break
        return count

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

    def guess(self) -> int | None:
        return guess_token(self._inner)

    def rollback(self, num_tokens: int) -> None:
        self._has_refused = False
        if num_tokens:
            self._inner.rollback(num_tokens)
            del self._ends[-num_tokens:]
            self._num_blind = self._count_blind(max(_LOOK_TOKENS, self._longest))

    def fork(self) -> BudgetedConstraint:
        copy = BudgetedConstraint(
            self._inner.fork(),
            self._max_tokens,
            self._finder,
            None,
            reserve=self._reserve,
            longest=self._longest,
        )
        copy._ends = list(self._ends)
        copy._length = self._length
        copy._num_blind = self._num_blind
        copy._is_lost = self._is_lost
        copy._has_refused = self._has_refused
        return copy

    @property
    def state(self) -> ConstraintState:
        return self._inner.state

    @property
    def is_guaranteed(self) -> bool:
        """Whether the output is complete within the tokens left, as far as was looked."""
        return not self._is_lost

    @property
    def end(self) -> tuple[int, ...]:
        """The shortest known end from here; empty where the output is complete or none is known."""
        return self._ends[-1] or ()

    @property
    def num_left(self) -> int:
        """How many tokens may still be taken; the end token takes none of them."""
        return max(0, self._max_tokens - (len(self._ends) - 1))

    def _take(self, token_id: int) -> bool:
        """Take a token if an end that fits follows it, or none can be found at all."""
        room = self.num_left - 1
        if room < 0 and token_id not in self._finder.vocabulary.stop_ids:
            return False
        was_whole = self._inner.state == "accepting"
        if self._inner.advance([token_id]) != 1:
            return False
        end = self._look(token_id, room - self._reserve * was_whole)
        if end is None and self._may_refuse(room + 1):
            return False
        if end is None:
            self._inner.advance([token_id])
        self._is_lost = end is None
        self._length = self._length if end is None else len(end)
        self._ends.append(end)
        self._num_blind = self._count_blind()
        return True

    def _count_blind(self, num_unseen: int = 0) -> int:
        """How many tokens may be taken from here, where as many have not been looked at.

        Between two looks the shortest end may grow by two tokens with each that is taken.
        """
        room = self.num_left - 1
        if self._is_lost:
            return max(0, room) % _RETRY_TOKENS
        near = self._length + (self._longest or self._length) + _NEAR_TOKENS
        to_near = room + 1 - near
        interval = max(_LOOK_TOKENS, self._longest, (to_near + num_unseen) // 3)
        return min(to_near, interval - num_unseen)

    def _may_refuse(self, room: int) -> bool:
        """Untake the token that leaves no end, where there is one without it."""
        self._inner.rollback(1)
        if self._ends[-1] is None and not self._is_lost:
            is_whole = self._inner.state == "accepting"
            self._ends[-1] = () if is_whole else self._finder.find(self._inner, room)
        self._has_refused = self._ends[-1] is not None
        return self._has_refused

    def _look(self, token_id: int, room: int) -> tuple[int, ...] | None:
        """An end of at most `room` tokens, now that `token_id` was taken; None if there is none."""
        finder, inner, last = self._finder, self._inner, self._ends[-1]
        if inner.state in {"accepting", "done"}:
            return ()
        if last is not None and last[:1] == (token_id,):
            return last[1:]
        # In free text the end that was known some time ago often fits as it is.
        known = next((end for end in reversed(self._ends) if end is not None), ())
        for skipped in reversed(range(min(_MAX_SKIPPED, len(known)) + 1)):
            end = known[skipped:]
            if end and len(end) <= room and finder.completes(inner, end):
                return end
        return finder.find(inner, room, known)

    def _closing_run(self) -> list[int]:
        """The first token of the end and what the grammar dictates after it."""
        first, rest = self.end[:1], self.end[1:]
        if not first:
            return []
        ahead = self._inner.fork()
        ahead.advance(first)
        run = ahead.forced()
        return [*first, *run] if tuple(run) == rest[: len(run)] else list(first)
