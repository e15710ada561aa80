"""Loading and unloading models, by tools and by OpenAI's `DELETE`; the list of tools follows."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import httpx2
import mcp_types as t
import pytest
from mcp import Client, MCPError
from mcp.client.subscriptions import ToolsListChanged

from mcp_servers.model_server.server import build_server
from mcp_servers.model_server.service import open_service
from mcp_servers.model_server.tools import Surface
from tests.helpers.model_service import ERAS, ScriptedModels, connect, scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import HEADERS, on_port, open_app
from tests.helpers.web_service import connect as connect_to

pytestmark = pytest.mark.anyio
ADMIN = Surface(loadable=("scripted", "other"))
MEMORY = 4 << 20


def two_models(turn: ScriptedTurn | None = None) -> ScriptedModels:
    models = scripted_models(play(turn or ScriptedTurn("hi")))
    models.others = ("other",)
    return models


async def models_of(client: Client) -> list[str]:
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    names: list[str] = tools["generate"].input_schema["properties"]["model"]["enum"]
    return names


def text_of(result: t.CallToolResult) -> str:
    assert isinstance(result.content[0], t.TextContent)
    return result.content[0].text


async def test_admin_tools_are_offered_only_to_an_operator_who_asked() -> None:
    async with connect(two_models()) as client:
        with pytest.raises(MCPError, match="no tool is named 'model_load'"):
            await client.call_tool("model_load", {"model": "other"})


@pytest.mark.parametrize("era", ERAS)
async def test_a_loaded_model_can_be_named_until_it_is_unloaded(era: str) -> None:
    models = two_models()
    async with connect(models, era=era, surface=ADMIN) as client:
        assert await models_of(client) == ["scripted"]
        loaded = await client.call_tool("model_load", {"model": "other"})
        assert loaded.structured_content == {
            "status": "done",
            "model": "other",
            "state": "loaded",
            "memory_bytes": MEMORY,
        }
        assert text_of(loaded) == "other is loaded (4 MiB)"
        assert await models_of(client) == ["scripted", "other"]
        used = await client.call_tool("generate", {"prompt": "a", "model": "other"})
        assert (used.structured_content or {})["model"] == "other"
        unloaded = await client.call_tool("model_unload", {"model": "other"})
        assert unloaded.structured_content == {
            "model": "other",
            "state": "unloaded",
            "memory_bytes": MEMORY,
        }
        assert await models_of(client) == ["scripted"]
        refused = await client.call_tool("generate", {"prompt": "a", "model": "other"})
        assert refused.is_error


async def test_the_default_model_is_loaded_again_when_it_is_used() -> None:
    models = two_models()
    async with connect(models, surface=ADMIN) as client:
        await client.call_tool("generate", {"prompt": "a"})
        await client.call_tool("model_unload", {"model": "scripted"})
        assert not models.kept
        again = await client.call_tool("model_unload", {"model": "scripted"})
        assert text_of(again) == "model 'scripted' is not loaded, so it takes no memory"
        assert not (await client.call_tool("generate", {"prompt": "a"})).is_error
        assert models.names == ("scripted",)


async def test_a_model_in_use_is_kept_and_then_waited_for() -> None:
    models = two_models(ScriptedTurn("on", hangs=True))
    async with connect(models, surface=ADMIN) as client, anyio.create_task_group() as group:
        started = await client.call_tool("generate", {"prompt": "a", "wait_seconds": 0})
        run_id = (started.structured_content or {})["run_id"]
        while not models.model.num_open and not any(one.num_open for one in models.kept.values()):
            await anyio.lowlevel.checkpoint()
        refused = await client.call_tool("model_unload", {"model": "scripted"})
        assert refused.is_error
        assert text_of(refused).startswith("1 calls use model 'scripted'")
        results: list[t.CallToolResult] = []

        async def unload() -> None:
            arguments = {"model": "scripted", "wait_seconds": 60}
            results.append(await client.call_tool("model_unload", arguments))

        group.start_soon(unload)
        busy = await client.call_tool("generate", {"prompt": "b", "wait_seconds": 0})
        while not busy.is_error:
            handle = (busy.structured_content or {})["run_id"]
            await client.call_tool("run_result", {"run_id": handle, "cancel": True})
            busy = await client.call_tool("generate", {"prompt": "b", "wait_seconds": 0.01})
        assert text_of(busy) == "model 'scripted' is being unloaded; try again in a moment"
        assert models.names == ("scripted",)
        await client.call_tool("run_result", {"run_id": run_id, "cancel": True})
    assert (results[0].structured_content or {})["state"] == "unloaded"
    assert not models.kept


async def test_clients_of_both_eras_are_told_of_other_tools() -> None:
    models, heard = two_models(), anyio.Event()

    async def hear(message: object) -> None:
        if isinstance(message, t.ToolListChangedNotification):
            heard.set()

    with anyio.fail_after(5):
        async with open_service(["scripted"], models.opened, surface=ADMIN) as service:
            server = build_server(service, version="1")
            async with (
                Client(server, mode="legacy", message_handler=hear) as old,
                Client(server) as new,
                new.listen(tools_list_changed=True) as stream,
            ):
                capabilities = old.server_capabilities
                assert capabilities is not None
                assert capabilities.tools is not None
                assert capabilities.tools.list_changed is True
                await old.call_tool("model_load", {"model": "other"})
                await heard.wait()
                async for event in stream:
                    assert event == ToolsListChanged()
                    break


async def test_clients_over_http_are_told_of_what_another_one_loads() -> None:
    heard = anyio.Event()

    async def hear(message: object) -> None:
        if isinstance(message, t.ToolListChangedNotification):
            heard.set()

    async with (
        open_app(two_models(), surface=ADMIN) as app,
        on_port(app) as url,
        connect_to(url, "legacy", message_handler=hear) as old,
        connect_to(url, "2026-07-28") as new,
        connect_to(url, "2026-07-28") as operator,
        new.listen(tools_list_changed=True) as stream,
    ):
        assert await models_of(old) == ["scripted"]
        await operator.call_tool("model_load", {"model": "other"})
        await heard.wait()
        async for event in stream:
            assert event == ToolsListChanged()
            break
        assert await models_of(old) == ["scripted", "other"]


async def test_two_models_that_are_waited_for_at_once_are_both_unloaded() -> None:
    models, results = two_models(ScriptedTurn("on", hangs=True)), list[t.CallToolResult]()
    async with connect(models, surface=ADMIN) as client:
        await client.call_tool("model_load", {"model": "other"})
        run_ids = []
        for name in ("scripted", "other"):
            arguments = {"prompt": "a", "model": name, "wait_seconds": 0}
            started = await client.call_tool("generate", arguments)
            run_ids.append((started.structured_content or {})["run_id"])
        while sum(one.num_open for one in models.kept.values()) < 2:
            await anyio.lowlevel.checkpoint()

        async def unload(name: str) -> None:
            arguments = {"model": name, "wait_seconds": 60}
            results.append(await client.call_tool("model_unload", arguments))

        async with anyio.create_task_group() as group:
            for name in ("scripted", "other"):
                group.start_soon(unload, name)
            for _ in range(100):  # both wait by then; were one not to, the test would still hold
                await anyio.lowlevel.checkpoint()
            for run_id in run_ids:
                await client.call_tool("run_result", {"run_id": run_id, "cancel": True})
    assert [(one.structured_content or {})["state"] for one in results] == 2 * ["unloaded"]
    assert not models.kept


async def test_a_client_of_openai_deletes_a_model_from_memory() -> None:
    async def send(method: str, name: str) -> httpx2.Response:
        return await app.request(method, f"/v1/models/{name}", HEADERS)

    models = two_models()
    async with open_app(models, surface=ADMIN) as app:
        async with app.service.models.hold("other", lambda doing: None):
            in_use = await send("DELETE", "other")
        shown = await send("GET", "other")
        deleted = await send("DELETE", "other")
        gone = await send("GET", "other")
        again = await send("DELETE", "other")
    assert (in_use.status_code, in_use.headers["x-should-retry"]) == (429, "true")
    assert in_use.json()["error"]["message"].startswith("1 calls use model 'other'")
    assert shown.status_code == 200
    assert deleted.json() == {"id": "other", "object": "model", "deleted": True}
    assert gone.status_code == again.status_code == 404
    assert again.json()["error"]["code"] == "model_not_found"
    assert not models.kept


async def test_no_client_deletes_models_unless_the_operator_lets_them() -> None:
    models = two_models()
    async with open_app(models) as app:
        await app.service.prepare()
        refused = await app.request("DELETE", "/v1/models/scripted", HEADERS)
    assert refused.status_code == 403
    assert refused.json()["error"]["message"].endswith("was started without --admin")
    assert models.names == ("scripted",)
