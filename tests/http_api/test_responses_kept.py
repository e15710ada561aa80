"""Responses that are kept, run in the background, or whose client leaves."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest

from runtime.chat.messages import Message
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import ServedApp, on_port, open_app
from tests.http_api.test_responses import HELLO, create, events_of, send

pytestmark = pytest.mark.anyio


async def test_a_conversation_goes_on_from_the_previous_response() -> None:
    models = scripted_models(play(ScriptedTurn("one"), ScriptedTurn("two")))
    async with open_app(models) as app:
        first = (await create(app, instructions="Be brief.")).json()
        second = (await create(app, input="more", previous_response_id=first["id"])).json()
        listed = await send(app, "GET", f"/v1/responses/{second['id']}/input_items?order=asc")
        page = await send(
            app,
            "GET",
            f"/v1/responses/{second['id']}/input_items?limit=1&after={first['output'][0]['id']}",
        )
        shown = await send(app, "GET", f"/v1/responses/{first['id']}")
    assert shown.json() == first
    assert models.model.asked[1].messages == (
        Message("user", "hello"),
        Message("assistant", "one"),
        Message("user", "more"),
    )
    items = listed.json()["data"]
    assert [item["content"][0]["text"] for item in items] == ["hello", "one", "more"]
    assert {name: page.json()[name] for name in ("data", "has_more")} == {
        "data": [items[0]],
        "has_more": False,
    }


async def test_what_is_not_stored_is_not_there() -> None:
    async with open_app(scripted_models(play(ScriptedTurn("x")))) as app:
        unstored = (await create(app, store=False)).json()
        missing = await send(app, "GET", f"/v1/responses/{unstored['id']}")
        stored = (await create(app)).json()
        deleted = await send(app, "DELETE", f"/v1/responses/{stored['id']}")
        gone = await send(app, "DELETE", f"/v1/responses/{stored['id']}")
        previous = await create(app, previous_response_id=stored["id"])
        referred = await create(app, input=[{"type": "item_reference", "id": "msg_1"}])
        conversation = await create(app, conversation="conv_1")
    assert unstored["store"] is False
    assert deleted.json() == {"id": stored["id"], "object": "response", "deleted": True}
    answers = (missing, gone, previous, referred, conversation)
    assert [answer.status_code for answer in answers] == [404] * 5
    assert previous.json()["error"]["code"] == "previous_response_not_found"


async def test_nobody_sees_what_another_principal_keeps() -> None:
    keys = ("key-of-alice-0001", "key-of-bobby-0002")
    models = scripted_models(play(ScriptedTurn("x")))
    async with open_app(models, keys) as app:
        kept = (await create(app, keys[0])).json()
        path = f"/v1/responses/{kept['id']}"
        own = await send(app, "GET", path, key=keys[0])
        foreign = [
            await send(app, "GET", path, key=keys[1]),
            await send(app, "DELETE", path, key=keys[1]),
            await send(app, "POST", f"{path}/cancel", key=keys[1]),
            await send(app, "GET", f"{path}/input_items", key=keys[1]),
            await create(app, keys[1], previous_response_id=kept["id"]),
            await create(app, keys[1], input=[{"id": kept["output"][0]["id"]}]),
        ]
        await create(app, keys[1])
    assert own.json() == kept
    assert len(models.model.callers) == len(set(models.model.callers)) == 2
    assert [answer.status_code for answer in foreign] == [404] * 6


async def test_items_are_found_again_by_reference() -> None:
    models = scripted_models(play(ScriptedTurn("one")))
    async with open_app(models) as app:
        first = (await create(app)).json()
        reference = {"type": "item_reference", "id": first["output"][0]["id"]}
        await create(app, input=[reference, {"role": "user", "content": "more"}])
    assert models.model.asked[1].messages == (Message("assistant", "one"), Message("user", "more"))


async def finished(app: ServedApp, response_id: str) -> dict[str, Any]:
    while True:
        body = (await send(app, "GET", f"/v1/responses/{response_id}")).json()
        if body["status"] not in {"queued", "in_progress"}:
            return dict(body)
        await anyio.lowlevel.checkpoint()


async def test_a_response_in_the_background_comes_about_by_itself() -> None:
    async with open_app(scripted_models(play(ScriptedTurn("one two")))) as app:
        begun = (await create(app, background=True)).json()
        body = await finished(app, begun["id"])
        unstreamed = await send(app, "GET", f"/v1/responses/{begun['id']}?stream=true")
    assert (begun["status"], begun["output"]) == ("queued", [])
    assert body["status"] == "completed"
    assert body["output"][0]["content"][0]["text"] == "one two"
    assert unstreamed.json()["error"]["param"] == "stream"


async def test_a_stream_in_the_background_is_read_again_from_any_event() -> None:
    async with open_app(scripted_models(play(ScriptedTurn("one two")))) as app:
        events = events_of(await create(app, background=True, stream=True))
        path = f"/v1/responses/{events[0]['response']['id']}?stream=true"
        again = events_of(await send(app, "GET", path))
        rest = await send(app, "GET", f"{path}&starting_after=4")
        whole = await send(app, "GET", path.replace("true", "false&starting_after=4"))
    types = [event["type"] for event in events]
    assert types[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert again == events
    assert json.loads(rest.text.split("\n")[1].removeprefix("data: ")) == events[5]
    assert whole.json() == events[-1]["response"]


async def test_a_background_response_survives_its_connection_and_is_cancelled_once() -> None:
    models = scripted_models(play(ScriptedTurn("some words", hangs=True)))
    async with (
        open_app(models) as app,
        on_port(app) as url,
        httpx2.AsyncClient(base_url=url.removesuffix("/mcp"), timeout=20) as client,
    ):
        body = {**HELLO, "background": True, "stream": True}
        async with client.stream("POST", "/v1/responses", json=body) as response:
            lines = response.aiter_lines()
            await anext(lines)
            begun = json.loads((await anext(lines)).removeprefix("data: "))["response"]
        while not models.model.num_open:
            await anyio.lowlevel.checkpoint()
        path = f"/v1/responses/{begun['id']}"
        waiting = (await client.get(path)).json()
        first = (await client.post(f"{path}/cancel")).json()
        num_open = models.model.num_open
        second = (await client.post(f"{path}/cancel")).json()
        events = events_of(await client.get(f"{path}?stream=true"))
        foreground = (await client.post("/v1/conversations", json={})).json()
    assert waiting["status"] == "in_progress"
    assert (first["status"], num_open) == ("cancelled", 0)
    assert first["output"][0]["content"][0]["text"] == "some words"
    assert second == first == events[-1]["response"]
    assert foreground["object"] == "conversation"


async def test_only_what_runs_in_the_background_is_cancelled() -> None:
    async with open_app(scripted_models(play(ScriptedTurn("x")))) as app:
        kept = (await create(app)).json()
        refused = await send(app, "POST", f"/v1/responses/{kept['id']}/cancel")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_id")


async def test_a_failure_in_the_background_is_what_became_of_it() -> None:
    async with open_app(scripted_models(play(ScriptedTurn(raises=ValueError("secret"))))) as app:
        begun = (await create(app, background=True)).json()
        body = await finished(app, begun["id"])
    assert (body["status"], body["error"]["code"]) == ("failed", "server_error")
    assert "secret" not in json.dumps(body)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_its_response(stream: bool) -> None:
    models = scripted_models(play(ScriptedTurn("some words", hangs=True)))
    async with open_app(models) as app, on_port(app) as url:
        async with httpx2.AsyncClient(base_url=url.removesuffix("/mcp"), timeout=20) as client:

            async def read() -> None:
                body = {**HELLO, "stream": stream}
                async with client.stream("POST", "/v1/responses", json=body) as response:
                    async for _ in response.aiter_lines():
                        pass

            async with anyio.create_task_group() as group:
                group.start_soon(read)
                while not models.model.num_open:
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
        with anyio.fail_after(5):
            while models.model.num_open:
                await anyio.lowlevel.checkpoint()
    assert len(models.model.asked) == 1
