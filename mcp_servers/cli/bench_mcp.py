"""What MCP adds to a call and to a progress notification, and how soon a host is let in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import anyio

from mcp_servers.cli.bench_door import measure_door
from mcp_servers.cli.bench_machine import MachineProbe
from mcp_servers.cli.bench_probe import ANSWER, COUNT, NUM_REPORTS, ProbeToolset
from mcp_servers.cli.bench_wire import ERAS, TRANSPORTS, Wire, open_wire
from mcp_servers.cli.records import Measurement, percentile
from tools.errors import UnavailableError
from tools.toolset import CallContext

if TYPE_CHECKING:
    from mcp_servers.cli.bench_setup import BenchOptions

NUM_CALLS = 100
WARM_UP_CALLS = 10


def measure_mcp(options: BenchOptions) -> Iterator[Measurement]:
    """Calls and notifications over each transport and era, then new hosts at a busy server.

    Raises:
        UnavailableError: a server does not answer, or answers with an error.
    """
    yield from measure_wires(options)
    yield from measure_door(options)


def measure_wires(options: BenchOptions) -> list[Measurement]:
    """Time a tool that does nothing, in this process and over every wire, taking turns.

    What a wire adds is its median of one repeat less that in this process.
    """
    probe = MachineProbe(options.config)
    keys = [(transport, era) for transport in TRANSPORTS for era in ERAS]
    direct_ms: list[float] = []
    calls_ms: dict[tuple[str, str], list[float]] = {key: [] for key in keys}
    reports_ms: dict[tuple[str, str], list[float]] = {key: [] for key in keys}
    for _ in range(options.repeats):
        probe.look()
        direct_ms.append(percentile(anyio.run(_time_direct), 0.5))
        for key in keys:
            with open_wire(*key) as wire:
                call_ms = percentile(_time_calls(wire), 0.5)
                counted_ms = percentile([_ask_ms(wire, COUNT) for _ in range(5)], 0.5)
            calls_ms[key].append(call_ms - direct_ms[-1])
            reports_ms[key].append((counted_ms - call_ms) / NUM_REPORTS)

    def record(measure: str, values: list[float], **params: str) -> Measurement:
        given = {"measure": measure, **params}
        return Measurement("mcp", given, values, "ms", None, probe.bandwidth_gb_s)

    taken = [record("call in this process", direct_ms)]
    for transport, era in keys:
        wire_of = {"transport": transport, "era": era}
        taken.append(record("added to a call", calls_ms[transport, era], **wire_of))
        taken.append(record("progress notification", reports_ms[transport, era], **wire_of))
    return taken


async def _time_direct() -> list[float]:
    toolset = ProbeToolset()
    times = []
    for _ in range(NUM_CALLS):
        began = time.perf_counter()
        await toolset.call_tool(ANSWER, {}, CallContext())
        times.append(1000 * (time.perf_counter() - began))
    return times


def _time_calls(wire: Wire) -> list[float]:
    times = [_ask_ms(wire, ANSWER) for _ in range(WARM_UP_CALLS + NUM_CALLS)]
    return times[WARM_UP_CALLS:]


def _ask_ms(wire: Wire, tool: str) -> float:
    began = time.perf_counter()
    num_reports = wire.call(tool)
    seconds = time.perf_counter() - began
    if num_reports != (NUM_REPORTS if tool == COUNT else 0):
        raise UnavailableError(f"{tool} sent {num_reports} progress notifications")
    return 1000 * seconds
