"""Requests that are sent at once, or that arrive when they do, not when others were answered.

The latter, an open loop, shows the queue that forms when a server is too slow.

Source: Schroeder, Wierman and Harchol-Balter, "Open Versus Closed", NSDI 2006.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import anyio

from mcp_servers.cli.records import percentile
from runtime.errors import GenerationError


class RefusedError(GenerationError):
    """A server had no place for a request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request.

    Attributes:
        times: when each of its tokens came.
        prompt_tokens: what its prompt was read as.
    """

    times: Sequence[float]
    prompt_tokens: int


class Completer(Protocol):
    """Runs one greedy completion that goes on past the end of the text, where it can."""

    async def complete(self, prompt: Sequence[int], new_tokens: int) -> Answer:
        """Return when each token came.

        Raises:
            RefusedError: there is no place for it now.
            GenerationError: it failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of requests.

    Attributes:
        seconds: from when the first was to be sent to the last token.
        answers: when each that was answered was to be sent, and its answer.
        late_s: by how much the client itself was late, request by request.
        num_failed: requests that the server gave no whole answer to.
        refused_s: after how long each request was refused that the server had no place for.
    """

    seconds: float
    answers: Sequence[tuple[float, Answer]]
    refused_s: Sequence[float] = ()
    num_failed: int = 0
    late_s: Sequence[float] = ()

    @property
    def tokens_per_s(self) -> float:
        return sum(len(one.times) for _, one in self.answers) / self.seconds

    @property
    def refused_percent(self) -> float:
        return 100 * len(self.refused_s) / self._num_sent

    @property
    def failed_percent(self) -> float:
        return 100 * self.num_failed / self._num_sent

    @property
    def _num_sent(self) -> int:
        return len(self.refused_s) + len(self.answers) + self.num_failed

    @property
    def mean_prompt_tokens(self) -> float:
        return _mean([one.prompt_tokens for _, one in self.answers])

    @property
    def mean_answer_tokens(self) -> float:
        return _mean([len(one.times) for _, one in self.answers])

    def first_token_ms(self, share: float) -> float:
        """From when it was to be sent: a client that is late itself hides nothing."""
        waits = [1000 * (one.times[0] - at) for at, one in self.answers]
        return percentile(waits or [0.0], share)

    def between_tokens_ms(self, share: float) -> float:
        gaps = [
            1000 * (after - before)
            for _, one in self.answers
            for before, after in pairwise(one.times)
        ]
        return percentile(gaps or [0.0], share)

    def refusal_ms(self, share: float) -> float:
        """From when a request was to be sent to its refusal."""
        return percentile([1000 * one for one in self.refused_s] or [0.0], share)

    def late_ms(self, share: float) -> float:
        """How late the client sent: where it is much, the client is what was measured."""
        return percentile([1000 * one for one in self.late_s] or [0.0], share)

    def request_tokens_per_s(self, share: float) -> float:
        """Of one request, from when it was to be sent to its last token."""
        rates = [len(one.times) / (one.times[-1] - at) for at, one in self.answers]
        return percentile(rates or [0.0], share)


def _mean(counts: Sequence[int]) -> float:
    return sum(counts) / max(len(counts), 1)


def draw_arrivals(rate: float, seconds: int, seed: int) -> list[float]:
    """Draw the times, from 0 on, of a Poisson process; at least one."""
    choices = random.Random(seed)  # noqa: S311 - every server gets the same load
    times = [0.0]
    while (after := times[-1] + choices.expovariate(rate)) < seconds:
        times.append(after)
    return times


async def send_as_they_arrive(
    completer: Completer,
    prompts: Sequence[Sequence[int]],
    arrivals: Sequence[float],
    new_tokens: int,
) -> Sent:
    """Send each prompt when it arrives, in seconds from now, and wait for all answers.

    Raises:
        GenerationError: none was answered, and one failed.
    """
    answered: list[tuple[float, Answer]] = []
    refused_s: list[float] = []
    failures: list[GenerationError] = []
    late_s: list[float] = []
    started = time.perf_counter()

    async def send(prompt: Sequence[int], at: float) -> None:
        await anyio.sleep(max(started + at - time.perf_counter(), 0))
        late_s.append(time.perf_counter() - started - at)
        try:
            answered.append((started + at, await completer.complete(prompt, new_tokens)))
        except RefusedError:
            refused_s.append(time.perf_counter() - started - at)
        except GenerationError as exc:
            failures.append(exc)

    async with anyio.create_task_group() as tasks:
        for prompt, at in zip(prompts, arrivals, strict=True):
            tasks.start_soon(send, prompt, at)
    if failures and not answered:
        raise failures[0]
    ended = max((one.times[-1] for _, one in answered), default=time.perf_counter())
    return Sent(ended - started, answered, refused_s, len(failures), late_s)
