"""A `zonda mcp` in a process of its own, spoken to by hand.

JSON-RPC over the real process's pipes, so that the client costs nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import mcp_servers
from tools.errors import UnavailableError

DEADLINE_S = 300.0


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
        return self._ask_all(method, [params])[0]

    def generate(self, prompts: Sequence[str]) -> None:
        """Let the model write one token after each prompt, all at once.

        Raises:
            UnavailableError: it can't, or the server ended.
        """
        arguments = [{"prompt": text, "max_tokens": 1, "wait_seconds": 600} for text in prompts]
        calls = [{"name": "generate", "arguments": one} for one in arguments]
        for result in self._ask_all("tools/call", calls):
            if result.get("isError"):
                problem = result["content"][0]["text"]
                raise UnavailableError(f"the server cannot generate: {problem}")

    def resident_mib(self) -> float:
        """Memory that the process holds now."""
        return resident_mib(self.pid)

    def _ask_all(
        self, method: str, all_params: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        results: dict[int, dict[str, Any]] = {}
        first_id = self._num_requests + 1
        for params in all_params:
            self._num_requests += 1
            self._send({"id": self._num_requests, "method": method, "params": params})
        wanted = range(first_id, self._num_requests + 1)
        while len(results) < len(wanted):
            if not (line := self._stdout.readline()):
                problem = f"the server ended before it answered {method}; see its log file"
                raise UnavailableError(problem)
            message = json.loads(line)
            if message.get("id") not in wanted:
                continue
            if "error" in message:
                raise UnavailableError(f"{method} was answered: {message['error']['message']}")
            results[message["id"]] = message["result"]
        return [results[one] for one in wanted]

    def end(self) -> float:
        """End the input and `wait`."""
        self._stdin.close()
        return self.wait()

    def wait(self) -> float:
        """Wait for the process; return the seconds that took.

        Raises:
            UnavailableError: the process did not end well.
        """
        began = time.perf_counter()
        if status := self._process.wait():
            raise UnavailableError(f"the server ended with status {status}")
        return time.perf_counter() - began

    def _send(self, message: Mapping[str, Any]) -> None:
        self._stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self._stdin.flush()


def resident_mib(pid: int) -> float:
    """Memory that a process holds now."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines())
        return int(fields["VmRSS"].split()[0]) / 1024
    command = ["ps", "-o", "rss=", "-p", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return int(done.stdout) / 1024
