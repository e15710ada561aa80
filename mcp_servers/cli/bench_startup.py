"""How soon a host that starts `zonda mcp` gets its answers, and what that costs.

The first host of a user starts the engine process, the second finds it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mcp_servers.cli.bench_machine import MachineProbe
from mcp_servers.cli.bench_memory import measure_memory
from mcp_servers.cli.bench_server import ServerProcess, resident_mib
from mcp_servers.cli.bench_setup import BenchOptions
from mcp_servers.cli.records import Measurement
from runtime.config import Config, process_environment

FIRST_ANSWER_LIMIT_S = 1.0
SHUTDOWN_LIMIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Startup:
    """One start: seconds since the host's process was started."""

    first_answer_s: float
    tools_list_s: float
    first_token_s: float


@dataclass(frozen=True, slots=True)
class Hosts:
    """Two hosts one after the other, and memory after their first tokens.

    `shutdown_s` is from the end of the first one's input to the end of its process.
    """

    first: Startup
    second: Startup
    shutdown_s: float
    relay_mib: float
    engine_mib: float


def measure_startup(options: BenchOptions) -> list[Measurement]:
    """Start two hosts `repeats` times, and the server once more for its memory under load.

    Raises:
        UnavailableError: the server does not answer, or answers with an error.
    """
    probe = MachineProbe(options.config)
    runs = []
    for _ in range(options.repeats):
        probe.look()
        runs.append(start_hosts(options.config))

    def measured(
        name: str, values: list[float], unit: str, limit: float | None = None
    ) -> Measurement:
        params = {"measure": name}
        return Measurement("startup", params, values, unit, limit, probe.bandwidth_gb_s)

    found = []
    for which, starts in (
        ("", [run.first for run in runs]),
        (", second host", [run.second for run in runs]),
    ):
        answers = [start.first_answer_s for start in starts]
        lists = [start.tools_list_s for start in starts]
        tokens = [start.first_token_s for start in starts]
        found += [
            measured(f"first MCP answer{which}", answers, "s", FIRST_ANSWER_LIMIT_S),
            measured(f"tools/list answered{which}", lists, "s", FIRST_ANSWER_LIMIT_S),
            measured(f"first token{which}", tokens, "s"),
        ]
    ends = [run.shutdown_s for run in runs]
    return [
        *found,
        measured("end after end of input", ends, "s", SHUTDOWN_LIMIT_S),
        measured("memory of a host's relay", [run.relay_mib for run in runs], "MiB"),
        measured("memory of the engine process", [run.engine_mib for run in runs], "MiB"),
        measure_memory(options.config),
    ]


def start_hosts(config: Config) -> Hosts:
    """Start a host and a second one beside it, with an engine process of their own."""
    with tempfile.TemporaryDirectory(prefix="zonda-") as folder, ExitStack() as stack:
        own = {"ZONDA_STATE_DIR": folder, "ZONDA_ENGINE_IDLE_S": "0"}
        environ = {**process_environment(), **own}
        first, first_start = _start(config, environ, stack)
        second, second_start = _start(config, environ, stack)
        [pid_file] = (Path(folder) / "engine").glob("*.pid")
        engine_mib = resident_mib(int(pid_file.read_text("utf-8")))
        relay_mib = second.resident_mib()
        second.end()
        return Hosts(first_start, second_start, first.end(), relay_mib, engine_mib)


def _start(
    config: Config, environ: Mapping[str, str], stack: ExitStack
) -> tuple[ServerProcess, Startup]:
    """Start a host, ask for its tools and one token."""
    started = time.perf_counter()
    host = stack.enter_context(ServerProcess(["--model", config.model], environ))
    host.initialize()
    first_answer_s = time.perf_counter() - started
    host.ask("tools/list", {})
    tools_list_s = time.perf_counter() - started
    host.generate(["Hello"])
    return host, Startup(first_answer_s, tools_list_s, time.perf_counter() - started)
