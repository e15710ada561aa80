"""What the tests of OpenAI's Python client take to be there: made through the API, then renamed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx2
from starlette.types import ASGIApp, Receive, Scope, Send

from runtime.http_api.responses_store import KeptConversation, KeptResponse, Memory
from runtime.http_api.stored_chats import StoredChats
from tests.helpers.web_service import ServedApp
from tools.spec import JsonObject

NOBODY = ""
"""Who asks where no key is needed."""

AFTER = "after"
"""Of what all lists are asked to begin behind."""
CHATS = (AFTER, "completion_id")
CONVERSATION = "conv_123"
FINE_TUNED = "ft:gpt-4o-mini:acemeco:suffix:abc123"
RESPONSES = ("resp_677efb5139a88190b512bc3fef8e535d", "resp_123", "response_id")
ITEMS = (AFTER, "msg_abc")


class Seeds:
    """Stores of an application, and what must be in them whatever a test deleted."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.chats = StoredChats()
        self._responses: dict[str, KeptResponse] = {}
        self._conversations: dict[str, KeptConversation] = {}
        self._chats: dict[str, JsonObject] = {}
        self._told: list[JsonObject] = []

    async def grow(self, base_url: str) -> None:
        """Make one of each with a server that has these stores; from then on there are copies."""
        said = [{"role": "user", "content": text} for text in ("Hello.", "Hello?")]
        # The client's types say that stored messages are the assistant's only.
        told = [{"role": "assistant", "content": text} for text in ("Hello.", "Hello?")]
        stored = {"store": True, "metadata": {"foo": "string"}, "max_tokens": 8}
        streamed = {"background": True, "stream": True, "max_output_tokens": 16}
        async with httpx2.AsyncClient(base_url=base_url, timeout=60) as client:
            for path, body in (
                ("/chat/completions", {"model": "model", "messages": told, **stored}),
                ("/responses", {"input": said, **streamed}),
                ("/conversations", {"items": said}),
            ):
                answer = await client.post(path, json=body)
                assert answer.is_success, answer.text
        self._chats = {one: {**self.chats.list(NOBODY)[0], "id": one} for one in CHATS}
        self._told = [{"id": one, **told[0]} for one in ITEMS]
        response = next(self.memory.responses.of(NOBODY))
        self._responses = {one: _renamed(response, one) for one in RESPONSES}
        conversation = next(self.memory.conversations.of(NOBODY))
        items = _with_ids(conversation.items)
        kept = replace(conversation, conversation_id=CONVERSATION, items=items)
        self._conversations = {CONVERSATION: kept}

    def plant(self) -> None:
        """Put into the stores what must be in them."""
        for response_id, response in self._responses.items():
            self.memory.responses.put(NOBODY, response_id, replace(response))
        for conversation_id, conversation in self._conversations.items():
            self.memory.conversations.put(NOBODY, conversation_id, replace(conversation))
        there = {chat["id"] for chat in self.chats.list(NOBODY)}
        for chat_id in self._chats.keys() - there:
            self.chats.keep(NOBODY, self._chats[chat_id], self._told)

    def before_each(self, app: ServedApp) -> ASGIApp:
        """Plant before each request, and load the model that some of them delete."""

        async def seeded(scope: Scope, receive: Receive, send: Send) -> None:
            self.plant()
            async with app.service.models.hold(FINE_TUNED, lambda doing: None):
                pass
            await app.web.asgi(scope, receive, send)

        return seeded


def _renamed(kept: KeptResponse, response_id: str) -> KeptResponse:
    def rename(value: Any) -> Any:
        return json.loads(json.dumps(value).replace(kept.response["id"], response_id))

    items = _with_ids(kept.items)
    return replace(kept, response=rename(kept.response), items=items, events=rename(kept.events))


def _with_ids(items: list[JsonObject]) -> list[JsonObject]:
    return [{**item, "id": item_id} for item, item_id in zip(items, ITEMS, strict=True)]
