"""One engine process behind many `zonda mcp`: whole processes, killed and counted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError, StdioServerParameters

from mcp_servers.cli.bench_server import ServerProcess
from mcp_servers.sharing.place import find_place
from mcp_servers.sharing.relay import LOST
from runtime.config import load_config
from tests.helpers.tool_servers import is_running

ERAS = ("legacy", "2026-07-28", "auto")
RELAY_LIMIT_MIB = 30


def engines(environ: Mapping[str, str]) -> list[int]:
    """Numbers of the engine processes that listen."""
    folder = Path(environ["ZONDA_STATE_DIR"]) / "engine"
    return sorted(int(file.read_text("utf-8")) for file in folder.glob("*.pid"))


@asynccontextmanager
async def connect(
    model: Path, environ: dict[str, str], era: str, *more: str
) -> AsyncIterator[Client]:
    arguments = ["-m", "mcp_servers", "mcp", "--model", str(model), *more]
    server = StdioServerParameters(command=sys.executable, args=arguments, env=environ)
    async with Client(server, mode=era) as client:
        yield client


def structured(result: Any) -> dict[str, Any]:
    assert not result.is_error, result.content
    return dict(result.structured_content)


@pytest.fixture
def silent_server(tmp_path: Path) -> Path:
    """A file of one tool server that never answers: whoever calls `agent_run` waits for it."""
    entry = {"command": "sh", "args": ["-c", "exec 9>&1; exec cat >/dev/null"]}
    file = tmp_path / "servers.json"
    file.write_text(json.dumps({"mcpServers": {"silent": entry}}), "utf-8")
    return file


@pytest.mark.anyio
@pytest.mark.slow
async def test_killed_engine_is_an_error_for_each_host_that_waits_and_the_next_call_works(
    tiny_model: Path, environ: dict[str, str], silent_server: Path
) -> None:
    lost: list[tuple[int, str]] = []

    async def wait_for_server(client: Client, is_waiting: anyio.Event) -> None:
        async def report(progress: float, total: float | None, message: str | None) -> None:
            if message == "starting tool servers":
                is_waiting.set()

        with pytest.raises(MCPError) as caught:
            await client.call_tool("agent_run", {"task": "x"}, progress_callback=report)
        lost.append((caught.value.error.code, caught.value.error.message))

    with anyio.fail_after(50):
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    connect(tiny_model, environ, era, "--mcp-config", str(silent_server))
                )
                for era in ERAS
            ]
            [first_pid] = engines(environ)
            async with anyio.create_task_group() as group:
                waiting = [anyio.Event() for _ in clients]
                for client, is_waiting in zip(clients, waiting, strict=True):
                    group.start_soon(wait_for_server, client, is_waiting)
                for is_waiting in waiting:
                    await is_waiting.wait()
                os.kill(first_pid, signal.SIGKILL)
            assert lost == [(-32603, LOST)] * 3
            for client in clients:
                arguments = {"prompt": "Hello", "max_tokens": 2}
                assert structured(await client.call_tool("generate", arguments))["text"]
            [second_pid] = engines(environ)
    assert second_pid != first_pid


@pytest.mark.slow
def test_hosts_that_start_at_once_share_one_engine_which_ends_with_the_last(
    tiny_model: Path, environ: dict[str, str]
) -> None:
    with ExitStack() as stack:
        model = ["--model", str(tiny_model)]
        hosts = [stack.enter_context(ServerProcess(model, environ)) for _ in range(4)]
        for host in hosts:
            host.initialize()
            host.generate(["Hello"])
        [pid] = engines(environ)
        assert max(host.resident_mib() for host in hosts) < RELAY_LIMIT_MIB
        for host in hosts[1:]:
            host.end()
        hosts[0].generate(["Hello"])
        assert engines(environ) == [pid]
        hosts[0].end()
        wait_until_ended(pid)
    assert engines(environ) == []


@pytest.mark.slow
def test_other_settings_are_another_engine_and_none_with_no_share(
    tiny_model: Path, environ: dict[str, str]
) -> None:
    model = ["--model", str(tiny_model)]
    with ServerProcess([*model, "--no-share"], environ) as alone:
        alone.initialize()
        alone.generate(["Hello"])
        assert not (Path(environ["ZONDA_STATE_DIR"]) / "engine").exists()
        alone.end()
    with (
        ServerProcess(model, environ) as first,
        ServerProcess(model, {**environ, "ZONDA_THREADS": "1"}) as second,
        ServerProcess(model, {**environ, "ZONDA_PORT": "1"}) as third,
    ):
        for host in (first, second, third):
            host.initialize()
        assert len(engines(environ)) == 2
        for host in (first, second, third):
            host.end()


@pytest.mark.slow
def test_run_of_one_host_is_unknown_to_another(tiny_model: Path, environ: dict[str, str]) -> None:
    model = ["--model", str(tiny_model)]
    plain = [*model, "--"]  # read by the whole command line
    with ServerProcess(model, environ) as first, ServerProcess(plain, environ) as second:
        for host in (first, second):
            host.initialize()
        assert len(engines(environ)) == 1
        call = {"name": "generate", "arguments": {"prompt": "a", "wait_seconds": 0}}
        run_id = first.ask("tools/call", call)["structuredContent"]["run_id"]
        asked = {"name": "run_result", "arguments": {"run_id": run_id}}
        unknown = second.ask("tools/call", asked)
        known = first.ask("tools/call", asked)
        first.end()
        second.end()
    assert unknown["isError"]
    assert unknown["content"][0]["text"].startswith("no run has this id")
    assert known["structuredContent"]["status"] == "done"


@pytest.mark.slow
def test_tool_servers_start_where_their_host_is_and_with_its_variables(
    tiny_model: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    script = 'echo "$TOKEN $(pwd)" >&2; exec 9>&1; exec cat >/dev/null'
    entry = {"command": "sh", "args": ["-c", script], "env": {"TOKEN": "${SECRET}"}}
    servers = tmp_path / "servers.json"
    servers.write_text(json.dumps({"mcpServers": {"said": entry}}), "utf-8")
    command = [sys.executable, "-m", "mcp_servers", "mcp", "--model", str(tiny_model)]
    command += ["--mcp-config", "../servers.json", "--log-file"]
    with ExitStack() as stack:
        for name in ("a", "b"):
            folder = tmp_path / name
            folder.mkdir()
            process = subprocess.Popen(
                [*command, str(tmp_path / f"{name}.log")],
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=folder,
                env={**environ, "SECRET": f"of {name}"},
            )
            stack.callback(process.wait)
            assert process.stdin is not None
            stack.callback(process.stdin.close)
            assert process.stderr is not None
            stack.enter_context(process.stderr)
            said = next(line for line in process.stderr if "server=said stderr" in line)
            assert said.rstrip().endswith(f"server=said stderr: of {name} {folder}")
            assert len(engines(environ)) == 1
    logs = [(tmp_path / f"{name}.log").read_text("utf-8") for name in ("a", "b")]
    assert ["of a" in log for log in logs] == [True, False]
    assert ["of b" in log for log in logs] == [False, True]


@pytest.mark.slow
def test_wrong_lines_are_answered_and_the_session_goes_on(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    lines = [
        b"junk",
        b"",
        b"[]",
        b'{"jsonrpc":"2.0","id":null,"method":"ping"}',
        b"[" * 100 + b"]" * 100,
        b'{"jsonrpc":"2.0","id":1,"method":"' + b"x" * 50_000_000 + b'"}',
        b'{"jsonrpc":"2.0","id":2,"method":"ping"}',
    ]
    command = [sys.executable, "-m", "mcp_servers", "mcp", "--model", str(tmp_path / "no.gguf")]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environ,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n".join(lines) + b"\n")
        process.stdin.flush()
        *refused, pong = [json.loads(process.stdout.readline()) for _ in range(6)]
    assert [(one["id"], one["error"]["code"]) for one in refused] == [
        (None, -32700),
        *[(None, -32600)] * 3,
        (1, -32600),
    ]
    assert pong == {"jsonrpc": "2.0", "id": 2, "result": {}}
    assert process.returncode == 0


def test_wrong_file_of_tool_servers_is_one_line_and_status_2(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    file = tmp_path / "servers.json"
    file.write_text("{}", "utf-8")
    command = [sys.executable, "-m", "mcp_servers", "mcp", "--mcp-config", str(file)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said, answered = process.stderr.read().decode(), process.stdout.read()
    assert (process.returncode, answered) == (2, b"")
    assert said.startswith(f"zonda: {file}: expected an object")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("what", ["the folder", "the socket"])
def test_where_no_engine_can_be_shared_it_is_said_and_everything_is_in_one_process(
    what: str, tmp_path: Path, environ: dict[str, str]
) -> None:
    model = str(tmp_path / "no.gguf")
    with tempfile.TemporaryDirectory(dir="/tmp") as state:  # of a deeper one another is taken
        environ = {**environ, "ZONDA_STATE_DIR": state}
        place = find_place(load_config(environ, model=model), environ)
        if what == "the folder":
            place.folder.rmdir()
            place.folder.write_text("", "utf-8")
        else:
            place.socket.mkdir()
        with ServerProcess(["--model", model], environ) as server:
            server.initialize()
            server.end()
        log = Path(state, "logs", "mcp.log").read_text("utf-8")
    first, second, *_ = log.splitlines()
    assert "WARNING mcp_servers.cli.mcp: the engine is not shared: the " in first
    assert "serving MCP over stdio" in second


def wait_until_ended(pid: int) -> None:
    """Wait for a process that is not our child; bounded by the test's timeout."""
    while is_running(pid):
        os.sched_yield()
