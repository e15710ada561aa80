"""Keeps an output from saying what it said before: the second try of a value that was wrong.

Decorates a constraint where that value starts; knows texts and tokens, no schema.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from runtime.grammar.constraint import ConstraintState, guess_token
from runtime.grammar.end_finder import Closable
from runtime.grammar.vocabulary import Vocabulary

_NUMBER = re.compile(rb"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_GOES_ON = b"0123456789.eE+-"

_Words = npt.NDArray[np.int32]
"""One row of a token bitmask."""


class BannedConstraint:
    """A constraint whose outputs, from its creation on, do not start with a banned text.

    A banned JSON number rules out that number, not longer ones: `12` may still become `120`
    or `12.5`. Texts are compared, not values: another way to write the same one is legal. No
    token is allowed after which only banned texts could follow, so that the state fails at the
    start or never. Finding that out takes 2 to 40 ms when the first mask is filled.

    Invariant: `_nodes` has, for the start and after each token taken, what was said since the
    start, or None once that begins no banned text; then the inner constraint is all there is.
    """

    def __init__(
        self,
        inner: Closable,
        vocabulary: Vocabulary,
        banned: Sequence[bytes],
        first_tokens: Collection[int] = (),
    ) -> None:
        """Decorate `inner`.

        Args:
            inner: the constraint, at the start of what is said again.
            vocabulary: the one of `inner`.
            banned: texts that must not be said: whole JSON values, none of them empty.
            first_tokens: tokens that must not be taken first.
        """
        self._inner = inner
        self._vocabulary = vocabulary
        self._banned = tuple(banned)
        self._first_tokens = tuple(first_tokens)
        self._nodes: list[bytes | None] = [b"" if banned or first_tokens else None]
        # What is legal after a text does not depend on the tokens that spelled it.
        self._kept: dict[bytes, _Words] = {}
        self._splits: dict[bytes, tuple[_Words, list[int]]] = {}
        self._past: dict[bytes, bool] = {}

    def fill(self, token_bitmask: npt.NDArray[np.int32], row: int) -> None:
        self._inner.fill(token_bitmask, row)
        if self._nodes[-1] is not None:
            token_bitmask[row, : self._vocabulary.num_mask_words] &= self._keep_now()

    def advance(self, token_ids: Sequence[int]) -> int:
        for count, token_id in enumerate(token_ids):
            if not self._take(token_id):
                return count
        return len(token_ids)

    def forced(self) -> list[int]:
        run = self._inner.forced()
        if not run or self._nodes[-1] is None:
            return run
        return run[: self.fork().advance(run)]

    def forced_text(self) -> bytes:
        return self._inner.forced_text()

    def guess(self) -> int | None:
        return guess_token(self._inner)

    def count_legal(self, token_ids: Sequence[int]) -> int:
        """How many of these could be taken one after the other; none is taken."""
        if self._nodes[-1] is None:
            return self._inner.count_legal(token_ids)
        return self.fork().advance(token_ids)

    def rollback(self, num_tokens: int) -> None:
        """Untake tokens that were taken since the creation."""
        assert num_tokens < len(self._nodes), "the ban knows nothing of what came before it"
        if num_tokens:
            self._inner.rollback(num_tokens)
            del self._nodes[-num_tokens:]

    def fork(self) -> BannedConstraint:
        copy = BannedConstraint(
            self._inner.fork(), self._vocabulary, self._banned, self._first_tokens
        )
        copy._nodes = list(self._nodes)
        copy._kept, copy._splits, copy._past = self._kept, self._splits, self._past
        return copy

    @property
    def state(self) -> ConstraintState:
        state, node = self._inner.state, self._nodes[-1]
        if node is None or state in {"done", "failed"}:
            return state
        if not self._has_way(self._inner, self._keep_now()):
            return "failed"
        return "open" if node in self._banned else state

    @property
    def error(self) -> str:
        """Why the state is failed; empty otherwise."""
        if self.state != "failed":
            return ""
        texts = ", ".join(text.decode(errors="replace") for text in self._banned)
        return f"nothing may be said here but what was wrong before: {texts[:200]}"

    def _take(self, token_id: int) -> bool:
        node = self._nodes[-1]
        if node is not None and 0 <= token_id < self._vocabulary.vocab_size:
            word = int(self._keep_now()[token_id >> 5])
            if not word >> (token_id & 31) & 1:
                return False
        if self._inner.advance([token_id]) != 1:
            return False
        self._nodes.append(None if node is None else self._next_node(node, token_id))
        return True

    def _next_node(self, node: bytes, token_id: int) -> bytes | None:
        text = self._vocabulary.texts.get(token_id)
        said = node + text
        goes_on = any(banned.startswith(said) for banned in self._banned)
        return said if text and goes_on else None

    def _keep_now(self) -> _Words:
        node = self._nodes[-1]
        assert node is not None
        return self._keep(node, self._inner)

    def _keep(self, node: bytes, at: Closable) -> _Words:
        """The tokens, as words of a mask, that lead from `node` past the banned texts."""
        if node not in self._kept:
            certain, within = self._split(node)
            kept = np.zeros(certain.size * 32, dtype=np.bool_)
            for token_id in within:
                ahead = at.fork()
                if ahead.advance([token_id]) == 1:
                    kept[token_id] = self._leads_past(self._say(node, token_id), ahead)
            self._kept[node] = certain | np.packbits(kept, bitorder="little").view(np.int32)
        return self._kept[node]

    def _leads_past(self, node: bytes, at: Closable) -> bool:
        """Whether an output that goes on from `node` can leave the banned texts.

        Mostly the next token can; where a grammar dictates a long text it takes as many steps.
        """
        pending, before = [(node, at)], {node: b""}
        while pending:
            node, at = pending.pop()
            certain, within = self._split(node)
            if self._past.get(node) or self._has_way(at, certain):
                while node:
                    self._past[node] = True
                    node = before[node]
                return True
            for token_id in within:
                child, ahead = self._say(node, token_id), at.fork()
                is_new = child not in before and self._past.get(child, True)
                if is_new and ahead.advance([token_id]) == 1:
                    before[child] = node
                    pending.append((child, ahead))
        self._past |= dict.fromkeys(before, False)
        return False

    def _say(self, node: bytes, token_id: int) -> bytes:
        return node + self._vocabulary.texts.get(token_id)

    def _split(self, node: bytes) -> tuple[_Words, list[int]]:
        """The tokens after which no banned text can follow, and those that go on with one."""
        if node not in self._splits:
            kept = np.ones(self._vocabulary.num_mask_words * 32, dtype=np.bool_)
            if not node:
                kept[list(self._first_tokens)] = False
            begun = [text for text in self._banned if text.startswith(node)]
            within = {one for text in begun for one in self._strike_out(kept, text, node)}
            going_on = [token_id for token_id in sorted(within) if kept[token_id]]
            kept[going_on] = False
            self._splits[node] = np.packbits(kept, bitorder="little").view(np.int32), going_on
        return self._splits[node]

    def _strike_out(self, kept: npt.NDArray[np.bool_], text: bytes, node: bytes) -> list[int]:
        """Drop the tokens that complete the text; return those that go on with it."""
        texts = self._vocabulary.texts
        is_number = _NUMBER.fullmatch(text) is not None
        rest = text[len(node) :]
        if not rest:
            # The banned number was said: it must not end here, only become a longer one.
            goes_on = np.isin(texts.bytes_at(0), list(_GOES_ON))
            kept[: goes_on.size] &= goes_on
            return []
        within, beyond = texts.split_by_prefix(rest)
        if is_number:
            next_bytes = texts.bytes_at(len(rest))[beyond]
            is_whole = next_bytes == -1
            within = np.concatenate([within, beyond[is_whole]])
            beyond = beyond[~is_whole & ~np.isin(next_bytes, list(_GOES_ON))]
        kept[beyond] = False
        going_on: list[int] = within.tolist()
        return going_on

    def _has_way(self, at: Closable, kept: _Words) -> bool:
        mask = np.zeros((1, self._vocabulary.num_mask_words), dtype=np.int32)
        at.fill(mask, 0)
        return bool((mask[0] & kept).any())
