"""Tests of the HTTP application with the SDK's client on a real port, both protocol eras."""

from __future__ import annotations

import json

import anyio
import mcp_types as t
import pytest
from mcp import Client, MCPError

from mcp_servers.model_server.admission import AdmissionLimits
from mcp_servers.model_server.resources import SUPPORT_URI
from tests.helpers.model_service import ERAS, ScriptedModels, scripted_models
from tests.helpers.scripted_chat_model import AskedTurn, ScriptedTurn, play
from tests.helpers.web_service import HEADERS, connect, on_port, open_app
from tools.spec import JsonObject

pytestmark = pytest.mark.anyio

ADA, BOB = "ada-0123456789abcdef", "bob-0123456789abcdef"
NUMBER: JsonObject = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
HANGS = ScriptedTurn("on and", hangs=True)
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


def structured(result: t.CallToolResult) -> JsonObject:
    assert not result.is_error, result.content
    return dict(result.structured_content or {})


def text_of(result: t.CallToolResult) -> str:
    assert isinstance(result.content[0], t.TextContent)
    return result.content[0].text


def answer(asked: AskedTurn) -> ScriptedTurn:
    """A number for a schema, otherwise the prompt again."""
    return ScriptedTurn('{"n": 3}' if asked.output else asked.messages[-1].content)


@pytest.mark.parametrize("era", ERAS)
async def test_every_tool_and_resource_is_there(era: str) -> None:
    models = scripted_models(answer, {"a": 0.25, "b": 0.75})
    async with open_app(models) as app, on_port(app) as url, connect(url, era) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        resources = [resource.uri for resource in (await client.list_resources()).resources]
        support = (await client.read_resource(SUPPORT_URI)).contents[0]
        said = structured(await client.call_tool("generate", {"prompt": "hello there"}))
        value = structured(
            await client.call_tool("extract", {"instructions": "?", "schema": NUMBER})
        )
        choice = structured(
            await client.call_tool("choose", {"question": "?", "options": ["a", "b"]})
        )
    assert tools == ["generate", "extract", "choose", "generate_batch", "embed", "run_result"]
    assert SUPPORT_URI in resources
    assert isinstance(support, t.TextResourceContents)
    assert "json_schema" in json.loads(support.text)
    assert (said["text"], value["value"], choice["choice"]) == ("hello there", {"n": 3}, "b")


@pytest.mark.parametrize("era", ERAS)
async def test_progress_arrives_and_cancelling_frees_the_run(era: str) -> None:
    models = scripted_models(play(HANGS))
    told: list[str | None] = []
    is_writing = anyio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)
        if message and "tok/s" in message:
            is_writing.set()

    async with open_app(models) as app, on_port(app) as url, connect(url, era) as client:
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                await client.call_tool("generate", {"prompt": "a"}, progress_callback=on_progress)

            group.start_soon(ask)
            await is_writing.wait()
            assert models.model.num_open == 1
            group.cancel_scope.cancel()
        await app.service.drain()  # ends once the run's place is free
        assert models.model.num_open == 0
    assert told[0] == "waiting for scripted"


@pytest.mark.parametrize("era", ERAS)
async def test_twenty_clients_at_once_each_get_their_own_answers(era: str) -> None:
    got: dict[str, str] = {}

    async def talk(url: str, name: int) -> None:
        async with connect(url, era) as client:
            for number in range(5):
                prompt = f"client {name} number {number}"
                result = await client.call_tool("generate", {"prompt": prompt})
                got[prompt] = structured(result)["text"]

    async with (
        open_app(scripted_models(answer)) as app,
        on_port(app) as url,
        anyio.create_task_group() as group,
    ):
        for name in range(20):
            group.start_soon(talk, url, name)
    assert len(got) == 100
    assert got == {prompt: prompt for prompt in got}


async def hand_out(client: Client) -> str:
    result = structured(await client.call_tool("generate", {"prompt": "a", "wait_seconds": 0}))
    assert result["status"] == "running"
    return str(result["run_id"])


async def take_up(client: Client, run_id: str) -> t.CallToolResult:
    return await client.call_tool("run_result", {"run_id": run_id, "wait_seconds": 0})


@pytest.mark.parametrize("era", ERAS)
async def test_run_outlives_its_connection_and_belongs_to_its_key(era: str) -> None:
    async with open_app(scripted_models(play(HANGS)), [ADA, BOB]) as app, on_port(app) as url:
        async with connect(url, era, ADA) as client:
            run_id = await hand_out(client)
        async with connect(url, era, BOB) as client:
            foreign = await take_up(client, run_id)
            unknown = await take_up(client, "none")
        async with connect(url, era, ADA) as client:
            own = structured(await take_up(client, run_id))
    assert foreign.is_error
    assert text_of(foreign) == text_of(unknown)
    assert own == {"status": "running", "run_id": run_id}


