"""Requests that arrive when they do, not when others were answered: an open loop.

Unlike a fixed number at the same time, it shows the queue that forms when a server is too slow.

Source: Schroeder, Wierman and Harchol-Balter, "Open Versus Closed", NSDI 2006.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import anyio

from mcp_servers.cli.bench_load import Completer, RefusedError, random_prompt_for
from mcp_servers.cli.bench_machine import MachineProbe
from mcp_servers.cli.bench_setup import BenchOptions, LoadedModel
from mcp_servers.cli.records import Measurement, percentile

FIRST_P95 = "first token, p95"
"""What a plot shows."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What became of requests that arrived over time.

    Attributes:
        seconds: from the first arrival to the last token.
        sent_at: when each request that was answered was to be sent.
        times: when each of its tokens came.
        num_refused: requests that the server had no place for.
    """

    seconds: float
    sent_at: Sequence[float]
    times: Sequence[Sequence[float]]
    num_refused: int

    @property
    def tokens_per_s(self) -> float:
        return sum(map(len, self.times)) / self.seconds

    @property
    def refused_percent(self) -> float:
        return 100 * self.num_refused / (self.num_refused + len(self.times))

    def first_token_ms(self, share: float) -> float:
        """From when it was to be sent: a client that is late itself hides nothing."""
        waits = [1000 * (one[0] - at) for one, at in zip(self.times, self.sent_at, strict=True)]
        return percentile(waits or [0.0], share)

    def between_tokens_ms(self, share: float) -> float:
        gaps = [1000 * (after - before) for one in self.times for before, after in pairwise(one)]
        return percentile(gaps or [0.0], share)


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
) -> Arrivals:
    """Send each prompt when it arrives, and wait for all answers.

    Raises:
        GenerationError: one failed in another way than that there was no place for it.
    """
    answered: list[tuple[float, Sequence[float]]] = []
    num_refused = 0
    started = time.perf_counter()

    async def send(prompt: Sequence[int], at: float) -> None:
        nonlocal num_refused
        await anyio.sleep(max(started + at - time.perf_counter(), 0))
        try:
            answered.append((started + at, await completer.complete(prompt, new_tokens)))
        except RefusedError:
            num_refused += 1

    async with anyio.create_task_group() as tasks:
        for prompt, at in zip(prompts, arrivals, strict=True):
            tasks.start_soon(send, prompt, at)
    seconds = time.perf_counter() - started
    return Arrivals(seconds, [at for at, _ in answered], [one for _, one in answered], num_refused)


async def measure_arrivals(
    options: BenchOptions,
    completer: Completer,
    model: LoadedModel | None,
    prompt_tokens: int,
    rate: float,
) -> list[Measurement]:
    """Latencies and rates at so many arrivals a second."""
    probe = MachineProbe(options.config)
    rounds = []
    for number in range(options.repeats):
        probe.look()
        arrivals = draw_arrivals(rate, options.seconds, number)
        prompts = [random_prompt_for(model, prompt_tokens) for _ in arrivals]
        sent = await send_as_they_arrive(completer, prompts, arrivals, options.new_tokens)
        rounds.append(sent)

    def record(measure: str, unit: str, value: Callable[[Arrivals], float]) -> Measurement:
        params = {
            "measure": measure,
            "server": options.label,
            "arrivals_per_s": rate,
            "seconds": options.seconds,
            "prompt_tokens": prompt_tokens,
            "new_tokens": options.new_tokens,
        }
        values = [value(one) for one in rounds]
        return Measurement("serve", params, values, unit, None, probe.bandwidth_gb_s)

    return [
        record("answered tokens per second", "tokens/s", lambda one: one.tokens_per_s),
        record("first token, p50", "ms", lambda one: one.first_token_ms(0.5)),
        record(FIRST_P95, "ms", lambda one: one.first_token_ms(0.95)),
        record("first token, p99", "ms", lambda one: one.first_token_ms(0.99)),
        record("between tokens, p50", "ms", lambda one: one.between_tokens_ms(0.5)),
        record("between tokens, p99", "ms", lambda one: one.between_tokens_ms(0.99)),
        record("refused", "%", lambda one: one.refused_percent),
    ]
