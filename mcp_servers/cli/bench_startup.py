"""How soon a host that starts `zonda mcp` gets its answers, and what that costs."""

from __future__ import annotations

import time
from dataclasses import dataclass

from mcp_servers.cli.bench_machine import MachineProbe
from mcp_servers.cli.bench_memory import measure_memory
from mcp_servers.cli.bench_server import ServerProcess
from mcp_servers.cli.bench_setup import BenchOptions
from mcp_servers.cli.records import Measurement
from runtime.config import Config, process_environment

FIRST_ANSWER_LIMIT_S = 1.0
SHUTDOWN_LIMIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Startup:
    """One start: seconds since the process was started, and its memory after the first token.

    `shutdown_s` is from the end of the input to the end of the process.
    """

    first_answer_s: float
    tools_list_s: float
    first_token_s: float
    shutdown_s: float
    resident_mib: float


def measure_startup(options: BenchOptions) -> list[Measurement]:
    """Start the server `repeats` times, one after the other, and once more for its memory.

    Raises:
        UnavailableError: the server does not answer, or answers with an error.
    """
    probe = MachineProbe(options.config)
    runs = []
    for _ in range(options.repeats):
        probe.look()
        runs.append(start_once(options.config))

    def measured(name: str, attribute: str, unit: str, limit: float | None = None) -> Measurement:
        values = [getattr(run, attribute) for run in runs]
        params = {"measure": name}
        return Measurement("startup", params, values, unit, limit, probe.bandwidth_gb_s)

    return [
        measured("first MCP answer", "first_answer_s", "s", FIRST_ANSWER_LIMIT_S),
        measured("tools/list answered", "tools_list_s", "s", FIRST_ANSWER_LIMIT_S),
        measured("first token", "first_token_s", "s"),
        measured("end after end of input", "shutdown_s", "s", SHUTDOWN_LIMIT_S),
        measured("resident memory after the first token", "resident_mib", "MiB"),
        measure_memory(options.config),
    ]


def start_once(config: Config) -> Startup:
    """Start the server, ask for its tools and one token, and end it."""
    started = time.perf_counter()
    with ServerProcess(["--model", config.model], process_environment()) as server:
        server.initialize()
        first_answer_s = time.perf_counter() - started
        server.ask("tools/list", {})
        tools_list_s = time.perf_counter() - started
        server.generate(["Hello"])
        first_token_s = time.perf_counter() - started
        resident_mib = server.resident_mib()
        shutdown_s = server.end()
    return Startup(first_answer_s, tools_list_s, first_token_s, shutdown_s, resident_mib)
