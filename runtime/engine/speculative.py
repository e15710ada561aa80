"""Guesses a sequence's next tokens, so that one forward pass can check several.

A guess never changes what is said: each token is drawn as it would be without, and whatever was
guessed after the first one that comes out otherwise is thrown away.

Sources: speculative decoding (Leviathan et al., ICML 2023), here with what was said before as
the draft model, as in prompt lookup decoding (Saxena, 2023) and LLMA (Yang et al., 2023).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from runtime.grammar.constraint import Constraint, guess_token

_LEARNED = 0.2
"""How much the last guess counts in the share of guesses that were right."""

_SPELLED = 0
_NO_MATCH = 1
_LONGEST = 4
"""Kinds of guesses: dictated text, or how many tokens stood side by side before, too."""

_BETWEEN = -1
"""Stands between what was predicted and the prompt."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Guessed tokens of a sequence; after some of them the next one is to be drawn.

    Attributes:
        token_ids: each guess and what the grammar dictates after it.
        ends: after how many of these tokens one is drawn; ascending, the last is all of them.
        constraints: what that one is drawn under, at each of the ends.
    """

    token_ids: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    constraints: list[Constraint | None] = field(default_factory=list)


class Speculator:
    """Guesses for one sequence, and how often they were right.

    Where two tokens stand that stood side by side before, in prompt, text or what was predicted
    of it, those that followed them then are guessed. Where a grammar dictates a text, so are
    tokens that spell it. Takes a few microseconds where nothing is found, and 20 to 100 for each
    guess under a grammar.
    """

    def __init__(self, stop_ids: Collection[int], predicted: Sequence[int] = ()) -> None:
        """Know nothing yet but what somebody predicted.

        `stop_ids` are never guessed: nothing is drawn after them.
        """
        self._stop_ids = frozenset(stop_ids)
        self._said = [*predicted, _BETWEEN]
        self._num_before = len(self._said)
        self._after: dict[tuple[int, int], int] = {}  # two tokens: where the next one stands
        self._num_indexed = 1
        self._rates = [0.8, 0.0, 0.3, 0.5, 0.7]  # how often guesses are right, by their kind
        self._last = (_NO_MATCH, -1, 0)  # the kind of the latest guess, its token, and where

    def propose(
        self, token_ids: Sequence[int], constraint: Constraint | None, *, price: float, room: int
    ) -> Draft | None:
        """Guess what follows `token_ids`; None where no guess is likely enough.

        Args:
            token_ids: prompt and text; those of the call before, and what came since.
            constraint: what the next token is drawn under; is not changed.
            price: how likely a guess must be, in 0..1: the time that one more token takes in a
                step, of what it takes by itself.
            room: guess no further beyond so many tokens; what is dictated after the last guess
                may go over it.
        """
        said = self._said
        said += token_ids[len(said) - self._num_before :]
        self._learn()
        num_said = len(said)
        draft, chance, match, at = Draft(), 1.0, _NO_MATCH, 0
        while True:
            if match == _NO_MATCH or said[at] == _BETWEEN:
                match, at = self._find()
            kind, guess = match, said[at]
            spelled = None if constraint is None else guess_token(constraint)
            if spelled is not None and self._rates[_SPELLED] >= self._rates[match]:
                kind, guess = _SPELLED, spelled
            if len(said) == num_said:
                self._last = kind, guess, num_said
            chance *= self._rates[kind]
            if chance <= price or len(said) - num_said >= room:
                break
            run, constraint = _follow(guess, constraint)
            left_over = (1 - chance) * (len(run) - 1)
            is_worth_it = chance > price * (1 + left_over)
            if not run or not is_worth_it or not self._stop_ids.isdisjoint(run):
                break
            said += run
            draft.ends.append(len(said) - num_said)
            draft.constraints.append(constraint)
            is_same = said[at : at + len(run)] == run
            match, at = (min(match + 1, _LONGEST), at + len(run)) if is_same else (_NO_MATCH, 0)
        draft.token_ids.extend(said[num_said:])
        del said[num_said:]
        return draft if draft.ends else None

    def _learn(self) -> None:
        """Note the new tokens, and whether the first of them is the one that was guessed."""
        said = self._said
        kind, guess, place = self._last
        if kind != _NO_MATCH and place < len(said):
            self._rates[kind] += _LEARNED * ((said[place] == guess) - self._rates[kind])
            self._last = _NO_MATCH, -1, 0
        # The last two tokens are looked up first, and noted when there is a third.
        first = self._num_indexed
        pairs = zip(said[first - 1 : -2], said[first:-1], strict=True)
        self._after.update(zip(pairs, range(first + 1, len(said)), strict=True))
        self._num_indexed = max(first, len(said) - 1)

    def _find(self) -> tuple[int, int]:
        """How many of the last tokens stood side by side before, and where the next one stands."""
        said = self._said
        at = self._after.get((said[-2], said[-1]))
        if at is None or said[at] == _BETWEEN:
            return _NO_MATCH, 0
        match = 2
        while match < min(_LONGEST, at) and said[at - match - 1] == said[-match - 1]:
            match += 1
        return match, at


def _follow(guess: int, constraint: Constraint | None) -> tuple[list[int], Constraint | None]:
    """A guess with what the grammar dictates after it, and what holds then; empty if illegal."""
    if constraint is None:
        return [guess], None
    ahead = constraint.fork()
    if not ahead.advance([guess]):
        return [], ahead
    run = [guess]
    while forced := ahead.forced():
        taken = ahead.advance(forced)
        run += forced[:taken]
        if taken < len(forced):
            break
    return run, ahead
