"""Many requests at once, and prompts that begin alike: our engine's, or a server's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import anyio

from mcp_servers.cli.bench_arrivals import measure_arrivals
from mcp_servers.cli.bench_load import Completer, open_completer, random_prompt_for
from mcp_servers.cli.bench_machine import MachineProbe
from mcp_servers.cli.bench_setup import BenchOptions, LoadedModel
from mcp_servers.cli.records import Measurement, percentile

RATE = "new tokens per second"
"""What a plot shows."""

SUFFIX_TOKENS = 16
"""What differs between prompts with the same prefix."""

_WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Round:
    """Requests that were sent at the same time, and when each of their tokens came."""

    started: float
    times: Sequence[Sequence[float]]

    @property
    def tokens_per_s(self) -> float:
        ended = max(times[-1] for times in self.times)
        return sum(map(len, self.times)) / (ended - self.started)

    def first_token_ms(self, share: float) -> float:
        return percentile([1000 * (one[0] - self.started) for one in self.times], share)

    def between_tokens_ms(self, share: float) -> float:
        gaps = [1000 * (after - before) for one in self.times for before, after in pairwise(one)]
        return percentile(gaps or [0.0], share)


def measure_serve(options: BenchOptions) -> list[Measurement]:
    """Rates and latencies for each number of requests at once."""
    return anyio.run(_measure_serve, options)


def measure_prefix(options: BenchOptions) -> list[Measurement]:
    """Time to the first token of a long prompt, and of another one with the same beginning."""
    return anyio.run(_measure_prefix, options)


async def _measure_serve(options: BenchOptions) -> list[Measurement]:
    async with open_completer(options) as (completer, model):
        await completer.complete(random_prompt_for(model, _WARM_UP_TOKENS), _WARM_UP_TOKENS)
        taken = []
        for prompt_tokens in options.prompt_tokens:
            for rate in options.rates:
                taken += await measure_arrivals(options, completer, model, prompt_tokens, rate)
            if options.rates:
                continue
            for concurrency in options.concurrency:
                taken += await _measure_load(options, completer, model, prompt_tokens, concurrency)
        return taken


async def _measure_load(
    options: BenchOptions,
    completer: Completer,
    model: LoadedModel | None,
    prompt_tokens: int,
    concurrency: int,
) -> list[Measurement]:
    probe = MachineProbe(options.config)
    rounds = []
    for _ in range(options.repeats):
        probe.look()
        prompts = [random_prompt_for(model, prompt_tokens) for _ in range(concurrency)]
        rounds.append(await send_at_once(completer, prompts, options.new_tokens))
    limit = None
    if model is not None and probe.machine is not None:
        load = (concurrency, prompt_tokens, options.new_tokens)
        limit = model.cost.serve_limit(probe.machine, *load)

    def record(
        measure: str, unit: str, value: Callable[[Round], float], limit: float | None = None
    ) -> Measurement:
        params = {
            "measure": measure,
            "server": options.label,
            "concurrency": concurrency,
            "prompt_tokens": prompt_tokens,
            "new_tokens": options.new_tokens,
        }
        values = [value(one) for one in rounds]
        return Measurement("serve", params, values, unit, limit, probe.bandwidth_gb_s)

    return [
        record(RATE, "tokens/s", lambda one: one.tokens_per_s, limit),
        record("first token, p50", "ms", lambda one: one.first_token_ms(0.5)),
        record("first token, p95", "ms", lambda one: one.first_token_ms(0.95)),
        record("between tokens, p50", "ms", lambda one: one.between_tokens_ms(0.5)),
        record("between tokens, p99", "ms", lambda one: one.between_tokens_ms(0.99)),
    ]


async def send_at_once(
    completer: Completer, prompts: Sequence[Sequence[int]], new_tokens: int
) -> Round:
    """Send all prompts and wait for all answers."""
    times: list[Sequence[float]] = [()] * len(prompts)

    async def send(index: int) -> None:
        times[index] = await completer.complete(prompts[index], new_tokens)

    started = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for index in range(len(prompts)):
            tasks.start_soon(send, index)
    return Round(started, times)


async def _measure_prefix(options: BenchOptions) -> list[Measurement]:
    taken = []
    async with open_completer(options) as (completer, model):
        await completer.complete(random_prompt_for(model, _WARM_UP_TOKENS), _WARM_UP_TOKENS)
        for prefix_tokens in options.prompt_tokens:
            probe = MachineProbe(options.config)
            seconds: list[list[float]] = [[], []]
            for _ in range(options.repeats):
                probe.look()
                prefix = random_prompt_for(model, prefix_tokens)
                for times in seconds:
                    prompt = prefix + random_prompt_for(model, SUFFIX_TOKENS)
                    one = await send_at_once(completer, [prompt], 1)
                    times.append(one.first_token_ms(0.5))
            for measure, values in zip(("first time", "second time"), seconds, strict=True):
                params = {
                    "measure": f"first token, prefix seen the {measure}",
                    "server": options.label,
                    "prefix_tokens": prefix_tokens,
                    "suffix_tokens": SUFFIX_TOKENS,
                }
                taken.append(
                    Measurement("prefix", params, values, "ms", None, probe.bandwidth_gb_s)
                )
    return taken
