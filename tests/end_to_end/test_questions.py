"""Policy's questions through whole processes: from a tiny model's call to the host's user."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import mcp_types as t
import pytest
from mcp import Client, StdioServerParameters

import tests.helpers
from tests.helpers.http_process import HttpServerProcess
from tests.helpers.tiny_gguf import write_tiny_llama
from tests.helpers.web_service import connect as connect_http

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SCRIPT = Path(tests.helpers.__file__).with_name("tool_server_script.py")
OTHERS = ["echo", "die", "hang", "refuse", "count", "spawn", "spawn_and_exit"]
OTHERS += ["flood", "mislead", "malform"]
TASK = {"task": "look around", "tool_choice": "required", "max_steps": 2, "wait_seconds": 40}


class User:
    """Answers forms alike, and keeps what was asked."""

    def __init__(self, *, allows: bool) -> None:
        self.asked: list[str] = []
        self._allows = allows

    async def __call__(self, context: Any, params: Any) -> t.ElicitResult:
        self.asked.append(params.message)
        names = params.requested_schema["properties"]
        return t.ElicitResult(action="accept", content=dict.fromkeys(names, self._allows))


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    model = write_tiny_llama(tmp_path / "tiny.gguf", context_length=4096)
    rules = {"tools": {"ask": ["environment"], "deny": OTHERS}}
    entry = {"command": sys.executable, "args": ["-S", str(SCRIPT)], "x-runtime": rules}
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"box": entry}}), encoding="utf-8")
    return ["--model", str(model), "--mcp-config", str(path)]


@asynccontextmanager
async def connect(
    transport: str, era: str, arguments: list[str], environ: dict[str, str], user: User
) -> AsyncIterator[Client]:
    with anyio.fail_after(50):
        if transport == "http":
            with HttpServerProcess(*arguments, environ=environ) as server:
                async with connect_http(server.url, era, elicitation_callback=user) as client:
                    yield client
        else:
            command = ["-m", "mcp_servers", "mcp", *arguments]
            server_ = StdioServerParameters(command=sys.executable, args=command, env=environ)
            async with Client(server_, mode=era, elicitation_callback=user) as client:
                yield client


@pytest.mark.parametrize(
    ("transport", "era", "allows"),
    [
        ("stdio", "legacy", True),
        ("stdio", "2026-07-28", True),
        ("http", "legacy", True),
        ("http", "2026-07-28", False),
    ],
)
async def test_call_is_made_when_the_user_allows_it(
    transport: str, era: str, allows: bool, arguments: list[str], environ: dict[str, str]
) -> None:
    user = User(allows=allows)
    async with connect(transport, era, arguments, environ, user) as client:
        result = await client.call_tool("agent_run", TASK)
    assert not result.is_error, result.content
    steps = (result.structured_content or {})["steps"]
    assert len(user.asked) == 1
    for step in steps:
        assert f"{step['tool']} {json.dumps(step['arguments'])}" in user.asked[0]
        assert (step["ok"], step.get("approved_by")) == (allows, "user" if allows else None)
    assert {step["tool"] for step in steps} == {"box__environment"}
