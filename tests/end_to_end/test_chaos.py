"""A `zonda serve` whose tool servers do their worst: its agents still use the good one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp import Client

from tests.helpers.hostile_schemas import HOSTILE
from tests.helpers.http_process import HttpServerProcess
from tests.helpers.tiny_gguf import write_tiny_llama
from tests.helpers.web_service import connect

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SCRIPT = Path(__file__).parents[1] / "helpers" / "tool_server_script.py"
FAST = {"x-runtime": {"timeout": {"connect": 2, "idle": 2}}}
DEEP = "600 nested arrays"
"""No JSON parser in the way takes it: its server is lost, and no other."""

NAMES = {name: f"bomb{number}" for number, name in enumerate(HOSTILE)}
BOMBS = {
    NAMES[name]: {"type": "object", "properties": {"v": schema}, "required": ["v"]}
    for name, schema in HOSTILE.items()
    if name != DEEP
}
ANYTHING: dict[str, Any] = {"tool_choice": "required", "max_steps": 2, "wait_seconds": 40}


def python(*arguments: str) -> dict[str, Any]:
    return {"command": sys.executable, "args": ["-S", *arguments]}


@pytest.fixture
def servers(tmp_path: Path) -> Path:
    """A configuration of broken servers, one that offers schema bombs, and two that answer."""
    bombs = tmp_path / "bombs.json"
    bombs.write_text(json.dumps(BOMBS), "utf-8")
    deep = tmp_path / "deep.json"
    deep.write_text(json.dumps({"deep": HOSTILE[DEEP]}), "utf-8")
    listed = {
        "good": python(str(SCRIPT)),
        "junk": python(str(SCRIPT), "junk"),
        "bombs": python(str(SCRIPT), f"tools={bombs}"),
        "deep": {**python(str(SCRIPT), f"tools={deep}"), **FAST},
        "silent": {"command": "/bin/sleep", "args": ["1000"], **FAST},
        "huge": python("-c", "print('x' * 50_000_000)"),
        "gone": python("-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
    }
    path = tmp_path / "servers.json"
    path.write_text(json.dumps({"mcpServers": listed}), "utf-8")
    return path


async def run_agent(client: Client, server: str) -> list[dict[str, Any]]:
    """Let the model call something of a server; return what it did."""
    arguments = {"task": "Do something.", "servers": [server], **ANYTHING}
    result = await client.call_tool("agent_run", arguments)
    content = result.structured_content or {}
    assert not result.is_error, result.content
    assert content["status"] == "done"
    steps: list[dict[str, Any]] = content["steps"]
    return steps


async def test_agents_use_good_servers_beside_broken_ones_and_schema_bombs(
    tmp_path: Path, servers: Path, environ: dict[str, str]
) -> None:
    model = write_tiny_llama(tmp_path / "tiny.gguf", context_length=16_384)
    arguments = ("--model", str(model), "--mcp-config", str(servers))
    with HttpServerProcess(*arguments, environ=environ) as server:
        with anyio.fail_after(50):
            async with connect(server.url, "2026-07-28") as client:
                steps = {name: await run_agent(client, name) for name in ("good", "junk")}
                content = (await client.read_resource("grammar://support")).contents[0]
        health = server.get("/health").status_code
    assert health == 200
    for name, made in steps.items():
        assert made, f"{name} was not called"
        assert all(step["tool"].startswith(f"{name}__") for step in made)
    assert isinstance(content, types.TextResourceContents)
    support = json.loads(content.text)
    levels = {
        entry["tool"]: entry["level"]
        for entries in support["servers"].values()
        for entry in entries
    }
    assert support["servers"].keys() == {"good", "junk", "bombs"}
    assert levels["good__echo"] == levels["bombs__echo"] == "strict"
    refused = {name for name in HOSTILE if levels.get(f"bombs__{NAMES[name]}") == "refused"}
    assert refused >= {"enum of 50,000", "refers to itself", "huge pattern", "refers to nothing"}
    assert "Traceback" not in "".join(server.log)
