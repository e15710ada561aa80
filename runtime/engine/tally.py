"""What an engine has done since it was built, in numbers: tokens, pages, times.

Written by the thread that steps and read by any other; knows no prompt and no text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from runtime.engine.sequence import Sequence
from runtime.request import FinishReason
from runtime.telemetry import Histogram

FINISH_REASONS: tuple[FinishReason, ...] = get_args(FinishReason)

FIRST_TOKEN_BOUNDS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BOUNDS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3),
    *(0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_BOUNDS_S = (
    *(0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0),
    *(30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
WINDOW_S = 5.0
"""Tokens count as the latest for so long, the newest most."""
STEP_BOUNDS_TOKENS = tuple(float(1 << power) for power in range(15))


class Throughput:
    """How many tokens a second came lately: a mean that forgets exponentially.

    Written by one thread; others may read, as the pair is replaced in one piece.
    """

    def __init__(self, now: float) -> None:
        self._started = now
        self._weight_and_time = (0.0, now)

    def add(self, num_tokens: int, now: float) -> None:
        """Count the tokens of one step."""
        self._weight_and_time = self._faded(now) + num_tokens, now

    def tokens_per_s(self, now: float) -> float:
        """The rate; of the time since the start where that is short."""
        seen_s = max(now - self._started, 1e-3)
        return self._faded(now) / (WINDOW_S * -math.expm1(-seen_s / WINDOW_S))

    def _faded(self, now: float) -> float:
        weight, time = self._weight_and_time
        return weight * math.exp((time - now) / WINDOW_S)


class EngineTally:
    """Counters and histograms of requests that somebody waited for.

    A request's prompt counts once its first token is there, or when it ends without one.
    Source: the quantities of vLLM's metrics, of the same names.

    Attributes:
        prompt_tokens: of prompts, `cached_tokens` of them from the prefix cache.
        generated_tokens: of completions, `forced_tokens` of them dictated by a grammar.
        drafted_tokens: guesses that steps computed, `accepted_tokens` of them came out so.
        finished: requests by why they ended.
        first_token_s: from a request's arrival to its first token.
        between_tokens_s: from one step that gave a request tokens to the next one.
        per_token_s: mean time of a request's tokens after the first.
        request_s: from arrival to end.
        queue_s: from arrival to the first step.
        prefill_s: from the first step to the first token.
        decode_s: from the first token to the end.
        inference_s: from the first step to the end.
        step_tokens: tokens that a step computed.
    """

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generated_tokens = 0
        self.forced_tokens = 0
        self.drafted_tokens = 0
        self.accepted_tokens = 0
        self.finished: dict[FinishReason, int] = dict.fromkeys(FINISH_REASONS, 0)
        self.first_token_s = Histogram(FIRST_TOKEN_BOUNDS_S)
        self.between_tokens_s = Histogram(TOKEN_BOUNDS_S)
        self.per_token_s = Histogram(TOKEN_BOUNDS_S)
        self.request_s = Histogram(REQUEST_BOUNDS_S)
        self.queue_s = Histogram(REQUEST_BOUNDS_S)
        self.prefill_s = Histogram(REQUEST_BOUNDS_S)
        self.decode_s = Histogram(REQUEST_BOUNDS_S)
        self.inference_s = Histogram(REQUEST_BOUNDS_S)
        self.step_tokens = Histogram(STEP_BOUNDS_TOKENS)

    def add_tokens(self, sequence: Sequence, now: float) -> None:
        """Count the tokens that a step gave to a sequence; to be called before they are taken."""
        if sequence.request.is_background or not sequence.new_ids:
            return
        times = sequence.times
        if times.first_token is None:
            times.first_token = now
            self._add_prompt(sequence)
            self.first_token_s.observe(now - times.added)
            if times.started is not None:
                self.prefill_s.observe(now - times.started)
        else:
            self.between_tokens_s.observe(now - times.last_token)
        times.last_token = now
        self.generated_tokens += len(sequence.new_ids)

    def add_end(self, sequence: Sequence, reason: FinishReason, now: float) -> None:
        """Count a sequence that ended."""
        if sequence.request.is_background:
            return
        times = sequence.times
        self.finished[reason] += 1
        self.forced_tokens += sequence.num_forced
        self.drafted_tokens += sequence.num_drafted
        self.accepted_tokens += sequence.num_accepted
        self.request_s.observe(now - times.added)
        if times.started is not None:
            self.queue_s.observe(times.started - times.added)
            self.inference_s.observe(now - times.started)
        if times.first_token is None:
            self._add_prompt(sequence)
            return
        self.decode_s.observe(now - times.first_token)
        if sequence.num_generated > 1:
            after_first = times.last_token - times.first_token
            self.per_token_s.observe(after_first / (sequence.num_generated - 1))

    def _add_prompt(self, sequence: Sequence) -> None:
        self.prompt_tokens += sequence.num_prompt
        self.cached_tokens += sequence.num_cached


@dataclass(frozen=True, slots=True)
class EngineState:
    """An engine as it is now.

    Attributes:
        num_running: requests in the batch.
        num_waiting: requests in the queue.
        num_pages: KV pages in all.
        num_used_pages: pages that a request or a lease holds; the others may be cached.
        page_size: tokens of a page.
        num_preemptions: how often a request gave its pages to another one.
        tokens_per_s: generated over the last seconds, of all requests together.
        tally: what was done so far.
    """

    num_running: int
    num_waiting: int
    num_pages: int
    num_used_pages: int
    page_size: int
    num_preemptions: int
    tokens_per_s: float
    tally: EngineTally
