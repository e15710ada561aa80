"""How soon a busy `zonda serve` lets a new host in, beside a hundred sessions that are open.

Hosts are connections with hand-written requests: they share the machine with the server.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteStream, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream

import mcp_servers
from mcp_servers.cli.bench_machine import MachineProbe
from mcp_servers.cli.bench_wire import HANDSHAKE, HEADERS, INITIALIZE, MODERN, make_message
from mcp_servers.cli.records import Measurement, percentile
from tools.errors import UnavailableError

if TYPE_CHECKING:
    from mcp_servers.cli.bench_setup import BenchOptions

FIRST_ANSWER_LIMIT_MS = 250.0
MAX_ANSWER_BYTES = 1 << 20
READY_WITHIN_S = 300.0


@dataclass(frozen=True, slots=True)
class Crowd:
    """What goes on at the server: sessions and generations all the time, new hosts in rounds."""

    num_sessions: int = 100
    num_generations: int = 4
    new_per_s: int = 20
    round_s: int = 10


CROWD = Crowd()


def measure_door(options: BenchOptions, crowd: Crowd = CROWD) -> list[Measurement]:
    """Let hosts come at a steady rate, whether or not the ones before were answered.

    Raises:
        UnavailableError: the server does not answer, or its engine has nothing to do.
    """
    return anyio.run(_measure, options, crowd)


async def _measure(options: BenchOptions, crowd: Crowd) -> list[Measurement]:
    probe = MachineProbe(options.config)
    rounds: list[dict[str, list[float]]] = []
    async with _serving(options.config.model) as address, anyio.create_task_group() as tasks:
        for number in range(crowd.num_generations):
            tasks.start_soon(_keep_busy, address, number)
        await _is_busy(address)
        for _ in range(crowd.num_sessions):
            await tasks.start(_hold_session, address)
        for _ in range(options.repeats):
            probe.look()
            rounds.append({"initialize": [], "server/discover": []})
            for method, times in rounds[-1].items():
                await _knock(address, method, times, crowd)
                await _is_busy(address)
        tasks.cancel_scope.cancel()

    def record(method: str, share: float, limit: float | None = None) -> Measurement:
        params = {
            "measure": f"{method}, p{100 * share:.0f}",
            "open_sessions": crowd.num_sessions,
            "new_per_s": crowd.new_per_s,
        }
        values = [percentile(times[method], share) for times in rounds]
        return Measurement("mcp", params, values, "ms", limit, probe.bandwidth_gb_s)

    return [
        record("initialize", 0.5),
        record("initialize", 0.99, FIRST_ANSWER_LIMIT_MS),
        record("server/discover", 0.5),
        record("server/discover", 0.99, FIRST_ANSWER_LIMIT_MS),
    ]


async def _knock(address: tuple[str, int], method: str, times: list[float], crowd: Crowd) -> None:
    """Let new hosts come for a round; note how long each waited for its first answer."""
    async with anyio.create_task_group() as tasks:
        began = anyio.current_time()
        for number in range(crowd.round_s * crowd.new_per_s):
            await anyio.sleep_until(began + number / crowd.new_per_s)
            tasks.start_soon(_enter, address, method, times)


async def _enter(address: tuple[str, int], method: str, times: list[float]) -> None:
    era = HANDSHAKE if method == "initialize" else MODERN
    began = time.perf_counter()
    async with _connect(address) as host:
        status, headers = await host.ask(method, INITIALIZE if era == HANDSHAKE else {}, era)
        times.append(1000 * (time.perf_counter() - began))
        if status != 200:
            raise UnavailableError(f"{method} was answered with status {status}")
        if (session := headers.get("mcp-session-id")) is not None:
            await host.send("DELETE", {"mcp-session-id": session})


async def _hold_session(
    address: tuple[str, int], *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Open a session as a host does, with its stream of notifications, and keep it."""
    async with _connect(address) as host:
        _, headers = await host.ask("initialize", INITIALIZE, HANDSHAKE)
        session = {
            "mcp-session-id": headers["mcp-session-id"],
            "mcp-protocol-version": HANDSHAKE,
        }
        ready = make_message(None, "notifications/initialized", {}, HANDSHAKE)
        await host.send("POST", session, json.dumps(ready).encode())
        task_status.started()
        await host.stream(session)


