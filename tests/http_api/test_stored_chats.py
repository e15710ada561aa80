"""Chat completions that were asked to be stored, for their caller and for a while."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from runtime.http_api.faults import FaultError
from runtime.http_api.stored_chats import StoredChats
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import ServedApp, open_app
from tests.http_api.test_chat import HELLO as ASKED
from tests.http_api.test_chat import chunks_of

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"
HELLO: dict[str, Any] = {**ASKED}


async def send(
    app: ServedApp, method: str, path: str, key: str = "", **body: Any
) -> httpx2.Response:
    headers = {"host": "127.0.0.1", "content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    return await app.request(method, path, headers, json.dumps(body).encode() if body else b"")


async def test_a_stored_completion_is_shown_changed_listed_and_forgotten() -> None:
    async with open_app(scripted_models(play(ScriptedTurn("Hi.")))) as app:
        plain = (await send(app, "POST", PATH, **HELLO)).json()
        made = [
            (await send(app, "POST", PATH, **HELLO, store=True, metadata={"at": at})).json()
            for at in "abc"
        ]
        paths = [f"{PATH}/{one['id']}" for one in made]
        assert (await send(app, "GET", f"{PATH}/{plain['id']}")).status_code == 404
        assert (await send(app, "GET", paths[0])).json() == made[0]
        messages = (await send(app, "GET", f"{paths[0]}/messages")).json()
        listed = {"id": f"{made[0]['id']}-0", "content_parts": None, "refusal": None}
        assert messages["data"] == [{**listed, **HELLO["messages"][0]}]
        changed = (await send(app, "POST", paths[0], metadata={"at": "z"})).json()
        assert changed == {**made[0], "metadata": {"at": "z"}}
        page = (await send(app, "GET", f"{PATH}?limit=2")).json()
        assert page == {
            "object": "list",
            "data": [changed, made[1]],
            "first_id": made[0]["id"],
            "last_id": made[1]["id"],
            "has_more": True,
        }
        rest = (await send(app, "GET", f"{PATH}?order=desc&after={made[2]['id']}")).json()
        assert rest["data"] == [made[1], changed]
        some = (await send(app, "GET", f"{PATH}?metadata[at]=b&model=scripted")).json()
        assert some["data"] == [made[1]]
        assert (await send(app, "GET", f"{PATH}?model=other")).json()["data"] == []
        gone = (await send(app, "DELETE", paths[0])).json()
        assert gone == {"object": "chat.completion.deleted", "id": made[0]["id"], "deleted": True}
        assert (await send(app, "GET", paths[0])).status_code == 404
        assert (await send(app, "DELETE", paths[0])).status_code == 404


async def test_a_message_given_in_parts_is_listed_as_text_and_as_parts() -> None:
    parts = [{"type": "text", "text": text} for text in ("one ", "two")]
    body = {**HELLO, "store": True, "messages": [{"role": "user", "content": parts}]}
    async with open_app(scripted_models(play(ScriptedTurn("Hi.")))) as app:
        made = (await send(app, "POST", PATH, **body)).json()
        messages = (await send(app, "GET", f"{PATH}/{made['id']}/messages")).json()["data"]
    assert [(one["content"], one["content_parts"]) for one in messages] == [("one two", parts)]


@pytest.mark.parametrize("query", ["limit=x", "order=up", "after=none"])
async def test_a_wrong_query_is_refused_by_its_name(query: str) -> None:
    async with open_app(scripted_models(play(ScriptedTurn("Hi.")))) as app:
        response = await send(app, "GET", f"{PATH}?{query}")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == query.partition("=")[0]


async def test_a_stream_is_stored_whole() -> None:
    async with open_app(scripted_models(play(ScriptedTurn("one two")))) as app:
        response = await send(app, "POST", PATH, **HELLO, store=True, stream=True)
        stored = (await send(app, "GET", f"{PATH}/{chunks_of(response)[0]['id']}")).json()
    assert stored["choices"][0]["message"]["content"] == "one two"


async def test_nobody_sees_what_another_caller_stored() -> None:
    keys = ["a" * 32, "b" * 32]
    async with open_app(scripted_models(play(ScriptedTurn("Hi."))), keys) as app:
        made = (await send(app, "POST", PATH, keys[0], **HELLO, store=True)).json()
        path = f"{PATH}/{made['id']}"
        assert (await send(app, "GET", path, keys[1])).status_code == 404
        assert (await send(app, "DELETE", path, keys[1])).status_code == 404
        assert (await send(app, "GET", PATH, keys[1])).json()["data"] == []
        assert (await send(app, "GET", path, keys[0])).json() == made


def test_the_store_forgets_the_oldest_and_what_is_too_old() -> None:
    now = [0.0]
    store = StoredChats(max_bytes=250, kept_s=10, clock=lambda: now[0])
    for at in range(4):
        store.keep("me", {"id": f"c{at}", "text": "x" * 50}, [])
    assert [one["id"] for one in store.list("me")] == ["c1", "c2", "c3"]
    now[0] = 9.0
    store.keep("me", {"id": "late"}, [])
    now[0] = 10.0
    assert [one["id"] for one in store.list("me")] == ["late"]
    with pytest.raises(FaultError, match="c3"):
        store.find("me", "c3")
