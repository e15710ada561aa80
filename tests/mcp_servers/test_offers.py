"""Models, runs and the status as resources, through an MCP client, both protocol eras."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import mcp_types as t
import pytest
from mcp import Client, MCPError
from mcp.client.subscriptions import ResourceUpdated

from mcp_servers.model_server.server import INSTRUCTIONS, build_server
from mcp_servers.model_server.service import ModelService, open_service
from mcp_servers.model_server.tools import Surface
from runtime.chat.messages import ToolCall
from tests.helpers.model_service import (
    ERAS,
    ScriptedModels,
    agent_over,
    connect,
    scripted_models,
)
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.scripted_tools import ScriptedToolset, echo, make_spec
from tests.helpers.web_service import connect as connect_to
from tests.helpers.web_service import on_port, open_app
from tools.mcp_client.server import ServerState

pytestmark = pytest.mark.anyio
HELLO = ScriptedTurn("hello there")
HANGS = ScriptedTurn("on and", hangs=True)


async def read(client: Client, uri: str) -> dict[str, Any]:
    (content,) = (await client.read_resource(uri, cache_mode="bypass")).contents
    assert isinstance(content, t.TextResourceContents)
    assert (content.uri, content.mime_type) == (uri, "application/json")
    told: dict[str, Any] = json.loads(content.text)
    return told


async def start_run(client: Client, prompt: str = "say hello") -> str:
    result = await client.call_tool("generate", {"prompt": prompt, "wait_seconds": 0})
    run_id: str = (result.structured_content or {})["run_id"]
    return run_id


class WatchedToolset(ScriptedToolset):
    """A toolset of servers that stand where it is told."""

    def states(self) -> Mapping[str, ServerState]:
        return {
            "clock": ServerState("ready", num_tools=2),
            "files": ServerState("failed", "ended with status 3"),
        }


@pytest.mark.parametrize("era", ERAS)
async def test_everything_is_listed_and_a_model_need_not_be_loaded_for_it(era: str) -> None:
    models = scripted_models(play(HELLO))
    async with connect(models, era=era) as client:
        resources = [one.uri for one in (await client.list_resources()).resources]
        templates = await client.list_resource_templates()
        assert resources == [
            "model://",
            "model://scripted",
            "runtime://status",
            "grammar://support",
        ]
        assert [one.uri_template for one in templates.resource_templates] == [
            "model://{name}",
            "run://{id}",
            "run://{id}/transcript",
            "vectors://{id}",
        ]
        unloaded = {
            "name": "scripted",
            "state": "not loaded",
            "note": "a call that names it loads it",
        }
        assert await read(client, "model://") == {"default": "scripted", "models": [unloaded]}
        assert await read(client, "model://scripted") == unloaded
        status = await read(client, "runtime://status")
        assert status.pop("uptime_s") >= 0
        assert status == {
            "calls": {"running": 0, "waiting": 0, "kept_runs": 0},
            "models": [],
            "tool_servers": [],
        }
    assert models.num_opened == 0


@pytest.mark.parametrize("era", ERAS)
async def test_a_loaded_model_is_described(era: str) -> None:
    async with connect(scripted_models(play(HELLO)), era=era) as client:
        await client.call_tool("generate", {"prompt": "a"})
        listed = await read(client, "model://")
        model = await read(client, "model://scripted")
        found = await client.read_resource("model://scripted")
    assert listed["models"] == [
        {
            "name": "scripted",
            "state": "loaded",
            "context_length": 8192,
            "weight_bytes": 3 << 20,
            "kv_bytes": 1 << 20,
        }
    ]
    assert model == {
        "name": "scripted",
        "state": "loaded",
        "modalities": ["text"],
        "architecture": "llama",
        "context_length": 8192,
        "trained_context_length": 32768,
        "num_layers": 2,
        "hidden_size": 64,
        "vocab_size": 501,
        "num_parameters": 1000,
        "quantisation": {"Q4_K": 500, "F32": 12},
        "device": "cpu",
        "weight_bytes": 3 << 20,
        "kv_bytes": 1 << 20,
        "can_embed": True,
        "template": {
            "wire_format": "hermes",
            "renders_tools": True,
            "renders_calls": True,
            "renders_system": True,
            "has_parallel_calls": True,
            "has_reasoning": False,
        },
    }
    if era != "legacy":
        assert (found.ttl_ms, found.cache_scope) == (60_000, "private")


@pytest.mark.parametrize("era", ERAS)
async def test_the_status_tells_of_calls_engines_and_tool_servers(era: str) -> None:
    tools = WatchedToolset(
        [(make_spec("clock__now", server="clock"), echo), (make_spec("other"), echo)]
    )
    script = play(HELLO, HANGS)
    async with connect(scripted_models(script), agent_over(tools, "clock"), era=era) as client:
        await client.call_tool("agent_run", {"task": "a"})
        run_id = await start_run(client)
        status = await read(client, "runtime://status")
    assert run_id
    assert status["calls"] == {"running": 1, "waiting": 0, "kept_runs": 1}
    assert status["models"] == [
        {
            "name": "scripted",
            "batch_size": 1,
            "queue_depth": 2,
            "tokens_per_s": 56.8,
            "generated_tokens": 1234,
            "preemptions": 0,
            "kv": {"used_tokens": 400, "all_tokens": 1600, "used_share": 0.25},
        }
    ]
    assert status["tool_servers"] == [
        {
            "name": "clock",
            "state": "ready",
            "tools": 2,
            "started": True,
            "restarts": 0,
            "definition_tokens": 10,
            "context_share": 0.0012,
        },
        {
            "name": "files",
            "state": "failed",
            "tools": 0,
            "started": True,
            "restarts": 0,
            "reason": "it ended with status 3",
        },
    ]
    assert status["definitions"] == {
        "tokens": 20,
        "context_share": 0.0024,
        "are_searched": False,
    }


@pytest.mark.parametrize("era", ERAS)
async def test_a_run_is_read_while_it_goes_on_and_once_it_has_ended(era: str) -> None:
    async with connect(scripted_models(play(HANGS)), era=era) as client:
        run_id = await start_run(client)
        uri = f"run://{run_id}"
        transcript: dict[str, Any] = {}
        while len(transcript.get("entries", ())) < 2:
            transcript = await read(client, uri + "/transcript")
        told = await read(client, uri)
        listed = {one.uri: one for one in (await client.list_resources()).resources}
        completed = await client.complete(
            t.ResourceTemplateReference(uri="run://{id}"), {"name": "id", "value": run_id[:3]}
        )
        await client.call_tool("run_result", {"run_id": run_id, "cancel": True})
        ended = await read(client, uri)
    assert told["tool"] == "generate"
    assert told["status"] == "running"
    assert told["progress"]["total"] == 256
    assert transcript["entries"][0] == {"role": "user", "text": "say hello"}
    assert transcript["entries"][1]["role"] == "assistant"
    assert "on ".startswith(transcript["entries"][1]["text"][:3])
    assert listed[uri].description == "A call of generate: running."
    assert completed.completion.values == [run_id]
    assert ended["status"] == "cancelled"


async def test_an_agents_transcript_has_its_calls_and_their_results() -> None:
    call = ToolCall("c1", "clock__now", {"zone": "UTC"})
    script = play(ScriptedTurn("let me look", calls=(call,)), ScriptedTurn("it is noon"), HANGS)
    tools = ScriptedToolset([(make_spec("clock__now", server="clock"), echo)])
    async with connect(scripted_models(script), agent_over(tools, "clock")) as client:
        result = await client.call_tool("agent_run", {"task": "time?", "wait_seconds": 0})
        run_id = (result.structured_content or {})["run_id"]
        while (told := await read(client, f"run://{run_id}"))["status"] == "running":
            await anyio.lowlevel.checkpoint()
        transcript = await read(client, f"run://{run_id}/transcript")
    assert told["result"]["answer"] == "it is noon"
    assert [{**entry} for entry in transcript["entries"] if entry["role"] != "system"] == [
        {"role": "user", "text": "time?"},
        {"role": "assistant", "text": "let me look"},
        {"role": "assistant", "call": {"name": "clock__now", "arguments": {"zone": "UTC"}}},
        transcript["entries"][3],
        {"role": "assistant", "text": "it is noon"},
    ]
    assert transcript["entries"][3]["role"] == "tool"
    assert transcript["is_cut"] is False


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("run://nobody", "no run has this id"),
        ("run://nobody/transcript", "no run has this id"),
        ("model://skripted", "no model is named 'skripted'; did you mean 'scripted'"),
        ("runtime://x", "no resource is at 'runtime://x'"),
    ],
)
async def test_what_is_not_there_is_a_wrong_parameter(era: str, uri: str, problem: str) -> None:
    async with connect(scripted_models(play(HELLO)), era=era) as client:
        with pytest.raises(MCPError, match=problem) as caught:
            await client.read_resource(uri)
    assert caught.value.error.code == t.INVALID_PARAMS


@pytest.mark.parametrize("era", ERAS)
async def test_a_run_is_shown_to_its_principal_alone(era: str) -> None:
    models = scripted_models(play(HANGS))
    async with (
        open_app(models, ["key-of-one-12345678", "key-of-two-12345678"]) as app,
        on_port(app) as url,
        connect_to(url, era, "key-of-one-12345678") as one,
        connect_to(url, era, "key-of-two-12345678") as two,
    ):
        uri = f"run://{await start_run(one)}"
        assert (await read(one, uri))["status"] == "running"
        assert uri in [resource.uri for resource in (await one.list_resources()).resources]
        assert uri not in [resource.uri for resource in (await two.list_resources()).resources]
        for foreign in (uri, uri + "/transcript"):
            with pytest.raises(MCPError, match="no run has this id"):
                await two.read_resource(foreign)
        run = t.ResourceTemplateReference(uri="run://{id}")
        completed = await two.complete(run, {"name": "id", "value": ""})
        assert completed.completion.values == []
        if era == "legacy":
            with (
                pytest.warns(match="removed as of 2026-07-28"),
                pytest.raises(MCPError, match="no run has this id"),
            ):
                await two.subscribe_resource(uri)
        else:
            async with two.listen(resource_subscriptions=[uri]) as stream:
                assert not stream.honored.resource_subscriptions


@asynccontextmanager
async def serve(models: ScriptedModels) -> AsyncIterator[ModelService]:
    with anyio.fail_after(5):
        async with open_service(["scripted"], models.opened, surface=Surface()) as service:
            yield service


async def test_a_subscriber_is_told_when_a_run_ends() -> None:
    models = scripted_models(play(HANGS))
    async with (
        serve(models) as service,
        Client(build_server(service, version="1")) as client,
        anyio.create_task_group() as group,
    ):
        run_id = await start_run(client)
        uri = f"run://{run_id}"
        async with client.listen(resource_subscriptions=[uri]) as stream:
            while (await read(client, uri))["progress"]["done"] < 2:
                await anyio.lowlevel.checkpoint()
            cancel = {"run_id": run_id, "cancel": True}
            group.start_soon(client.call_tool, "run_result", cancel)
            async for event in stream:
                assert event == ResourceUpdated(uri=uri)
                if (await read(client, uri))["status"] == "cancelled":
                    break


async def test_names_of_models_are_completed() -> None:
    async with connect(scripted_models(play(HELLO))) as client:
        model = t.ResourceTemplateReference(uri="model://{name}")
        found = await client.complete(model, {"name": "name", "value": "s"})
    assert found.completion.values == ["scripted"]


def test_instructions_are_short_and_name_only_what_is_there() -> None:
    assert len(INSTRUCTIONS.encode()) <= 2048
