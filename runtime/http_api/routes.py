"""The routes of OpenAI's API that we answer; who is let in is known already.

A client that leaves, while it waits or while it reads, aborts its turns.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from typing import Literal, Protocol, Self

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.chat.messages import ChatEvent, Message, ToolChoice, TurnEnd
from runtime.chat.model import Output
from runtime.chat.prompt_length import check_length
from runtime.engine.embedding import Vectors
from runtime.http_api.at_once import all_at_once
from runtime.http_api.body import read_body
from runtime.http_api.chat_answer import (
    ChunkWriter,
    Header,
    write_completion,
    write_totals,
    write_usage,
)
from runtime.http_api.chat_request import ChatTurn, read_chat
from runtime.http_api.chat_shapes import ChatRequest
from runtime.http_api.event_stream import Emit, EventStream, unless_gone
from runtime.http_api.faults import Fault, FaultError, fault_of
from runtime.http_api.stored_chats import StoredChatRoutes, StoredChats
from runtime.request import GenerateRequest, SamplingParams, TokenChunk
from runtime.tokenizer.tokenizer import Tokenizer
from tools.spec import JsonObject, ToolSpec

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")


class Model(Protocol):
    """What the API needs of a loaded model; `ChatModel` is one."""

    @property
    def context_length(self) -> int: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def for_caller(self, caller: str) -> Self: ...

    def complete(
        self, request: GenerateRequest, output: Output | None = None
    ) -> AsyncGenerator[TokenChunk]: ...

    async def count_tokens(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        thinks: bool | None = None,
    ) -> int: ...

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        thinks: bool | None = None,
    ) -> Sequence[int]: ...

    async def embed(self, texts: Sequence[str | Sequence[int]]) -> tuple[Vectors, int]: ...

    def stream(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec],
        tool_choice: ToolChoice,
        output: Output | None,
        sampling: SamplingParams,
        thinks: bool | None,
        admitted: Sequence[ToolSpec] = (),
        tells_start: bool = False,
    ) -> AsyncGenerator[ChatEvent]: ...


class Backend(Protocol):
    """What answers: the models, and who may use them now."""

    @property
    def model_names(self) -> Sequence[str]: ...

    def has_model(self, name: str) -> bool:
        """Whether `hold_model` finds one by this name."""
        ...

    def hold_model(self, name: str) -> AbstractAsyncContextManager[Model]:
        """Wait for a model; it stays loaded meanwhile.

        Raises:
            UnknownModelError: there is none of that name.
            ZondaError: it cannot be loaded.
        """
        ...

    async def unload_model(self, name: str) -> None:
        """Give back the memory of a model that nobody uses.

        Raises:
            FaultError: clients of this server may not do that.
            UnknownModelError: no model of that name is loaded.
            CapacityError: somebody uses it.
        """
        ...

    def check_queue(self, caller: str) -> None:
        """Refuse a caller who would get no place now, before their request is read.

        Raises:
            CapacityError, UnavailableError: as `turn`.
        """
        ...

    def turn(self, caller: str, within_s: float | None = None) -> AbstractAsyncContextManager[None]:
        """Wait for a place among those who run, at most that long, and keep it.

        Raises:
            CapacityError: the queue is full, or none became free in time; the message says
                when to try again.
            UnavailableError: the server is shutting down.
        """
        ...


Answer = Callable[[Request], Awaitable[Response]]


def openai_routes(
    backend: Backend, caller_of: Callable[[Request], str], store: StoredChats
) -> list[Route]:
    """Return the routes under `/v1`; `caller_of` names who sent a request."""
    api = _Api(backend, caller_of, store)
    stored = StoredChatRoutes(store, caller_of)
    one = "/v1/chat/completions/{completion_id}"
    return [
        route("/v1/chat/completions", GET=stored.list, POST=api.chat),
        route(one, GET=stored.show, POST=stored.update, DELETE=stored.delete),
        route(f"{one}/messages", GET=stored.messages),
        route("/v1/models", GET=api.list_models),
        route("/v1/models/{name:path}", GET=api.show_model, DELETE=api.delete_model),
    ]


def route(path: str, **answers: Answer) -> Route:
    """One route for all methods of a path, so that a wrong one is told of all of them."""

    async def answer(request: Request) -> Response:
        return await answers["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, guarded(answer), methods=[*answers])


def guarded(answer: Answer) -> Answer:
    """Answer with an error instead of raising one; every answer bears its request's id."""

    async def answered(request: Request) -> Response:
        began = time.perf_counter()
        given = request.headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        try:
            response = await answer(request)
        except Exception as exc:  # noqa: BLE001 - the edge of the API: it becomes an answer
            response = fault_of(exc).as_response()
        response.headers["x-request-id"] = request_id
        response.headers["openai-processing-ms"] = str(int(1e3 * (time.perf_counter() - began)))
        return response

    return answered


def check_scope(request: Request, needed: Literal["tools", "admin"], param: str) -> None:
    """Refuse a request whose key is not for what its field `param` asks.

    Raises:
        FaultError: there are keys, and the request's lacks the scope.
    """
    scopes = request.scope.get("state", {}).get("key_scopes")
    if scopes is not None and needed not in scopes:
        text = f"the key lacks the scope {needed}"
        raise FaultError(Fault(403, "permission_error", text, param=param))


