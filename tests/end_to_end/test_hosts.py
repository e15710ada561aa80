"""The default model behind real MCP peers: the inspector as host, published tool servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters

from runtime.config import load_config, process_environment
from tests.helpers.http_process import HttpServerProcess
from tools.mcp_client.config import load_servers
from tools.mcp_client.toolset import open_toolset
from tools.validation import first_problem

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]

BIN = Path(sys.executable).parent
NODE = BIN.parent / "node" / "node_modules" / ".bin"
IDLE = {"ZONDA_ENGINE_IDLE_S": "5"}
"""The engine process stays for the next host of these tests, and not much longer."""

COLOUR = {"type": "object", "properties": {"c": {"enum": ["red", "blue"]}}, "required": ["c"]}
CALLS = {
    "generate": {"prompt": "Say hello.", "max_tokens": 8},
    "extract": {"instructions": "Name a colour.", "schema": COLOUR},
    "choose": {"question": "Is snow white or black?", "options": ["white", "black"]},
    "generate_batch": {"items": ["cat", "rose"], "template": "What is a {item}?", "max_tokens": 8},
    "embed": {"texts": ["a cat", "a kitten", "the price of oil"]},
}


def inspect(target: Sequence[str], era: str, method: str, *arguments: str) -> Any:
    """Run the inspector against a server; it validates what it gets against the schemas."""
    command = [NODE / "node", NODE / "mcp-inspector", "--cli", "-q", "--format", "json"]
    asked = ["--protocol-era", era, "--method", method]
    done = subprocess.run(
        [str(part) for part in (*command, *target, *asked, *arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": f"{NODE}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)["result"]


def dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def check_with_inspector(target: Sequence[str], era: str) -> None:
    """Let the inspector lint the schemas and call every tool."""
    listed = inspect(target, era, "tools/list", "--strict")
    assert {"generate", "extract", "choose", "generate_batch", "embed", "run_result"} == {
        t["name"] for t in listed["tools"]
    }
    for name, arguments in CALLS.items():
        given = ("--tool-name", name, "--tool-args-json", json.dumps(arguments))
        result = inspect(target, era, "tools/call", *given)
        assert not result.get("isError"), result
        value = result["structuredContent"]
        match name:
            case "generate":
                assert value["finish_reason"] in {"stop", "length"}
                assert value["text"]
            case "extract":
                assert first_problem(COLOUR, value["value"]) is None
            case "generate_batch":
                assert [one["index"] for one in value["results"]] == [0, 1]
                assert all(one["text"] for one in value["results"])
            case "embed":
                cat, kitten, oil = value["vectors"]
                assert dot(cat, kitten) > dot(cat, oil)
            case _:
                assert value["choice"] in {"white", "black"}


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_inspector_finds_the_schemas_portable_and_every_tool_answers(
    smollm2: Path, era: str
) -> None:
    passed_on = [part for name, value in IDLE.items() for part in ("-e", f"{name}={value}")]
    check_with_inspector([*passed_on, str(BIN / "zonda"), "mcp"], era)


def test_inspector_finds_the_same_over_http_behind_a_key(smollm2: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("inspector-0123456789abcdef\n", "utf-8")
    keys.chmod(0o600)
    with HttpServerProcess("--api-key-file", str(keys), environ=os.environ) as server:
        header = "Authorization: Bearer inspector-0123456789abcdef"
        target = [server.url, "--transport", "http", "--header", header]
        for era in ("legacy", "modern"):
            check_with_inspector(target, era)
        server.stop()
        assert server.wait() == 0


@asynccontextmanager
async def zonda(*arguments: str) -> AsyncIterator[Client]:
    """`zonda mcp` with the default model, under the official client."""
    cache = {"ZONDA_CACHE_DIR": str(load_config().cache_dir)}
    parameters = StdioServerParameters(
        command=str(BIN / "zonda"), args=["mcp", *arguments], env={**os.environ, **cache, **IDLE}
    )
    with anyio.fail_after(240):
        async with Client(parameters) as client:
            yield client


@pytest.mark.anyio
async def test_thirty_two_calls_at_once_give_the_texts_of_one_by_one(smollm2: Path) -> None:
    prompts = [f"Write a sentence about the number {number}." for number in range(32)]
    together: dict[str, str] = {}
    async with zonda() as client:

        async def ask(prompt: str) -> str:
            result = await client.call_tool(
                "generate", {"prompt": prompt, "max_tokens": 24, "temperature": 0}
            )
            assert not result.is_error, result.content
            assert result.structured_content is not None
            assert result.structured_content["status"] == "done"
            return str(result.structured_content["text"])

        async def ask_together(prompt: str) -> None:
            together[prompt] = await ask(prompt)

        async with anyio.create_task_group() as group:
            for prompt in prompts:
                group.start_soon(ask_together, prompt)
        alone = {prompt: await ask(prompt) for prompt in prompts}
    assert together == alone
    assert len(set(alone.values())) > 16


def published_servers(folder: Path) -> dict[str, Any]:
    """Entries of five published tool servers, of both protocol eras, over one folder."""

    def node(name: str, *arguments: str) -> dict[str, Any]:
        script = (NODE / f"mcp-server-{name}").resolve()
        return {"command": str(NODE / "node"), "args": [str(script), *arguments]}

    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return {
        "time": {"command": str(BIN / "mcp-server-time"), "args": ["--local-timezone", "UTC"]},
        "git": {"command": str(BIN / "mcp-server-git"), "args": ["--repository", str(folder)]},
        "everything": node("everything", "stdio"),
        "filesystem": node("filesystem", str(folder)),
        "memory": {**node("memory"), "env": {"MEMORY_FILE_PATH": str(folder / "memory.json")}},
    }


TASKS = [
    ("What time is it in Tokyo?", ["time"]),
    ("Echo the word hello.", ["everything"]),
    ("Show the status of the repository.", ["git"]),
    ("List the directories that are allowed.", ["filesystem"]),
    ("Remember that Ada is a person.", ["memory"]),
]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("model", "tasks"),
    [("smollm2-135m", TASKS), ("gemma3-270m", TASKS[::2])],  # the second takes 30 s a task
)
async def test_agent_calls_published_tool_servers_with_valid_arguments(
    smollm2: Path, gemma3: Path, tmp_path: Path, model: str, tasks: list[tuple[str, list[str]]]
) -> None:
    environ = {**process_environment(), "PATH": f"{NODE}:{os.environ['PATH']}"}
    config = tmp_path / "servers.json"
    config.write_text(json.dumps({"mcpServers": published_servers(tmp_path)}), "utf-8")
    async with open_toolset(load_servers(config, environ)) as toolset:
        schemas = {tool.name: tool.input_schema for tool in await toolset.list_tools()}
    steps: list[dict[str, Any]] = []
    async with zonda("--model", model, "--mcp-config", str(config)) as client:
        for task, only in tasks:
            arguments = {"task": task, "servers": only, "tool_choice": "required", "max_steps": 2}
            result = await client.call_tool("agent_run", {**arguments, "wait_seconds": 200})
            assert not result.is_error, result.content
            assert result.structured_content is not None
            assert result.structured_content["status"] == "done"
            made = result.structured_content["steps"]
            # Of servers whose definitions are over a fifth of the context the model searches.
            sent = [step for step in made if step["tool"] not in {"search_tools", "describe_tool"}]
            assert {step["tool"].split("__")[0] for step in sent} <= {*only}
            assert made
            steps += sent
    assert len(steps) >= len(tasks) - 2
    for step in steps:
        assert first_problem(schemas[step["tool"]], step["arguments"]) is None
        assert step.get("approved_by") == "policy", f"not sent to its server: {step}"
    assert any(step["ok"] for step in steps)
