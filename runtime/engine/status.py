"""What an engine is doing, in numbers: a snapshot that any thread may take."""

from __future__ import annotations

import math
from dataclasses import dataclass

WINDOW_S = 5.0
"""Tokens count for so long, the newest most."""


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """One moment of an engine.

    Attributes:
        num_running: sequences of the current batch.
        num_waiting: sequences in the queue.
        num_pages: KV pages there are.
        num_used_pages: those that sequences and leases hold; the others may be cached.
        page_tokens: tokens of a page.
        num_preemptions: how often a sequence had to give its pages to another.
        num_generated: tokens generated since the engine was started.
        tokens_per_s: generated over the last seconds, of all sequences together.
    """

    num_running: int
    num_waiting: int
    num_pages: int
    num_used_pages: int
    page_tokens: int
    num_preemptions: int
    num_generated: int
    tokens_per_s: float


class Throughput:
    """Counts tokens, and how many a second came lately: a mean that forgets exponentially.

    Written by one thread; others may read, as the pair is replaced in one piece.
    """

    def __init__(self, now: float) -> None:
        self.num_tokens = 0
        self._started = now
        self._weight_and_time = (0.0, now)

    def add(self, num_tokens: int, now: float) -> None:
        """Count the tokens of one step."""
        self.num_tokens += num_tokens
        self._weight_and_time = self._faded(now) + num_tokens, now

    def tokens_per_s(self, now: float) -> float:
        """The rate; of the time since the start where that is short."""
        seen_s = max(now - self._started, 1e-3)
        return self._faded(now) / (WINDOW_S * -math.expm1(-seen_s / WINDOW_S))

    def _faded(self, now: float) -> float:
        weight, time = self._weight_and_time
        return weight * math.exp((time - now) / WINDOW_S)
