"""All that `zonda mcp` offers, over a tiny model: both protocol eras, through its options."""

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

ERAS = ("legacy", "2026-07-28")
COLOUR = {"type": "object", "properties": {"c": {"enum": ["red", "blue"]}}, "required": ["c"]}
NOW = {"name": "now", "description": "The time.", "inputSchema": {"type": "object"}}


@asynccontextmanager
async def connect(
    model: Path, environ: dict[str, str], era: str, *options: str
) -> AsyncIterator[Client]:
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "mcp_servers", "mcp", "--model", str(model), *options],
        env=environ,
    )
    with anyio.fail_after(50):
        async with Client(server, mode=era) as client:
            yield client


def structured(result: t.CallToolResult) -> dict[str, Any]:
    assert not result.is_error, result.content
    return dict(result.structured_content or {})


async def read(client: Client, uri: str) -> dict[str, Any]:
    (content,) = (await client.read_resource(uri, cache_mode="bypass")).contents
    assert isinstance(content, t.TextResourceContents)
    told: dict[str, Any] = json.loads(content.text)
    return told


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.parametrize("era", ERAS)
async def test_the_whole_surface_works_over_stdio(
    tiny_model: Path, environ: dict[str, str], tmp_path: Path, era: str
) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "mine.md").write_text("---\ntitle: Mine\n---\nDo it.\n", encoding="utf-8")
    options = ("--admin", "--expose", "chat", "--prompts", str(folder))
    name = str(tiny_model)
    async with connect(tiny_model, environ, era, *options) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        prompts = [prompt.name for prompt in (await client.list_prompts()).prompts]
        batch = structured(
            await client.call_tool(
                "generate_batch", {"prompts": ["Hello", "Hi", "Hello"], "max_tokens": 4}
            )
        )
        values = structured(
            await client.call_tool(
                "generate_batch", {"items": [1, 2], "template": "{item}", "schema": COLOUR}
            )
        )
        alone = structured(await client.call_tool("generate", {"prompt": "Hi", "max_tokens": 4}))
        chat = {"messages": [{"role": "user", "content": "time?"}], "tools": [NOW]}
        turn = structured(
            await client.call_tool("chat", {**chat, "tool_choice": "now", "max_tokens": 64})
        )
        embedded = structured(await client.call_tool("embed", {"texts": ["a cat", "a cat", "?"]}))
        (listed,) = (await read(client, "model://"))["models"]
        status = await read(client, "runtime://status")
        unloaded = structured(await client.call_tool("model_unload", {"model": name}))
        gone = await read(client, "model://")
        loaded = structured(await client.call_tool("model_load", {"model": name}))
    assert {"generate_batch", "chat", "model_load", "model_unload"} <= set(tools)
    assert prompts[-1] == "mine"
    texts = [result["text"] for result in batch["results"]]
    assert texts[1] == alone["text"]
    assert texts[0] == texts[2]
    assert {result["value"]["c"] for result in values["results"]} <= {"red", "blue"}
    assert [call["name"] for call in turn["tool_calls"]] == ["now"]
    assert turn["finish_reason"] == "tool_calls"
    first, second, third = embedded["vectors"]
    assert len(first) == embedded["dimensions"] == 64
    assert first == second != third
    assert sum(number**2 for number in first) == pytest.approx(1, abs=1e-4)
    assert (listed["name"], listed["state"]) == (name, "loaded")
    assert status["models"][0]["generated_tokens"] > 0
    assert unloaded["memory_bytes"] == loaded["memory_bytes"] > 0
    assert gone["models"] == [
        {"name": name, "state": "not loaded", "note": "a call that names it loads it"}
    ]