async def _keep_busy(address: tuple[str, int], number: int) -> None:
    """Let the model write one text after the other."""
    while True:
        arguments = {
            "prompt": f"Write a long story about the number {number}.",
            "max_tokens": 512,
            "wait_seconds": 600,
        }
        async with _connect(address) as host:
            await host.ask("tools/call", {"name": "generate", "arguments": arguments}, MODERN)


async def _is_busy(address: tuple[str, int]) -> None:
    """Wait until the engine runs something.

    Raises:
        UnavailableError: it does not.
    """
    with anyio.move_on_after(READY_WITHIN_S):
        while True:
            async with _connect(address) as host:
                text = await host.get("/metrics")
            lines = [
                one for one in text.splitlines() if one.startswith("zonda_num_requests_running")
            ]
            if any(float(line.rpartition(" ")[2]) > 0 for line in lines):
                return
            await anyio.sleep(0.2)
    raise UnavailableError("the server's engine has nothing to do; see its log")


class _Host:
    """One HTTP connection, spoken to by hand."""

    def __init__(self, stream: ByteStream, address: tuple[str, int]) -> None:
        self._stream = stream
        self._read = BufferedByteReceiveStream(stream)
        self._host = f"{address[0]}:{address[1]}"

    async def ask(
        self, method: str, params: Mapping[str, Any], era: str
    ) -> tuple[int, dict[str, str]]:
        """Send a request; return the status and the headers once its whole answer is there."""
        routing = {}
        if era == MODERN:
            routing = {"mcp-protocol-version": era, "mcp-method": method}
            routing |= {"mcp-name": params["name"]} if "name" in params else {}
        body = json.dumps(make_message(1, method, params, era)).encode()
        status, headers, _ = await self.send("POST", routing, body)
        return status, headers

    async def get(self, path: str) -> str:
        _, _, body = await self.send("GET", {}, path=path)
        return body.decode()

    async def stream(self, headers: Mapping[str, str]) -> None:
        """Read events until the stream ends."""
        await self._write("GET", "/mcp", headers, b"")
        while True:
            await self._read.receive()

    async def send(
        self, verb: str, headers: Mapping[str, str], body: bytes = b"", *, path: str = "/mcp"
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the answer."""
        await self._write(verb, path, headers, body)
        head = (await self._read.receive_until(b"\r\n\r\n", MAX_ANSWER_BYTES)).decode()
        first, *lines = head.split("\r\n")
        given = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if given.get("transfer-encoding") != "chunked":
            content = await self._read.receive_exactly(int(given.get("content-length", 0)))
            return int(first.split()[1]), given, content
        content = b""
        while size := int(await self._read.receive_until(b"\r\n", MAX_ANSWER_BYTES), 16):
            content += (await self._read.receive_exactly(size + 2))[:-2]
        await self._read.receive_exactly(2)
        return int(first.split()[1]), given, content

    async def _write(self, verb: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        fields = {"host": self._host, **HEADERS, **headers, "content-length": str(len(body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        await self._stream.send(f"{verb} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)


@asynccontextmanager
async def _connect(address: tuple[str, int]) -> AsyncIterator[_Host]:
    async with await anyio.connect_tcp(*address) as stream:
        yield _Host(stream, address)


@asynccontextmanager
async def _serving(model: str) -> AsyncIterator[tuple[str, int]]:
    """Run `zonda serve` on a free port; leaving kills it."""
    from runtime.config import process_environment

    root = Path(mcp_servers.__file__).parent.parent
    command = [sys.executable, "-m", "mcp_servers", "serve", "--port", "0", "--model", model]
    process = await anyio.open_process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**process_environment(), "PYTHONPATH": str(root)},
    )
    assert process.stderr is not None
    try:
        async with anyio.create_task_group() as tasks:
            log = BufferedByteReceiveStream(process.stderr)
            url = await _find_url(log)
            tasks.start_soon(_drop, log)
            parts = urlsplit(url)
            yield str(parts.hostname), int(parts.port or 0)
            tasks.cancel_scope.cancel()
    finally:
        process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()


async def _find_url(log: BufferedByteReceiveStream) -> str:
    try:
        while True:
            line = (await log.receive_until(b"\n", MAX_ANSWER_BYTES)).decode(errors="replace")
            _, found, rest = line.partition("serving MCP at ")
            if found:
                return rest.partition(",")[0]
    except anyio.IncompleteRead as exc:
        raise UnavailableError("`zonda serve` ended before it listened; see its log") from exc


async def _drop(log: BufferedByteReceiveStream) -> None:
    """Read what the server logs, so that it never waits for us."""
    while True:
        await log.receive()
