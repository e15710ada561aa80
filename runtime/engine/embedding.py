"""Vectors of texts: the mean of the last hidden states over a text's tokens, of length 1.

Computed between the steps, in pages of the same pool and in forward passes that are as short as
prompts beside decodes are. Knows token ids only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from runtime.engine.batch import lay_out
from runtime.engine.prefix_pages import Turns
from runtime.engine.scheduler import Scheduler
from runtime.errors import CapacityError
from runtime.kernels.forward_batch import ForwardBatch

Vectors = npt.NDArray[np.float32]
"""`[num_texts, hidden_size]`, each row of length 1."""


@runtime_checkable
class HiddenRunner(Protocol):
    """A runner that shows what it computes before the head."""

    @property
    def hidden_size(self) -> int: ...

    def hidden_states(self, batch: ForwardBatch) -> npt.NDArray[np.float32]:
        """Return the normed last hidden states `[T, hidden_size]` of a batch without rows."""
        ...


@dataclass(eq=False, slots=True)
class _Text:
    """One text on its way; `total` is the sum over its first `num_computed` tokens."""

    index: int
    token_ids: Sequence[int]
    num_computed: int = 0
    page_table: list[int] = field(default_factory=list)
    total: npt.NDArray[np.float64] | None = None


class Embedder:
    """Computes vectors in turns.

    Invariant: a text that is on its way owns pages for all of it, so that it always gets on;
    whatever ends the work gives them back.
    """

    def __init__(self, scheduler: Scheduler, runner: HiddenRunner, max_sequences: int) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._max_sequences = max_sequences
        self._page_size = scheduler.cache.page_size

    def embed(self, texts: Sequence[Sequence[int]]) -> Turns[Vectors]:
        """Return the vectors of texts, each of 1 token or more that fit the context.

        Raises:
            CapacityError: nothing runs any more and there are still too few pages.
        """
        waiting = deque(_Text(index, token_ids) for index, token_ids in enumerate(texts))
        active: list[_Text] = []
        vectors = np.zeros((len(texts), self._runner.hidden_size), np.float32)
        try:
            while waiting or active:
                pieces = self._choose(waiting, active)
                if pieces:
                    self._compute(pieces)
                for text in [one for one in active if one.num_computed == len(one.token_ids)]:
                    vectors[text.index] = _mean_direction(text)
                    active.remove(text)
                    self._release(text)
                yield
        finally:
            for text in active:
                self._release(text)
        return vectors

    def _choose(self, waiting: deque[_Text], active: list[_Text]) -> list[tuple[_Text, int]]:
        """What the next pass computes: texts, and up to which of their tokens."""
        budget = self._scheduler.num_tokens_beside()
        pieces: list[tuple[_Text, int]] = []
        for text in active:  # at most one, the last that did not fit
            budget -= self._add_piece(text, budget, pieces)
        while waiting and budget > 0 and len(pieces) < self._max_sequences:
            if not self._reserve(waiting[0], is_first=not active):
                break
            text = waiting.popleft()
            active.append(text)
            budget -= self._add_piece(text, budget, pieces)
        return pieces

    def _add_piece(self, text: _Text, budget: int, pieces: list[tuple[_Text, int]]) -> int:
        end = min(len(text.token_ids), text.num_computed + budget)
        pieces.append((text, end))
        return end - text.num_computed

    def _reserve(self, text: _Text, *, is_first: bool) -> bool:
        """Take the pages of all of a text, leaving one to each sequence that runs."""
        pool, leases = self._scheduler.pool, self._scheduler.leases
        wanted = -(-len(text.token_ids) // self._page_size)
        while pool.num_free < wanted + len(self._scheduler.running):
            if not leases.drop_first():
                if is_first and not self._scheduler.has_work:
                    raise CapacityError(f"{wanted} KV pages wanted, {pool.num_free} free")
                return False
        text.page_table = pool.allocate(wanted)
        self._scheduler.cache.forget(text.page_table)
        return True

    def _compute(self, pieces: Sequence[tuple[_Text, int]]) -> None:
        spans = [(text.token_ids, text.page_table, text.num_computed, end) for text, end in pieces]
        hidden = self._runner.hidden_states(lay_out(spans, self._page_size))
        first = 0
        for text, end in pieces:
            last = first + end - text.num_computed
            total = hidden[first:last].sum(axis=0, dtype=np.float64)
            text.total = total if text.total is None else text.total + total
            text.num_computed, first = end, last

    def _release(self, text: _Text) -> None:
        self._scheduler.pool.release(text.page_table)
        text.page_table = []


def _mean_direction(text: _Text) -> npt.NDArray[np.float32]:
    """The mean of a text's hidden states, scaled to length 1; a mean of 0 stays so."""
    assert text.total is not None
    length = float(np.linalg.norm(text.total))
    return (text.total / length if length else text.total).astype(np.float32)
