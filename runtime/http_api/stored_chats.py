"""Chat completions that were asked to be stored: kept in memory, for a while, for their caller.

Source: openai-openapi 2.3.0, `/chat/completions/{completion_id}` and its `messages`.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.http_api.body import read_body
from runtime.http_api.chat_shapes import UpdateRequest
from runtime.http_api.faults import Fault, FaultError, bad_request
from tools.spec import JsonObject

MAX_BYTES = 64 << 20
KEPT_S = 24 * 3600.0
DEFAULT_PAGE = 20
MAX_PAGE = 100

_METADATA = "metadata["


@dataclass(slots=True)
class _Kept:
    """A completion and the messages that it answers; `num_bytes` of JSON."""

    caller: str
    answer: JsonObject
    messages: Sequence[JsonObject]
    until: float
    num_bytes: int = 0


class StoredChats:
    """Keeps the newest completions; each belongs to its caller, and is nowhere to any other.

    Invariant: no more than `max_bytes` are kept; the oldest go first.
    """

    def __init__(
        self,
        *,
        max_bytes: int = MAX_BYTES,
        kept_s: float = KEPT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._kept_s = kept_s
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._num_bytes = 0

    def keep(self, caller: str, answer: JsonObject, messages: Sequence[JsonObject]) -> None:
        """Keep a completion by its id."""
        until = self._clock() + self._kept_s
        kept = self._kept[answer["id"]] = _Kept(caller, answer, messages, until)
        self._measure(kept)

    def find(self, caller: str, completion_id: str) -> JsonObject:
        """Return a completion.

        Raises:
            FaultError: the caller has none of this id, or not any more.
        """
        return self._find(caller, completion_id).answer

    def messages(self, caller: str, completion_id: str) -> Sequence[JsonObject]:
        """The messages that a completion answers; `find` says what goes wrong."""
        return self._find(caller, completion_id).messages

    def update(self, caller: str, completion_id: str, metadata: JsonObject) -> JsonObject:
        """Replace a completion's metadata and return it; `find` says what goes wrong."""
        kept = self._find(caller, completion_id)
        kept.answer = {**kept.answer, "metadata": metadata}
        self._measure(kept)
        return kept.answer

    def delete(self, caller: str, completion_id: str) -> None:
        """Forget a completion; `find` says what goes wrong."""
        self._find(caller, completion_id)
        self._drop(completion_id)

    def list(self, caller: str) -> list[JsonObject]:
        """A caller's completions, the oldest first."""
        self._expire()
        return [kept.answer for kept in self._kept.values() if kept.caller == caller]

    def _find(self, caller: str, completion_id: str) -> _Kept:
        self._expire()
        kept = self._kept.get(completion_id)
        if kept is None or kept.caller != caller:
            text = (
                f"no stored completion of yours has the id {completion_id!r}: it was not stored, "
                f"or is gone (after {self._kept_s / 3600:g} h, or when newer ones took its place)"
            )
            raise FaultError(Fault(404, "invalid_request_error", text, "not_found"))
        return kept

    def _measure(self, kept: _Kept) -> None:
        """Count what it takes, and make room for it."""
        self._num_bytes -= kept.num_bytes
        kept.num_bytes = len(json.dumps([kept.answer, kept.messages]))
        self._num_bytes += kept.num_bytes
        while self._num_bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def _expire(self) -> None:
        now = self._clock()
        while self._kept and next(iter(self._kept.values())).until <= now:
            self._drop(next(iter(self._kept)))

    def _drop(self, completion_id: str) -> None:
        self._num_bytes -= self._kept.pop(completion_id).num_bytes


class StoredChatRoutes:
    """Answers the routes under `/v1/chat/completions` that look at what is stored."""

    def __init__(self, store: StoredChats, caller_of: Callable[[Request], str]) -> None:
        self._store = store
        self._caller_of = caller_of

    async def list(self, request: Request) -> Response:
        found = self._store.list(self._caller_of(request))
        wanted = _filters(request)
        found = [one for one in found if _fits(one, wanted)]
        return JSONResponse(_page(request, found))

    async def show(self, request: Request) -> Response:
        return JSONResponse(self._store.find(self._caller_of(request), _id(request)))

    async def update(self, request: Request) -> Response:
        asked = await read_body(request, UpdateRequest)
        metadata = asked.metadata or {}
        return JSONResponse(self._store.update(self._caller_of(request), _id(request), metadata))

    async def delete(self, request: Request) -> Response:
        self._store.delete(self._caller_of(request), _id(request))
        kind = "chat.completion.deleted"
        return JSONResponse({"object": kind, "id": _id(request), "deleted": True})

    async def messages(self, request: Request) -> Response:
        messages = self._store.messages(self._caller_of(request), _id(request))
        found = [_write_message(f"{_id(request)}-{at}", one) for at, one in enumerate(messages)]
        return JSONResponse(_page(request, found))


def _write_message(message_id: str, message: JsonObject) -> JsonObject:
    """Write a message as it is listed: its text, and its parts where it was given in parts.

    Source: openai-openapi 2.3.0, `ChatCompletionMessageList`.
    """
    content = message.get("content")
    parts = content if isinstance(content, list) else None
    if parts is not None:
        content = "".join(part.get("text", "") for part in parts)
    fields = {"content": content, "content_parts": parts, "refusal": message.get("refusal")}
    return {"id": message_id, **message, **fields}


def _id(request: Request) -> str:
    completion_id: str = request.path_params["completion_id"]
    return completion_id


def _filters(request: Request) -> JsonObject:
    """What a listing is narrowed to: a model, and values of the metadata."""
    found: JsonObject = {"model": request.query_params.get("model"), "metadata": {}}
    for name, value in request.query_params.items():
        if name.startswith(_METADATA) and name.endswith("]"):
            found["metadata"][name[len(_METADATA) : -1]] = value
    return found


def _fits(answer: JsonObject, wanted: JsonObject) -> bool:
    is_of_model = wanted["model"] in {None, answer["model"]}
    return is_of_model and wanted["metadata"].items() <= answer["metadata"].items()


def _page(request: Request, found: list[JsonObject]) -> JsonObject:
    """A page of a list: `limit` items after the one of the id `after`, in an order.

    Raises:
        FaultError: a parameter of the query is wrong.
    """
    query = request.query_params
    order, limit, after = query.get("order", "asc"), query.get("limit", "0"), query.get("after")
    if order not in {"asc", "desc"}:
        raise bad_request("the order is asc or desc", "order")
    if not (limit.isascii() and limit.isdigit()):
        raise bad_request("the limit is a number", "limit")
    digits = limit.lstrip("0") or str(DEFAULT_PAGE)
    size = MAX_PAGE if len(digits) > 3 else min(int(digits), MAX_PAGE)
    if order == "desc":
        found = found[::-1]
    if after is not None:
        at = next((at for at, one in enumerate(found) if one["id"] == after), None)
        if at is None:
            raise bad_request(f"nothing in the list has the id {after!r}", "after")
        found = found[at + 1 :]
    page = found[:size]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(found) > size,
    }
