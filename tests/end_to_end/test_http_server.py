"""`zonda serve` as a process: keys, readiness, tools in both eras, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import mcp_types as t
import pytest

from tests.helpers.http_process import HttpServerProcess
from tests.helpers.web_service import connect

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ERAS = ("legacy", "2026-07-28")
KEY = "key-0123456789abcdef"
COLOUR = {"type": "object", "properties": {"c": {"enum": ["red", "blue"]}}, "required": ["c"]}
ENDLESS = {"max_tokens": 8000, "wait_seconds": 0}


def structured(result: t.CallToolResult) -> dict[str, Any]:
    assert not result.is_error, result.content
    return dict(result.structured_content or {})


async def run_server(server: HttpServerProcess, era: str, key: str | None = None) -> None:
    """Call every tool."""
    with anyio.fail_after(40):
        async with connect(server.url, era, key) as client:
            said = await client.call_tool("generate", {"prompt": "Hello", "max_tokens": 8})
            value = await client.call_tool("extract", {"instructions": "one", "schema": COLOUR})
            options = {"question": "which?", "options": ["red", "blue"]}
            choice = await client.call_tool("choose", options)
    assert structured(said)["usage"]["completion_tokens"] <= 8
    assert structured(value)["value"]["c"] in {"red", "blue"}
    assert structured(choice)["choice"] in {"red", "blue"}


async def test_every_tool_works_with_the_key_and_then_the_server_ends_well(
    tiny_model: Path, environ: dict[str, str]
) -> None:
    arguments = ("--model", str(tiny_model))
    with HttpServerProcess(*arguments, environ={**environ, "ZONDA_API_KEY": KEY}) as server:
        assert server.get("/ready").status_code == 401
        for era in ERAS:
            await run_server(server, era, KEY)
        ready = server.get("/ready", {"authorization": f"Bearer {KEY}"})
        server.stop()
        assert server.wait() == 0
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    log = "".join(server.log)
    assert "stopping on SIGTERM" in log
    assert KEY not in log
    assert "Hello" not in log
    assert "Traceback" not in log


async def hand_out(server: HttpServerProcess) -> None:
    """Leave runs behind that go on for a long time after their client has left."""
    with anyio.fail_after(40):
        async with connect(server.url, "legacy") as client:
            await client.call_tool("generate", {"prompt": "Hello", "max_tokens": 1})
            for number in range(16):
                result = await client.call_tool("generate", {**ENDLESS, "prompt": f"Say {number}"})
                assert structured(result)["status"] == "running"


async def test_first_signal_drains_and_a_second_one_ends_at_once(
    tiny_model: Path, environ: dict[str, str]
) -> None:
    environ |= {"ZONDA_DRAIN_S": "600", "ZONDA_CONTEXT_LENGTH": "8192"}
    with HttpServerProcess("--model", str(tiny_model), environ=environ) as server:
        await hand_out(server)
        server.stop()
        server.read_until("stopping on SIGTERM")
        ready = server.get("/ready")
        server.stop()
        assert server.wait() == 128 + signal.SIGTERM
    assert (ready.status_code, ready.json()) == (503, {"status": "draining"})


async def test_draining_ends_when_its_time_is_over_and_streams_are_closed(
    tiny_model: Path, environ: dict[str, str]
) -> None:
    environ |= {"ZONDA_DRAIN_S": "0"}
    with HttpServerProcess("--model", str(tiny_model), environ=environ) as server:
        with anyio.fail_after(40):
            async with connect(server.url, "legacy") as client:
                await client.call_tool("generate", {"prompt": "Hello", "max_tokens": 1})
                server.stop(signal.SIGINT)
                status = await anyio.to_thread.run_sync(server.wait)
    assert status == 0
    assert "graceful shutdown exceeded" not in "".join(server.log)


async def test_model_that_is_missing_is_told_by_ready_and_by_each_call(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    with HttpServerProcess("--model", str(tmp_path / "no.gguf"), environ=environ) as server:
        server.read_until("is not available")
        ready = server.get("/ready")
        with anyio.fail_after(40):
            async with connect(server.url, "2026-07-28") as client:
                result = await client.call_tool("generate", {"prompt": "Hello"})
    assert (ready.status_code, ready.json()) == (503, {"status": "failed"})
    assert result.is_error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "zonda: other machines can reach 0.0.0.0, so a key is needed: "),
        (["--api-key-file", "/nothing"], "zonda: the key file /nothing cannot be read: "),
        (["--host", "203.0.113.1", "--port", "0"], "zonda: 203.0.113.1 port 0 cannot be bound: "),
    ],
)
def test_wrong_start_is_one_line(
    arguments: list[str], message: str, environ: dict[str, str]
) -> None:
    key = {"ZONDA_API_KEY": KEY} if "203.0.113.1" in arguments else {}
    done = subprocess.run(
        [sys.executable, "-m", "mcp_servers", "serve", *arguments],
        env=environ | key,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
