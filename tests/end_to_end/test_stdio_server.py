"""`zonda mcp` as a process: what a host sees from its start to the end of its input."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import mcp_types as t
import pytest
from mcp import Client, StdioServerParameters

from mcp_servers.cli.bench_server import ServerProcess

ERAS = ("legacy", "2026-07-28")
COLOUR = {"type": "object", "properties": {"c": {"enum": ["red", "blue"]}}, "required": ["c"]}


@asynccontextmanager
async def connect(model: Path, environ: dict[str, str], era: str) -> AsyncIterator[Client]:
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "mcp_servers", "mcp", "--model", str(model)],
        env=environ,
    )
    with anyio.fail_after(50):
        async with Client(server, mode=era) as client:
            yield client


def structured(result: t.CallToolResult) -> dict[str, Any]:
    assert not result.is_error, result.content
    return dict(result.structured_content or {})


def test_answers_without_a_model_and_ends_with_its_input(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    with ServerProcess(["--model", str(tmp_path / "no.gguf")], environ) as server:
        server.initialize()
        tools = server.ask("tools/list", {})["tools"]
        call = {"name": "generate", "arguments": {"prompt": "Hello"}}
        result = server.ask("tools/call", call)
        server.end()
    assert [tool["name"] for tool in tools] == [
        "generate",
        "extract",
        "choose",
        "generate_batch",
        "embed",
        "run_result",
    ]
    assert result["isError"] is True
    assert "no.gguf" in result["content"][0]["text"]
    log = (tmp_path / "state" / "logs" / "mcp.log").read_text("utf-8")
    assert "Hello" not in log
    assert log.splitlines()[-1].endswith("the input ended")


@pytest.mark.parametrize("how", ["end of input", "SIGTERM"])
def test_tool_server_that_ignores_the_end_of_its_input_ends_with_the_process(
    how: str, tmp_path: Path, environ: dict[str, str]
) -> None:
    alive = tmp_path / "alive"
    os.mkfifo(alive)  # its reader sees the end when no process holds its other side
    script = 'exec 9>"$0"; echo started >&9; exec sleep 600'
    entry = {"command": "sh", "args": ["-c", script, str(alive)]}
    servers = tmp_path / "servers.json"
    servers.write_text(json.dumps({"mcpServers": {"deaf": entry}}), "utf-8")
    arguments = ["--model", str(tmp_path / "no.gguf"), "--mcp-config", str(servers)]
    with ServerProcess(arguments, environ) as server:
        server.initialize()
        tools = server.ask("tools/list", {})["tools"]
        with alive.open(encoding="utf-8") as lines:
            assert lines.readline() == "started\n"
            if how == "SIGTERM":
                os.kill(server.pid, signal.SIGTERM)
                server.wait()
            else:
                server.end()
            assert lines.read() == ""
    assert tools[-1]["name"] == "agent_run"


@pytest.mark.slow
def test_ends_well_while_a_run_that_was_handed_out_goes_on(
    tiny_model: Path, environ: dict[str, str]
) -> None:
    with ServerProcess(["--model", str(tiny_model)], environ) as server:
        server.initialize()
        loading = {"prompt": "Hello", "max_tokens": 1}
        server.ask("tools/call", {"name": "generate", "arguments": loading})
        long = {"prompt": "Hello", "max_tokens": 400, "wait_seconds": 0}
        result = server.ask("tools/call", {"name": "generate", "arguments": long})
        server.end()
    assert result["structuredContent"]["status"] == "running"


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.parametrize("era", ERAS)
async def test_every_tool_works_over_stdio(
    tiny_model: Path, environ: dict[str, str], era: str
) -> None:
    async with connect(tiny_model, environ, era) as client:
        text = structured(await client.call_tool("generate", {"prompt": "Hello", "max_tokens": 8}))
        value = structured(
            await client.call_tool("extract", {"instructions": "a colour", "schema": COLOUR})
        )
        choice = structured(
            await client.call_tool("choose", {"question": "which?", "options": ["red", "blue"]})
        )
    assert text["status"] == "done"
    assert text["usage"]["completion_tokens"] <= 8
    assert value["value"]["c"] in {"red", "blue"}
    assert choice["choice"] in {"red", "blue"}
    assert sum(choice["scores"].values()) == pytest.approx(1)


@pytest.mark.anyio
@pytest.mark.slow
async def test_thirty_two_calls_at_once_give_the_texts_of_one_by_one(
    tiny_model: Path, environ: dict[str, str]
) -> None:
    prompts = [f"Say the number {number}" for number in range(32)]
    together: dict[str, str] = {}
    async with connect(tiny_model, environ, "auto") as client:

        async def ask(prompt: str) -> str:
            arguments = {"prompt": prompt, "max_tokens": 6, "temperature": 0}
            return str(structured(await client.call_tool("generate", arguments))["text"])

        async def ask_together(prompt: str) -> None:
            together[prompt] = await ask(prompt)

        async with anyio.create_task_group() as group:
            for prompt in prompts:
                group.start_soon(ask_together, prompt)
        alone = {prompt: await ask(prompt) for prompt in prompts}
    assert together == alone