def queue_time_s(request: Request) -> float | None:
    """How long a request may wait for its turn, so that its client is still there to be told.

    Source: openai-python 3.54 and anthropic 2.12 say how long they wait for the first byte in
    `X-Stainless-Read-Timeout`, in seconds.
    """
    given = request.headers.get("x-stainless-read-timeout", "")
    if not _SECONDS.fullmatch(given):
        return None
    return max(float(given) - 1, float(given) / 2)


class _Api:
    def __init__(
        self, backend: Backend, caller_of: Callable[[Request], str], store: StoredChats
    ) -> None:
        self._backend = backend
        self._store = store
        self._caller_of = caller_of
        self._created = int(time.time())

    async def list_models(self, request: Request) -> Response:
        models = [self._describe(name) for name in self._backend.model_names]
        return JSONResponse({"object": "list", "data": models})

    async def show_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not self._backend.has_model(name):
            text = f"no model is named {name!r}"
            raise FaultError(Fault(404, "invalid_request_error", text, "model_not_found", "model"))
        return JSONResponse(self._describe(name))

    async def delete_model(self, request: Request) -> Response:
        """Unload a model; its file stays, and it is loaded again when it is used."""
        name = request.path_params["name"]
        check_scope(request, "admin", "model")
        await self._backend.unload_model(name)
        return JSONResponse({"id": name, "object": "model", "deleted": True})

    async def chat(self, request: Request) -> Response:
        self._backend.check_queue(self._caller_of(request))
        asked = await read_body(request, ChatRequest)
        header = Header(asked.model)

        @asynccontextmanager
        async def begun() -> AsyncIterator[tuple[Model, ChatTurn]]:
            caller = self._caller_of(request)
            async with self._backend.hold_model(asked.model) as model:
                request.state.model = asked.model
                turn = read_chat(asked, model.context_length)  # what is wrong waits for nobody
                await check_length(model, turn.messages, turn.tools)
                async with self._backend.turn(caller, queue_time_s(request)):
                    yield model.for_caller(caller), turn

        def keep(model: Model, turn: ChatTurn, ends: list[TurnEnd]) -> JsonObject:
            answer = {**_write(header, model, turn, ends), "metadata": asked.metadata or {}}
            messages = asked.model_dump(mode="json", exclude_unset=True)["messages"]
            self._store.keep(self._caller_of(request), answer, messages)
            return answer

        async def write(emit: Emit) -> None:
            usage = bool(asked.stream_options and asked.stream_options.include_usage)
            async with begun() as (model, turn):
                ends = await _stream(header, model, turn, emit, has_usage=usage)
                if asked.store:
                    keep(model, turn, ends)
            request.state.usage = write_totals(ends)

        async def complete() -> Response:
            async with begun() as (model, turn):
                ends = await _run(model, turn)
            request.state.usage = write_totals(ends)
            if asked.store:
                return JSONResponse(keep(model, turn, ends))
            return JSONResponse(_write(header, model, turn, ends))

        return EventStream(write) if asked.stream else await unless_gone(request, complete)

    def _describe(self, name: str) -> JsonObject:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "zonda"}


def _write(header: Header, model: Model, turn: ChatTurn, ends: list[TurnEnd]) -> JsonObject:
    return write_completion(
        header,
        ends,
        model.tokenizer,
        is_legacy=turn.is_legacy,
        has_scores=turn.has_scores,
        is_predicted=turn.is_predicted,
        custom=turn.custom,
    )


def _open(model: Model, turn: ChatTurn, sampling: SamplingParams) -> AsyncGenerator[ChatEvent]:
    return model.stream(
        turn.messages,
        tools=turn.tools,
        tool_choice=turn.tool_choice,
        output=turn.output,
        sampling=sampling,
        thinks=turn.thinks,
    )


async def _run(model: Model, turn: ChatTurn) -> list[TurnEnd]:
    """Let the model answer once for each choice, all at the same time."""
    ends: dict[int, TurnEnd] = {}

    async def answer(index: int, sampling: SamplingParams) -> None:
        async with aclosing(_open(model, turn, sampling)) as events:
            async for event in events:
                if isinstance(event, TurnEnd):
                    ends[index] = event

    await all_at_once([partial(answer, *one) for one in enumerate(turn.sampling)])
    return [ends[index] for index in range(len(turn.sampling))]


async def _stream(
    header: Header, model: Model, turn: ChatTurn, emit: Emit, *, has_usage: bool
) -> list[TurnEnd]:
    """Emit the chunks of all choices as they come, then, where asked for, what they took."""
    ends: dict[int, TurnEnd] = {}
    scored_by = model.tokenizer if turn.has_scores else None

    async def answer(index: int, sampling: SamplingParams) -> None:
        writer = ChunkWriter(
            header,
            index,
            is_legacy=turn.is_legacy,
            has_usage=has_usage,
            scored_by=scored_by,
            custom=turn.custom,
        )
        is_begun = False
        async with aclosing(_open(model, turn, sampling)) as events:
            async for event in events:
                for chunk in writer.push(event):
                    if not is_begun:
                        is_begun = True
                        await emit(writer.begin())
                    await emit(chunk)
                if isinstance(event, TurnEnd):
                    ends[index] = event

    await all_at_once([partial(answer, *one) for one in enumerate(turn.sampling)])
    ordered = [ends[index] for index in sorted(ends)]
    if has_usage:
        usage = write_usage(ordered, model.tokenizer, is_predicted=turn.is_predicted)
        await emit(header.write("chat.completion.chunk", choices=[], usage=usage))
    return ordered