async def test_without_keys_a_run_belongs_to_its_session() -> None:
    async with (
        open_app(scripted_models(play(HANGS))) as app,
        on_port(app) as url,
        connect(url, "legacy") as one,
        connect(url, "legacy") as other,
        connect(url, "2026-07-28") as modern,
    ):
        run_id = await hand_out(one)
        assert structured(await take_up(one, run_id))["status"] == "running"
        assert (await take_up(other, run_id)).is_error
        assert (await take_up(modern, run_id)).is_error


async def test_session_cannot_be_entered_with_another_key() -> None:
    async with open_app(scripted_models(play(HANGS)), [ADA, BOB]) as app:
        body = json.dumps(INITIALIZE).encode()
        own = {**HEADERS, "authorization": f"Bearer {ADA}"}
        opened = await app.request("POST", "/mcp", own, body)
        session = {"mcp-session-id": opened.headers["mcp-session-id"]}
        ping = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "ping"}).encode()
        foreign = {**HEADERS, **session, "authorization": f"Bearer {BOB}"}
        refused = await app.request("POST", "/mcp", foreign, ping)
        answered = await app.request("POST", "/mcp", {**own, **session}, ping)
    assert (opened.status_code, refused.status_code, answered.status_code) == (200, 404, 200)


@pytest.mark.parametrize("era", ERAS)
async def test_full_queue_is_an_error_that_says_when_to_come_back(era: str) -> None:
    limits = AdmissionLimits(max_running=1, max_waiting=1, max_running_each=1, max_waiting_each=1)
    models = scripted_models(play(HANGS))
    async with (
        open_app(models, limits=limits) as app,
        on_port(app) as url,
        connect(url, era) as client,
    ):
        await hand_out(client)
        await hand_out(client)
        result = await client.call_tool("generate", {"prompt": "a"})
    assert result.is_error
    assert text_of(result) == (
        "1 your calls are running and 1 wait, as many as may; try again in 5 s"
    )


async def test_draining_refuses_new_runs_and_still_gives_results() -> None:
    models = scripted_models(play(HANGS))
    async with open_app(models) as app, on_port(app) as url, connect(url, "legacy") as client:
        run_id = await hand_out(client)
        async with anyio.create_task_group() as group:
            group.start_soon(app.service.drain)
            refused = await client.call_tool("generate", {"prompt": "a"})
            assert structured(await take_up(client, run_id))["status"] == "running"
            await client.call_tool("run_result", {"run_id": run_id, "cancel": True})
    assert text_of(refused) == "the server is shutting down; try again when it is back"


async def test_ready_says_what_the_server_waits_for_and_health_is_always_well() -> None:
    statuses = iter(["loading", "ready", "draining"])
    seen = []
    models: ScriptedModels = scripted_models(play(HANGS))
    async with open_app(models, readiness=lambda: next(statuses)) as app:
        for _ in range(3):
            ready = await app.request("GET", "/ready", HEADERS)
            seen.append((ready.status_code, ready.json(), ready.headers.get("retry-after")))
        health = await app.request("GET", "/health", HEADERS)
    assert seen == [
        (503, {"status": "loading"}, "2"),
        (200, {"status": "ready"}, None),
        (503, {"status": "draining"}, "2"),
    ]
    assert (health.status_code, health.json()) == (200, {"status": "ok"})


async def test_readiness_follows_the_default_model() -> None:
    loaded = anyio.Event()
    models = scripted_models(play(HANGS))
    models.loaded = loaded
    async with open_app(models) as app, anyio.create_task_group() as group:
        group.start_soon(app.service.prepare)
        assert (await app.request("GET", "/ready", HEADERS)).json() == {"status": "loading"}
        loaded.set()
        await anyio.wait_all_tasks_blocked()
        assert (await app.request("GET", "/ready", HEADERS)).json() == {"status": "ready"}


@pytest.mark.parametrize("era", ERAS)
async def test_wrong_key_does_not_connect(era: str) -> None:
    async with open_app(scripted_models(play(HANGS)), [ADA]) as app, on_port(app) as url:
        with pytest.RaisesGroup(
            pytest.RaisesExc(MCPError), flatten_subgroups=True, allow_unwrapped=True
        ):
            async with connect(url, era, BOB) as client:
                await client.list_tools()
