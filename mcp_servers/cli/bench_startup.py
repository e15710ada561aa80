"""How soon a host that starts `zonda mcp` gets its answers, and what that costs.

Speaks JSON-RPC over the real process's pipes by hand, so that the client costs nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import mcp_servers
from mcp_servers.cli.records import Measurement
from runtime.config import Config, process_environment
from tools.errors import UnavailableError

DEADLINE_S = 300.0
FIRST_ANSWER_LIMIT_S = 1.0
SHUTDOWN_LIMIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Startup:
    """One start: seconds since the process was started, and its peak memory.

    `shutdown_s` is from the end of the input to the end of the process.
    """

    first_answer_s: float
    tools_list_s: float
    first_token_s: float
    shutdown_s: float
    peak_rss_mib: float


def measure_startup(config: Config, repeats: int) -> list[Measurement]:
    """Start the server `repeats` times, one after the other.

    Raises:
        UnavailableError: the server does not answer, or answers with an error.
    """
    runs = [start_once(config) for _ in range(repeats)]

    def measured(name: str, attribute: str, unit: str, limit: float | None = None) -> Measurement:
        values = [getattr(run, attribute) for run in runs]
        return Measurement("startup", {"measure": name}, values, unit, limit)

    return [
        measured("first MCP answer", "first_answer_s", "s", FIRST_ANSWER_LIMIT_S),
        measured("tools/list answered", "tools_list_s", "s", FIRST_ANSWER_LIMIT_S),
        measured("first token", "first_token_s", "s"),
        measured("end after end of input", "shutdown_s", "s", SHUTDOWN_LIMIT_S),
        measured("peak memory", "peak_rss_mib", "MiB"),
    ]


def start_once(config: Config) -> Startup:
    """Start the server, ask for its tools and one token, and end it."""
    started = time.perf_counter()
    with ServerProcess(["--model", config.model], process_environment()) as server:
        server.initialize()
        first_answer_s = time.perf_counter() - started
        server.ask("tools/list", {})
        tools_list_s = time.perf_counter() - started
        arguments = {"prompt": "Hello", "max_tokens": 1, "wait_seconds": 600}
        result = server.ask("tools/call", {"name": "generate", "arguments": arguments})
        first_token_s = time.perf_counter() - started
        if result.get("isError"):
            raise UnavailableError(f"the server cannot generate: {result['content'][0]['text']}")
        shutdown_s, peak_rss_mib = server.end()
    return Startup(first_answer_s, tools_list_s, first_token_s, shutdown_s, peak_rss_mib)


class ServerProcess:
    """A `zonda mcp` of our own, spoken to by hand; leaving the context kills what is left."""

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        root = Path(mcp_servers.__file__).parent.parent
        self._process = subprocess.Popen(  # noqa: S603 - this very program
            [sys.executable, "-m", "mcp_servers", "mcp", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**environ, "PYTHONPATH": str(root)},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._watchdog = threading.Timer(DEADLINE_S, self._process.kill)
        self._watchdog.daemon = True
        self._num_requests = 0

    def __enter__(self) -> Self:
        self._watchdog.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._watchdog.cancel()
        self._process.kill()
        self._process.wait()
        self._stdout.close()
        with suppress(BrokenPipeError):
            self._stdin.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def initialize(self) -> None:
        """Shake hands, in the newest version that has a handshake."""
        client = {"name": "zonda-bench", "version": "1"}
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
        self.ask("initialize", params)
        self._send({"method": "notifications/initialized"})

    def ask(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and return its result; notifications in between are skipped.

        Raises:
            UnavailableError: the answer is an error, or the server ended.
        """
        self._num_requests += 1
        self._send({"id": self._num_requests, "method": method, "params": params})
        for line in self._stdout:
            message = json.loads(line)
            if message.get("id") != self._num_requests:
                continue
            if "error" in message:
                raise UnavailableError(f"{method} was answered: {message['error']['message']}")
            result: dict[str, Any] = message["result"]
            return result
        raise UnavailableError(f"the server ended before it answered {method}; see its log file")

    def end(self) -> tuple[float, float]:
        """End the input and `wait`."""
        self._stdin.close()
        return self.wait()

    def wait(self) -> tuple[float, float]:
        """Wait for the process; return the seconds that took and its peak memory in MiB.

        Raises:
            UnavailableError: the process did not end well.
        """
        began = time.perf_counter()
        _, status, usage = os.wait4(self.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode != 0:
            raise UnavailableError(f"the server ended with status {self._process.returncode}")
        unit_bytes = 1 if sys.platform == "darwin" else 1024
        return time.perf_counter() - began, usage.ru_maxrss * unit_bytes / 2**20

    def _send(self, message: Mapping[str, Any]) -> None:
        self._stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self._stdin.flush()
