"""Many requests at once or in a row, and prompts that begin alike: our engine's, or servers'.

Where several are measured they take turns, so that all of them see the same machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import anyio

from mcp_servers.cli.bench_arrivals import (
    RefusedError,
    Sent,
    draw_arrivals,
    send_as_they_arrive,
)
from mcp_servers.cli.bench_load import Contender, open_contenders
from mcp_servers.cli.bench_machine import MachineProbe
from mcp_servers.cli.bench_setup import BenchOptions
from mcp_servers.cli.records import Measurement

RATE = "new tokens per second"
FIRST_P95 = "first token, p95"
"""What plots show: of requests at once, and of those that arrive."""

SUFFIX_TOKENS = 16
"""What differs between prompts with the same prefix."""

_WARM_UP_TOKENS = 16

_Spread = tuple[str, str, Callable[[Sent, float], float], Sequence[float]]
_SPREADS: Sequence[_Spread] = (
    ("one request", "tokens/s", Sent.request_tokens_per_s, (0.5, 0.05)),
    ("first token", "ms", Sent.first_token_ms, (0.5, 0.95, 0.99)),
    ("between tokens", "ms", Sent.between_tokens_ms, (0.5, 0.95, 0.99)),
)
_REFUSAL: _Spread = ("refusal", "ms", Sent.refusal_ms, (0.5, 0.95, 0.99))
"""Quantities of the requests or tokens of a round, and the shares of them that are told."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: so many at once or, where there is a rate, so many a second for a while."""

    prompt_tokens: int
    new_tokens: int
    concurrency: int = 1
    rate: float | None = None
    seconds: int = 0

    @property
    def params(self) -> dict[str, Any]:
        """As a record has it."""
        sizes = {"prompt_tokens": self.prompt_tokens, "new_tokens": self.new_tokens}
        if self.rate is None:
            return {"concurrency": self.concurrency, **sizes}
        return {"arrivals_per_s": self.rate, "seconds": self.seconds, **sizes}

    def draw_arrivals(self, seed: int) -> list[float]:
        """When each request is sent."""
        if self.rate is None:
            return [0.0] * self.concurrency
        return draw_arrivals(self.rate, self.seconds, seed)


def measure_serve(options: BenchOptions) -> list[Measurement]:
    """Rates and latencies for each load."""
    return anyio.run(_measure_serve, options)


def measure_prefix(options: BenchOptions) -> list[Measurement]:
    """Time to the first token of a long prompt, and of another one with the same beginning."""
    return anyio.run(_measure_prefix, options)


async def _measure_serve(options: BenchOptions) -> list[Measurement]:
    async with open_contenders(options) as contenders:
        await _warm_up(contenders)
        taken: list[Measurement] = []
        for load in _loads(options):
            taken += await _measure_load(options, contenders, load)
        return taken


def _loads(options: BenchOptions) -> Iterator[Load]:
    for length in options.prompt_tokens:
        if options.rates:
            for rate in options.rates:
                yield Load(length, options.new_tokens, rate=rate, seconds=options.seconds)
        else:
            for concurrency in options.concurrency:
                yield Load(length, options.new_tokens, concurrency)


async def _warm_up(contenders: Sequence[Contender]) -> None:
    for one in contenders:
        await one.completer.complete(one.draw_prompt(_WARM_UP_TOKENS), _WARM_UP_TOKENS)


async def _measure_load(
    options: BenchOptions, contenders: Sequence[Contender], load: Load
) -> list[Measurement]:
    probe = MachineProbe(options.config)
    rounds: list[list[Sent]] = [[] for _ in contenders]
    for number in range(options.repeats):
        probe.look()
        arrivals = load.draw_arrivals(number)
        for one, sent in zip(contenders, rounds, strict=True):
            prompts = [one.draw_prompt(load.prompt_tokens) for _ in arrivals]
            answers = await send_as_they_arrive(one.completer, prompts, arrivals, load.new_tokens)
            sent.append(answers)
    taken: list[Measurement] = []
    for one, sent in zip(contenders, rounds, strict=True):
        limit = None
        if one.model is not None and probe.machine is not None and load.rate is None:
            size = (load.concurrency, load.prompt_tokens, load.new_tokens)
            limit = one.model.cost.serve_limit(probe.machine, *size)
        taken += _describe(one, load, sent, limit, probe.bandwidth_gb_s)
    return taken


def _describe(
    contender: Contender,
    load: Load,
    rounds: Sequence[Sent],
    limit: float | None,
    bandwidth_gb_s: float | None,
) -> Iterator[Measurement]:
    """Every quantity of these rounds, those that are as they always are left out."""
    fixed = {"server": contender.label, **load.params}

    def record(measure: str, unit: str, values: Sequence[float]) -> Measurement:
        params = {"measure": measure, **fixed}
        bound = limit if measure == RATE else None
        model = contender.served_as
        return Measurement("serve", params, values, unit, bound, bandwidth_gb_s, model)

    rate = RATE if load.rate is None else "answered tokens per second"
    yield record(rate, "tokens/s", [one.tokens_per_s for one in rounds])
    is_refusing = any(one.refused_s for one in rounds)
    for name, unit, value, shares in (*_SPREADS, *([_REFUSAL] if is_refusing else [])):
        for share in shares:
            values = [value(one, share) for one in rounds]
            yield record(f"{name}, p{100 * share:.0f}", unit, values)
    if load.rate is not None:
        yield record("sent late, p99", "ms", [one.late_ms(0.99) for one in rounds])
    if load.rate is not None or is_refusing:
        yield record("refused", "%", [one.refused_percent for one in rounds])
    if any(one.num_failed for one in rounds):
        yield record("failed", "%", [one.failed_percent for one in rounds])
    for name, wanted, counts in (
        ("a prompt", load.prompt_tokens, [one.mean_prompt_tokens for one in rounds]),
        ("an answer", load.new_tokens, [one.mean_answer_tokens for one in rounds]),
    ):
        if any(count != wanted for count in counts):
            yield record(f"tokens of {name}, mean", "tokens", counts)


async def _measure_prefix(options: BenchOptions) -> list[Measurement]:
    async with open_contenders(options) as contenders:
        await _warm_up(contenders)
        taken = []
        for prefix_tokens in options.prompt_tokens:
            probe = MachineProbe(options.config)
            found: list[tuple[list[float], list[float]]] = [([], []) for _ in contenders]
            for _ in range(options.repeats):
                probe.look()
                for one, (first, second) in zip(contenders, found, strict=True):
                    prefix = one.draw_prompt(prefix_tokens)
                    first.append(await _first_token_ms(one, prefix))
                    second.append(await _first_token_ms(one, prefix))
            for one, seconds in zip(contenders, found, strict=True):
                for which, values in zip(("first", "second"), seconds, strict=True):
                    params = {
                        "measure": f"first token, prefix seen the {which} time",
                        "server": one.label,
                        "prefix_tokens": prefix_tokens,
                        "suffix_tokens": SUFFIX_TOKENS,
                    }
                    bandwidth, model = probe.bandwidth_gb_s, one.served_as
                    measured = Measurement("prefix", params, values, "ms", None, bandwidth, model)
                    taken.append(measured)
        return taken


async def _first_token_ms(contender: Contender, prefix: Sequence[int]) -> float:
    prompt = [*prefix, *contender.draw_prompt(SUFFIX_TOKENS)]
    sent = await send_as_they_arrive(contender.completer, [prompt], [0.0], 1)
    if not sent.answers:
        raise RefusedError(f"{contender.label} has no place for a request")
    return sent.first_token_ms(0.5)
