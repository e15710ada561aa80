"""The routes of conversations: lists of items that responses go on with.

Source: openai-openapi 2.3.0, `/conversations`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.http_api.body import read_body
from runtime.http_api.chat_shapes import Shape
from runtime.http_api.faults import Fault, FaultError, bad_request
from runtime.http_api.responses_items import AnyItem, ReferenceItem, write_item
from runtime.http_api.responses_pages import check_query, write_page
from runtime.http_api.responses_shapes import Metadata
from runtime.http_api.responses_store import KeptConversation, Memory
from runtime.http_api.routes import route
from tools.spec import JsonObject

MAX_NEW_ITEMS = 20

NewItems = Annotated[list[AnyItem], Field(max_length=MAX_NEW_ITEMS)]


class NewConversation(Shape):
    """The body of `POST /v1/conversations`."""

    items: NewItems | None = None
    metadata: Metadata | None = None


class ChangedConversation(Shape):
    """The body of `POST /v1/conversations/{id}`."""

    metadata: Metadata | None


class AddedItems(Shape):
    """The body of `POST /v1/conversations/{id}/items`."""

    items: NewItems


def conversation_routes(caller_of: Callable[[Request], str], memory: Memory) -> list[Route]:
    """Return the routes of conversations; `caller_of` names who sent a request."""
    api = _Conversations(caller_of, memory)
    one = "/v1/conversations/{conversation_id}"
    return [
        route("/v1/conversations", POST=api.create),
        route(one, GET=api.show, POST=api.change, DELETE=api.delete),
        route(f"{one}/items", GET=api.list_items, POST=api.add_items),
        route(f"{one}/items/{{item_id}}", GET=api.show_item, DELETE=api.delete_item),
    ]


class _Conversations:
    def __init__(self, caller_of: Callable[[Request], str], memory: Memory) -> None:
        self._caller_of = caller_of
        self._memory = memory

    async def create(self, request: Request) -> Response:
        body = await read_body(request, NewConversation)
        conversation_id = f"conv_{secrets.token_hex(24)}"
        made = KeptConversation(conversation_id, int(time.time()), body.metadata or {}, [])
        made.add(_written(body.items or []))
        self._memory.conversations.put(self._caller_of(request), conversation_id, made)
        return JSONResponse(_write(made))

    async def show(self, request: Request) -> Response:
        return JSONResponse(_write(self._find(request)))

    async def change(self, request: Request) -> Response:
        body = await read_body(request, ChangedConversation)
        found = self._find(request)
        found.metadata = body.metadata or {}
        self._renew(request, found)
        return JSONResponse(_write(found))

    async def delete(self, request: Request) -> Response:
        found = self._find(request)
        self._memory.conversations.remove(self._caller_of(request), found.conversation_id)
        kind = "conversation.deleted"
        return JSONResponse({"id": found.conversation_id, "object": kind, "deleted": True})

    async def list_items(self, request: Request) -> Response:
        return JSONResponse(write_page(self._find(request).items, request.query_params))

    async def add_items(self, request: Request) -> Response:
        check_query(request.query_params, set())
        body = await read_body(request, AddedItems)
        found = self._find(request)
        added = _written(body.items)
        found.add(added)
        self._renew(request, found)
        return JSONResponse(
            {
                "object": "list",
                "data": added,
                "first_id": added[0]["id"] if added else "",
                "last_id": added[-1]["id"] if added else "",
                "has_more": False,
            }
        )

    async def show_item(self, request: Request) -> Response:
        check_query(request.query_params, set())
        return JSONResponse(_item(self._find(request), request))

    async def delete_item(self, request: Request) -> Response:
        found = self._find(request)
        item = _item(found, request)
        found.items = [one for one in found.items if one is not item]
        found.add([])
        return JSONResponse(_write(found))

    def _find(self, request: Request) -> KeptConversation:
        conversation_id = request.path_params["conversation_id"]
        return self._memory.conversations.get(self._caller_of(request), conversation_id)

    def _renew(self, request: Request, changed: KeptConversation) -> None:
        principal = self._caller_of(request)
        self._memory.conversations.renew(principal, changed.conversation_id)


def _item(conversation: KeptConversation, request: Request) -> JsonObject:
    item_id = request.path_params["item_id"]
    for item in conversation.items:
        if item["id"] == item_id:
            return item
    text = f"Item with id {item_id[:80]!r} not found."
    raise FaultError(Fault(404, "invalid_request_error", text, "not_found"))


def _written(items: list[AnyItem]) -> list[JsonObject]:
    for at, item in enumerate(items):
        if isinstance(item, ReferenceItem):
            raise bad_request("an item is given whole here", f"items[{at}]")
    return [write_item(item) for item in items]


def _write(conversation: KeptConversation) -> JsonObject:
    return {
        "id": conversation.conversation_id,
        "object": "conversation",
        "created_at": conversation.created_at,
        "metadata": conversation.metadata,
    }
