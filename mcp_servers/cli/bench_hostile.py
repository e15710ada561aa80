"""What others notice while costly schemas are tried out and compiled, one after the other."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from mcp_servers.cli.bench_catalogue import open_model_afresh
from mcp_servers.cli.bench_machine import MachineProbe
from mcp_servers.cli.bench_setup import BenchOptions
from mcp_servers.cli.records import Measurement, percentile
from runtime.chat.messages import Message, TextDelta
from runtime.errors import GenerationError
from runtime.request import SamplingParams
from tools.spec import JsonObject, ToolSpec

if TYPE_CHECKING:
    from runtime.chat.model import ChatModel

NUM_SEQUENCES = 8
MAX_RATIO = 1.1
"""Of the 99th percentile between two tokens: one that is 10 % longer is not noticed."""


def measure_hostile(options: BenchOptions) -> list[Measurement]:
    """Times between the tokens of eight sequences, by themselves and beside costly schemas."""
    probe = MachineProbe(options.config)
    alone, beside = anyio.run(_measure, options, probe)
    ratios = [second[1] / first[1] for first, second in zip(alone, beside, strict=True)]

    def record(
        measure: str, values: list[float], unit: str, limit: float | None = None
    ) -> Measurement:
        params = {"measure": measure, "sequences": NUM_SEQUENCES}
        return Measurement("tools", params, values, unit, limit, probe.bandwidth_gb_s)

    return [
        record(f"between tokens, {when}, {name}", [run[index] for run in runs], "ms")
        for when, runs in (("alone", alone), ("beside costly schemas", beside))
        for index, name in enumerate(("p50", "p99"))
    ] + [record("p99 beside costly schemas over alone", ratios, "ratio", MAX_RATIO)]


def costly_schemas() -> list[JsonObject]:
    """Schemas that take up to a second to try out or to compile."""
    letters = {"type": "string", "pattern": "^(a|aa){1,5000}$"}
    optional = {f"option_{number}": {"type": "string"} for number in range(5_000)}
    choices = functools.reduce(_choose, range(10), {"type": "string", "const": "a"})
    patterns = [{"pattern": f".*{number}.{{40}}"} for number in range(15)]
    return [letters, {"type": "object", "properties": optional}, choices, {"allOf": patterns}]


def _choose(inner: JsonObject, _: int) -> JsonObject:
    return {"oneOf": [inner, {"type": "object", "properties": {"a": inner}}]}


async def _measure(
    options: BenchOptions, probe: MachineProbe
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    alone, beside = [], []
    # Made once: clients write their schemas elsewhere.
    tools = _costly_tools(costly_schemas())
    async with open_model_afresh(options.config, None) as model:
        await model.support_of([next(tools)])  # reads the vocabulary
        await _percentiles(model, options.new_tokens)
        for _ in range(options.repeats):
            probe.look()
            alone.append(await _percentiles(model, options.new_tokens))
            async with _costly_work(model, tools):
                beside.append(await _percentiles(model, options.new_tokens))
    return alone, beside


def _costly_tools(schemas: Sequence[JsonObject]) -> Iterator[ToolSpec]:
    """Tools with these schemas, in turn, all different."""
    for number, schema in enumerate(itertools.cycle(schemas)):
        properties = {"value": schema, f"number_{number}": {"type": "integer"}}
        yield ToolSpec("costly", "Costs much.", {"type": "object", "properties": properties})


@asynccontextmanager
async def _costly_work(model: ChatModel, tools: Iterator[ToolSpec]) -> AsyncIterator[None]:
    async def work() -> None:
        for tool in tools:
            await model.support_of([tool])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        yield
        tasks.cancel_scope.cancel()


async def _percentiles(model: ChatModel, new_tokens: int) -> tuple[float, float]:
    """The 50th and 99th percentile of the times between two pieces of text, in milliseconds."""
    gaps: list[float] = []

    async def talk(number: int) -> None:
        messages = [Message("user", f"Tell me {number} stories.")]
        sampling = SamplingParams(max_tokens=new_tokens)
        last = None
        async for event in model.stream(messages, sampling=sampling):
            if isinstance(event, TextDelta):
                now = time.perf_counter()
                gaps.extend(() if last is None else (1000 * (now - last),))
                last = now

    async with anyio.create_task_group() as tasks:
        for number in range(NUM_SEQUENCES):
            tasks.start_soon(talk, number)
    if not gaps:
        raise GenerationError("the model ends before its second token; measure another one")
    return percentile(gaps, 0.5), percentile(gaps, 0.99)
