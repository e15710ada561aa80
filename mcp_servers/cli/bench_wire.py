"""Speaks MCP by hand, both eras, over pipes and over HTTP: the client costs next to nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import mcp_servers
from tools.errors import UnavailableError

if TYPE_CHECKING:
    import httpx2

HANDSHAKE, MODERN = "2025-11-25", "2026-07-28"
ERAS = (HANDSHAKE, MODERN)
TRANSPORTS = ("stdio", "http")
CLIENT = {"name": "zonda-bench", "version": "1"}
INITIALIZE = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": CLIENT}
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": CLIENT,
    "io.modelcontextprotocol/clientCapabilities": {},
}
HEADERS = {
    "accept": "application/json, text/event-stream",
    "content-type": "application/json",
}
ANSWER_WITHIN_S = 60.0


class Wire(Protocol):
    """A connection to the probe server."""

    def call(self, tool: str) -> int:
        """Call a tool and wait for the answer; return how many progress reports came before it.

        Raises:
            UnavailableError: the answer is an error, or there is none.
        """
        ...


@contextmanager
def open_wire(transport: str, era: str) -> Iterator[Wire]:
    """Start the probe server and connect to it; leaving ends it.

    Raises:
        UnavailableError: it does not answer.
    """
    process = _start(transport)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if transport == "stdio":
            yield _Pipes(process.stdin, process.stdout, era)
        else:
            import httpx2

            url = process.stdout.readline().decode().strip()
            with httpx2.Client(timeout=ANSWER_WITHIN_S, trust_env=False) as client:
                yield _Http(client, url, era)
    finally:
        process.kill()
        process.communicate()


def make_message(
    request_id: int | None, method: str, params: Mapping[str, Any], era: str
) -> dict[str, Any]:
    """Make a message of that era; without an id it is a notification."""
    if era == MODERN:
        params = {**params, "_meta": {**META, **params.get("_meta", {})}}
    message = {"jsonrpc": "2.0", "method": method, "params": params}
    return message if request_id is None else {**message, "id": request_id}


def _start(transport: str) -> subprocess.Popen[bytes]:
    from runtime.config import process_environment

    root = Path(mcp_servers.__file__).parent.parent
    return subprocess.Popen(  # noqa: S603 - this very program
        [sys.executable, "-m", "mcp_servers.cli.bench_probe", transport],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**process_environment(), "PYTHONPATH": str(root)},
    )


def _call_params(tool: str) -> dict[str, Any]:
    return {"name": tool, "arguments": {}, "_meta": {"progressToken": 1}}


def _is_answer(line: bytes, request_id: int) -> bool:
    """Whether a line is the answer; progress goes by.

    Raises:
        UnavailableError: it is an error.
    """
    message = json.loads(line)
    if message.get("id") != request_id:
        return False
    if "error" in message or message["result"].get("isError"):
        raise UnavailableError(f"the probe server answered: {message}")
    return True


class _Pipes:
    def __init__(self, stdin: IO[bytes], stdout: IO[bytes], era: str) -> None:
        self._stdin, self._stdout, self._era = stdin, stdout, era
        self._last_id = 0
        if era == HANDSHAKE:
            self._ask("initialize", INITIALIZE)
            self._send(make_message(None, "notifications/initialized", {}, era))

    def call(self, tool: str) -> int:
        return self._ask("tools/call", _call_params(tool))

    def _ask(self, method: str, params: Mapping[str, Any]) -> int:
        self._last_id += 1
        self._send(make_message(self._last_id, method, params, self._era))
        num_reports = 0
        while line := self._stdout.readline():
            if _is_answer(line, self._last_id):
                return num_reports
            num_reports += 1
        raise UnavailableError("the probe server ended before it answered")

    def _send(self, message: Mapping[str, Any]) -> None:
        self._stdin.write(json.dumps(message).encode() + b"\n")
        self._stdin.flush()


class _Http:
    def __init__(self, client: httpx2.Client, url: str, era: str) -> None:
        self._client, self._url, self._era = client, url, era
        self._last_id = 0
        self._num_reports = 0
        self._headers = {**HEADERS, "mcp-protocol-version": era}
        if era == HANDSHAKE:
            opened = self._post("initialize", INITIALIZE, HEADERS)
            self._headers["mcp-session-id"] = opened.headers["mcp-session-id"]
            ready = make_message(None, "notifications/initialized", {}, era)
            client.post(url, json=ready, headers=self._headers)

    def call(self, tool: str) -> int:
        routing = {"mcp-method": "tools/call", "mcp-name": tool} if self._era == MODERN else {}
        self._post("tools/call", _call_params(tool), {**self._headers, **routing})
        return self._num_reports

    def _post(
        self, method: str, params: Mapping[str, Any], headers: Mapping[str, str]
    ) -> httpx2.Response:
        """Send a request and read its whole answer, a stream of events or one message."""
        self._last_id += 1
        message = make_message(self._last_id, method, params, self._era)
        response = self._client.post(self._url, json=message, headers=headers)
        lines = [line.removeprefix(b"data: ") for line in response.content.splitlines()]
        messages = [line for line in lines if line.startswith(b"{")]
        if sum(_is_answer(line, self._last_id) for line in messages) != 1:
            raise UnavailableError(f"the probe server answered {response.status_code}")
        self._num_reports = len(messages) - 1
        return response
