"""Tests of the relay as a process, between a host and an engine process that are both played."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

import mcp_servers
from mcp_servers.sharing.place import find_place
from mcp_servers.sharing.relay import LOST
from mcp_servers.sharing.wire import Hello, private_line
from runtime.config import load_config

ROOT = Path(mcp_servers.__file__).parent.parent
WAIT_S = 20


def message(**fields: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", **fields}


class RelayProcess:
    """A relay, and the host's side of it."""

    def __init__(self, environ: Mapping[str, str], *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mcp_servers", "mcp", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=dict(environ),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.stdin, self.stdout = self._process.stdin, self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.communicate()

    def say(self, **fields: Any) -> None:
        self.stdin.write(json.dumps(message(**fields)).encode() + b"\n")
        self.stdin.flush()

    def hear(self) -> Any:
        return json.loads(self.stdout.readline())

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def close(self) -> None:
        """End the input."""
        self.stdin.close()
        self._process.stdin = None

    def end(self) -> tuple[int, str, str]:
        """Wait for the end; return status, the rest of the output, and stderr."""
        out, err = self._process.communicate(timeout=WAIT_S)
        return self._process.returncode, out.decode(), err.decode()


class EngineSide:
    """One connection of a relay, from the engine process's side."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(WAIT_S)
        self._connection = connection
        self._lines = connection.makefile("rb")
        self.hello = Hello.from_line(self._lines.readline())

    def welcome(self) -> EngineSide:
        self._connection.sendall(private_line("welcome", 1))
        return self

    def hear(self) -> Any:
        """Return what the relay sends next; None at its end."""
        line = self._lines.readline()
        return json.loads(line) if line else None

    def say(self, **fields: Any) -> None:
        self._connection.sendall(json.dumps(message(**fields)).encode() + b"\n")

    def say_private(self, kind: str, value: Any) -> None:
        self._connection.sendall(private_line(kind, value))

    def end(self) -> None:
        self._lines.close()
        self._connection.close()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "ZONDA_STATE_DIR": str(tmp_path / "state"),
        "ZONDA_CACHE_DIR": str(tmp_path / "cache"),
        "ZONDA_ENGINE_IDLE_S": "0",
    }


@contextmanager
def listening(environ: Mapping[str, str]) -> Iterator[socket.socket]:
    """Be where relays look for the engine process of these settings."""
    place = find_place(load_config(environ), environ)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place.socket))
        listener.listen()
        listener.settimeout(WAIT_S)
        yield listener


def accept(listener: socket.socket) -> EngineSide:
    return EngineSide(listener.accept()[0])


def test_lines_go_both_ways_and_private_ones_to_the_log(environ: dict[str, str]) -> None:
    with listening(environ) as listener, RelayProcess(environ) as host:
        engine = accept(listener).welcome()
        assert engine.hello.environ["ZONDA_ENGINE_IDLE_S"] == "0"
        assert (engine.hello.folder, engine.hello.config.engine_idle_s) == (ROOT, 0)
        host.say(id=1, method="server/discover")
        assert engine.hear() == message(id=1, method="server/discover")
        engine.say_private("log", ["tools.x", 30, "server=x failed"])
        engine.say_private("log", ["tools.x", 10, "a detail"])
        engine.say(id=1, result={"text": "é"})
        assert host.hear() == message(id=1, result={"text": "é"})
        host.close()
        assert engine.hear() is None
        engine.end()
        status, out, err = host.end()
    assert (status, out) == (0, "")
    assert "WARNING tools.x: server=x failed" in err
    assert "a detail" not in err
    assert err.splitlines()[-1].endswith("the input ended")


def test_signal_ends_the_session_and_the_process(environ: dict[str, str]) -> None:
    with listening(environ) as listener, RelayProcess(environ) as host:
        engine = accept(listener).welcome()
        host.say(id=1, method="ping")
        assert engine.hear() == message(id=1, method="ping")
        host.signal(signal.SIGTERM)
        assert engine.hear() is None
        engine.end()
        status, out, err = host.end()
    assert (status, out) == (0, "")
    assert err.splitlines()[-1].endswith("stopped by SIGTERM")


def test_lost_engine_is_an_error_and_the_session_is_opened_in_the_next(
    environ: dict[str, str],
) -> None:
    with listening(environ) as listener, RelayProcess(environ) as host:
        engine = accept(listener).welcome()
        host.say(id=0, method="initialize", params={"a": 1})
        engine.hear()
        engine.say(id=0, result={})
        assert host.hear() == message(id=0, result={})
        host.say(method="notifications/initialized")
        host.say(id=1, method="tools/call")
        assert [engine.hear()["method"] for _ in range(2)] == [
            "notifications/initialized",
            "tools/call",
        ]
        engine.end()
        assert host.hear() == message(id=1, error={"code": -32603, "message": LOST})
        host.say(id=2, method="tools/call")
        engine = accept(listener).welcome()
        opening = engine.hear()
        assert (opening["method"], opening["params"]) == ("initialize", {"a": 1})
        engine.say(id=opening["id"], result={})
        assert engine.hear() == message(method="notifications/initialized")
        assert engine.hear() == message(id=2, method="tools/call")
        engine.say(id=2, result={"again": True})
        assert host.hear() == message(id=2, result={"again": True})
        host.close()
        engine.end()
        assert host.end()[:2] == (0, "")


def test_initialize_is_answered_by_the_next_engine(environ: dict[str, str]) -> None:
    with listening(environ) as listener, RelayProcess(environ) as host:
        host.say(id="i", method="initialize", params={})
        for _ in range(2):
            engine = accept(listener).welcome()
            assert engine.hear() == message(id="i", method="initialize", params={})
            engine.end()
        engine = accept(listener).welcome()
        engine.hear()
        engine.say(id="i", result={"third": True})
        assert host.hear() == message(id="i", result={"third": True})
        host.close()
        engine.end()
        assert host.end()[:2] == (0, "")


def test_initialize_is_an_error_when_one_engine_after_the_other_is_lost(
    environ: dict[str, str],
) -> None:
    with listening(environ) as listener, RelayProcess(environ) as host:
        host.say(id="i", method="initialize", params={})
        for _ in range(3):
            engine = accept(listener).welcome()
            engine.hear()
            engine.end()
        assert host.hear() == message(id="i", error={"code": -32603, "message": LOST})
        host.close()
        assert host.end()[:2] == (0, "")


def test_engine_that_ends_just_when_a_relay_comes_is_replaced(environ: dict[str, str]) -> None:
    with listening(environ) as listener, RelayProcess(environ) as host:
        accept(listener).end()
        engine = accept(listener).welcome()
        host.say(id=1, method="ping")
        assert engine.hear() == message(id=1, method="ping")
        engine.say(id=1, result={})
        assert host.hear() == message(id=1, result={})
        host.close()
        engine.end()
        assert host.end()[:2] == (0, "")


def test_relay_that_is_refused_later_says_so_and_asks_again(environ: dict[str, str]) -> None:
    with listening(environ) as listener, RelayProcess(environ) as host:
        engine = accept(listener).welcome()
        host.say(id=0, method="ping")
        engine.hear()
        engine.end()
        assert host.hear() == message(id=0, error={"code": -32603, "message": LOST})
        host.say(id=1, method="ping")
        engine = accept(listener)
        engine.say_private("refused", "restart it in the host")
        text = "the engine process cannot be had: restart it in the host"
        assert host.hear() == message(id=1, error={"code": -32603, "message": text})
        engine.end()
        host.say(id=2, method="ping")
        engine = accept(listener).welcome()
        assert engine.hear() == message(id=2, method="ping")
        engine.say(id=2, result={})
        assert host.hear() == message(id=2, result={})
        host.close()
        engine.end()
        assert host.end()[:2] == (0, "")


def test_relay_that_is_refused_first_ends_with_the_reason(environ: dict[str, str]) -> None:
    with listening(environ) as listener, RelayProcess(environ) as host:
        engine = accept(listener)
        engine.say_private("refused", "servers.json: expected an object")
        engine.end()
        assert host.stdout.read() == b""
        status, out, err = host.end()
    assert (status, out) == (2, "")
    assert err == "zonda: servers.json: expected an object\n"


def test_engine_that_cannot_start_is_said_with_its_last_words(
    environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "anyio.py").write_text("raise ImportError('no such luck')\n", "utf-8")
    with RelayProcess({**environ, "PYTHONPATH": str(tmp_path)}) as host:
        assert host.stdout.read() == b""
        status, out, err = host.end()
    assert (status, out) == (1, "")
    assert err.startswith(
        "zonda: the engine process ended with 'ImportError: no such luck' as it started; its log is"
    )
    assert len(err.splitlines()) == 1
