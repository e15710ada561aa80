"""Which tokens a sequence has, and how often it generated each: what penalties apply to."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


class TokenCounts:
    """Distinct tokens in the order they first came, with counts; adding one costs O(1)."""

    def __init__(self, prompt: Iterable[int], max_tokens: int) -> None:
        """Start with the prompt's tokens, never generated; at most `max_tokens` are added."""
        self._place = {token_id: place for place, token_id in enumerate(dict.fromkeys(prompt))}
        capacity = len(self._place) + max_tokens
        self._token_ids = np.zeros(capacity, np.int64)
        self._token_ids[: len(self._place)] = list(self._place)
        self._counts = np.zeros(capacity, np.int32)

    def __len__(self) -> int:
        return len(self._place)

    @property
    def token_ids(self) -> npt.NDArray[np.int64]:
        """`[len]`, each token once; a view that the next `add` leaves as it is."""
        return self._token_ids[: len(self._place)]

    @property
    def counts(self) -> npt.NDArray[np.int32]:
        """`[len]`, how often each of `token_ids` was generated; a view that `add` changes."""
        return self._counts[: len(self._place)]

    def add(self, token_ids: Iterable[int]) -> None:
        """Count generated tokens."""
        for token_id in token_ids:
            place = self._place.setdefault(token_id, len(self._place))
            self._token_ids[place] = token_id
            self._counts[place] += 1
