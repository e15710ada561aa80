"""What is kept of responses: for how long, how much, and conversations."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from runtime.chat.messages import Message
from runtime.http_api.faults import FaultError
from runtime.http_api.responses_store import Shelf
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import open_app
from tests.http_api.test_responses import create, send

KEYS = ("key-of-alice-0001", "key-of-bobby-0002")


@dataclass
class Thing:
    num_bytes: int = 1
    is_busy: bool = False


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def has(shelf: Shelf[Thing], item_id: str) -> bool:
    try:
        shelf.get("p", item_id)
    except FaultError as exc:
        return exc.fault.status != 404
    return True


def test_things_are_forgotten_when_their_time_is_over() -> None:
    clock = Clock()
    shelf: Shelf[Thing] = Shelf("Thing", keep_s=10, clock=clock)
    shelf.put("p", "a", Thing())
    clock.now = 6
    shelf.put("p", "b", Thing())
    clock.now = 10
    assert (has(shelf, "a"), has(shelf, "b")) == (True, True)
    clock.now = 11
    assert (has(shelf, "a"), has(shelf, "b")) == (False, True)


def test_the_oldest_go_when_they_are_too_many_or_too_large_and_busy_ones_stay() -> None:
    shelf: Shelf[Thing] = Shelf("Thing", max_kept=3, max_bytes=10)
    for name in "abcd":
        shelf.put("p", name, Thing(is_busy=name == "a"))
    assert [has(shelf, name) for name in "abcd"] == [True, False, True, True]
    shelf.put("p", "e", Thing(num_bytes=9))
    assert [has(shelf, name) for name in "acde"] == [True, False, False, True]
    shelf.put("p", "f", Thing(num_bytes=11))
    assert [has(shelf, name) for name in "aef"] == [True, False, False]


@pytest.mark.anyio
async def test_a_conversation_takes_in_what_responses_add_to_it() -> None:
    models = scripted_models(play(ScriptedTurn("one"), ScriptedTurn("two")))
    start = {"items": [{"role": "system", "content": "Be brief."}], "metadata": {"k": "v"}}
    async with open_app(models) as app:
        made = (await send(app, "POST", "/v1/conversations", start)).json()
        path = f"/v1/conversations/{made['id']}"
        first = (await create(app, conversation=made["id"])).json()
        await create(app, conversation={"id": made["id"]}, input="more", store=False)
        listed = (await send(app, "GET", f"{path}/items?order=asc&limit=3")).json()
        item = await send(app, "GET", f"{path}/items/{listed['data'][0]['id']}")
        deleted = await send(app, "DELETE", f"{path}/items/{listed['data'][0]['id']}")
        changed = await send(app, "POST", path, {"metadata": {"k": "w"}})
        added = await send(
            app, "POST", f"{path}/items", {"items": [{"role": "user", "content": "!"}]}
        )
        left = (await send(app, "GET", f"{path}/items")).json()
        gone = await send(app, "DELETE", path)
        missing = await send(app, "GET", path)
    assert made == {**deleted.json()}
    assert made["metadata"] == {"k": "v"}
    assert changed.json() == {**made, "metadata": {"k": "w"}}
    assert first["conversation"] == {"id": made["id"]}
    assert models.model.asked[1].messages == (
        Message("system", "Be brief."),
        Message("user", "hello"),
        Message("assistant", "one"),
        Message("user", "more"),
    )
    assert listed["has_more"] is True
    assert item.json() == listed["data"][0]
    assert added.json()["data"] == left["data"][:1]
    assert [one["content"][0]["text"] for one in left["data"]] == [
        "!",
        "two",
        "more",
        "one",
        "hello",
    ]
    assert gone.json() == {"id": made["id"], "object": "conversation.deleted", "deleted": True}
    assert missing.status_code == 404


@pytest.mark.anyio
async def test_a_response_in_the_background_adds_to_its_conversation() -> None:
    async with open_app(scripted_models(play(ScriptedTurn("one")))) as app:
        made = (await send(app, "POST", "/v1/conversations", {})).json()
        await create(app, conversation=made["id"], background=True, stream=True)
        left = (await send(app, "GET", f"/v1/conversations/{made['id']}/items")).json()
    assert [one["content"][0]["text"] for one in left["data"]] == ["one", "hello"]


@pytest.mark.anyio
async def test_conversations_belong_to_one_principal_and_refuse_what_is_wrong() -> None:
    async with open_app(scripted_models(play(ScriptedTurn("one"))), KEYS) as app:
        made = (await send(app, "POST", "/v1/conversations", {}, KEYS[0])).json()
        path = f"/v1/conversations/{made['id']}"
        foreign = [
            await send(app, "GET", path, key=KEYS[1]),
            await send(app, "DELETE", path, key=KEYS[1]),
            await send(app, "GET", f"{path}/items", key=KEYS[1]),
            await send(app, "POST", f"{path}/items", {"items": []}, KEYS[1]),
            await create(app, KEYS[1], conversation=made["id"]),
        ]
        wrong = {
            f"{path}/items?limit=0": "limit",
            f"{path}/items?order=up": "order",
            f"{path}/items?after=msg_1": "after",
            f"{path}/items?include=nothing": "include",
            f"{path}/items?page=2": "page",
        }
        refused = {target: await send(app, "GET", target, key=KEYS[0]) for target in wrong}
        many = {"items": [{"role": "user", "content": "x"}] * 21}
        too_many = await send(app, "POST", f"{path}/items", many, KEYS[0])
    assert [answer.status_code for answer in foreign] == [404] * 5
    assert {key: value.json()["error"]["param"] for key, value in refused.items()} == wrong
    assert too_many.json()["error"]["param"] == "items"
