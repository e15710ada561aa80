"""The routes of the Responses API: who asks for what, and what is kept of it.

A client that leaves aborts its response, unless it runs in the background.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.agent.loop import AgentModel
from runtime.http_api.body import read_body
from runtime.http_api.event_stream import Emit, EventStream, dump_event, unless_gone
from runtime.http_api.faults import Fault, FaultError, bad_request
from runtime.http_api.responses_compact import CompactRequest, compact
from runtime.http_api.responses_events import ResponseWriter, WriterOptions, emit_nothing
from runtime.http_api.responses_items import AnyItem, ReferenceItem, read_items, write_item
from runtime.http_api.responses_mcp import (
    OfferedTools,
    ToolAccess,
    ToolSources,
    UrlServer,
    check_servers,
    offer_tools,
    servers_by_url,
)
from runtime.http_api.responses_messages import Transcript, read_transcript
from runtime.http_api.responses_pages import check_query, read_number, read_switch, write_page
from runtime.http_api.responses_request import (
    ResponseTurn,
    instructions_of,
    read_turn,
    write_settings,
)
from runtime.http_api.responses_run import Job, check_prompt, write_failure, write_response
from runtime.http_api.responses_shapes import InputTokensRequest, ResponseRequest
from runtime.http_api.responses_store import (
    KeptConversation,
    KeptResponse,
    Memory,
    whole_items,
)
from runtime.http_api.routes import check_scope, queue_time_s, route
from runtime.tokenizer.tokenizer import Tokenizer
from tools.spec import JsonObject

MAX_EVENTS = 10**9
BEGIN_WITHIN_S = 5.0
"""Seconds after which a stream begins although the model computes nothing yet; until it does, what
is wrong with the request is an ordinary error."""


class Model(AgentModel, Protocol):
    """What a response needs of a loaded model; `ChatModel` is one."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    def for_caller(self, caller: str) -> Self:
        """The same model; what this caller says is not shared with others."""
        ...


class Backend(Protocol):
    """What answers: the models, the tool servers, and who may use them now."""

    @property
    def model_names(self) -> Sequence[str]:
        """The models; the first is the default."""
        ...

    @property
    def tool_sources(self) -> ToolSources:
        """Which tool servers there are."""
        ...

    def hold_model(self, name: str) -> AbstractAsyncContextManager[Model]:
        """Wait for a model; it stays loaded meanwhile.

        Raises:
            UnknownModelError: there is none of that name.
            ZondaError: it cannot be loaded.
        """
        ...

    def open_tools(self, by_url: Sequence[UrlServer]) -> AbstractAsyncContextManager[ToolAccess]:
        """Wait for the tool servers; connect those at URLs meanwhile.

        Raises:
            ZondaError: they cannot be opened.
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

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something for as long as the server does."""
        ...


class ResponseStream(EventStream):
    """A stream whose events are named."""

    def frame(self, value: JsonObject) -> str:
        return f"event: {value['type']}\ndata: {dump_event(value)}\n\n"


def responses_routes(
    backend: Backend, caller_of: Callable[[Request], str], memory: Memory
) -> list[Route]:
    """Return the routes of responses; `caller_of` names who sent a request."""
    api = _Responses(backend, caller_of, memory)
    one = "/v1/responses/{response_id}"
    return [
        route("/v1/responses", POST=api.create),
        route("/v1/responses/input_tokens", POST=api.count),
        route("/v1/responses/compact", POST=api.compact),
        route(one, GET=api.show, DELETE=api.delete),
        route(f"{one}/cancel", POST=api.cancel),
        route(f"{one}/input_items", GET=api.list_items),
    ]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that is understood.

    Attributes:
        items: the conversation before it and its own input.
        own: its own input alone.
    """

    body: ResponseRequest
    model_name: str
    turn: ResponseTurn
    transcript: Transcript
    items: list[JsonObject]
    own: list[JsonObject]
    conversation: KeptConversation | None
    caller: str

    @property
    def settings(self) -> JsonObject:
        of = None if self.conversation is None else {"id": self.conversation.conversation_id}
        return {**write_settings(self.body), "model": self.model_name, "conversation": of}

    @property
    def options(self) -> WriterOptions:
        stream = self.body.stream_options
        return WriterOptions(
            has_summary=self.turn.has_summary,
            seals_thought=self.turn.seals_thought,
            obfuscates=bool(stream and stream.include_obfuscation),
            is_queued=bool(self.body.background),
            begins_early=bool(self.body.stream),
        )


def _note(request: Request, model_name: str, usage: JsonObject | None) -> None:
    """Write down for the log what a response took."""
    request.state.model = model_name
    if usage is not None:
        tokens = {"prompt_tokens": usage["input_tokens"]}
        request.state.usage = tokens | {"completion_tokens": usage["output_tokens"]}


class _Responses:
    def __init__(
        self, backend: Backend, caller_of: Callable[[Request], str], memory: Memory
    ) -> None:
        self._backend = backend
        self._caller_of = caller_of
        self._memory = memory

    async def create(self, request: Request) -> Response:
        self._backend.check_queue(self._caller_of(request))
        asked = self._understand(
            await read_body(request, ResponseRequest), self._caller_of(request)
        )
        if asked.turn.servers:
            check_scope(request, "tools", "tools")
        if asked.body.background:
            return await self._start(asked)

        async def write(emit: Emit) -> None:
            await self._stream(asked, emit, request)

        async def complete() -> Response:
            writer = self._writer(asked, emit_nothing, request)
            await self._write(asked, writer, request)
            return JSONResponse(writer.response)

        return ResponseStream(write) if asked.body.stream else await unless_gone(request, complete)

    async def count(self, request: Request) -> Response:
        body = await read_body(request, InputTokensRequest)
        caller = self._caller_of(request)
        turn = read_turn(body)
        items, _, _ = self._input(body, caller)
        transcript = read_transcript(read_items(items), instructions_of(body))
        check_servers(body.tools or (), self._backend.tool_sources)

        async def complete() -> Response:
            async with self._backend.hold_model(self._model_name(body)) as model:
                async with self._offer(turn) as offered:
                    specs = turn.functions if offered is None else offered.specs
                number = await model.count_tokens(transcript.messages, specs)
            return JSONResponse({"object": "response.input_tokens", "input_tokens": number})

        return await unless_gone(request, complete)

    async def compact(self, request: Request) -> Response:
        caller = self._caller_of(request)
        self._backend.check_queue(caller)
        body = await read_body(request, CompactRequest)
        asked = InputTokensRequest(input=body.input, previous_response_id=body.previous_response_id)
        items, _, _ = self._input(asked, caller)
        transcript = read_transcript(read_items(items), body.instructions)

        async def complete() -> Response:
            async with (
                self._backend.hold_model(body.model) as model,
                self._backend.turn(caller, queue_time_s(request)),
            ):
                return JSONResponse(await compact(model.for_caller(caller), transcript, items))

        return await unless_gone(request, complete)

    async def show(self, request: Request) -> Response:
        kept = self._kept(request)
        query = request.query_params
        check_query(query, {"stream", "starting_after", "include_obfuscation"})
        read_switch(query, "include_obfuscation")  # as it was asked for when it was made
        is_stream = read_switch(query, "stream")
        after = read_number(query, "starting_after", -1, 0, MAX_EVENTS)
        if not is_stream:
            return JSONResponse(kept.response)
        events = kept.events
        if events is None:
            text = "only a response made with background and stream can be streamed again"
            raise bad_request(text, "stream")
        return ResponseStream(lambda emit: _follow(kept, events, after, emit))

    async def delete(self, request: Request) -> Response:
        kept = self._kept(request)
        self._memory.responses.remove(self._caller_of(request), kept.response["id"])
        if kept.scope is not None:
            kept.scope.cancel()
        found = {"id": kept.response["id"], "object": "response", "deleted": True}
        return JSONResponse(found)

    async def cancel(self, request: Request) -> Response:
        kept = self._kept(request)
        if kept.scope is None:
            raise bad_request("only a response in the background can be cancelled", "response_id")
        kept.scope.cancel()
        while not kept.is_over:
            await kept.changed.wait()
        return JSONResponse(kept.response)

    async def list_items(self, request: Request) -> Response:
        return JSONResponse(write_page(self._kept(request).items, request.query_params))

    def _kept(self, request: Request) -> KeptResponse:
        response_id = request.path_params["response_id"]
        return self._memory.responses.get(self._caller_of(request), response_id)

    def _model_name(self, body: InputTokensRequest) -> str:
        return self._backend.model_names[0] if body.model is None else body.model

    def _understand(self, body: ResponseRequest, caller: str) -> _Asked:
        turn = read_turn(body)
        check_servers(body.tools or (), self._backend.tool_sources)
        items, own, conversation = self._input(body, caller)
        transcript = read_transcript(read_items(items), instructions_of(body))
        name = self._model_name(body)
        return _Asked(body, name, turn, transcript, items, own, conversation, caller)

    def _input(
        self, body: InputTokensRequest, caller: str
    ) -> tuple[list[JsonObject], list[JsonObject], KeptConversation | None]:
        """All items, the request's own, and the conversation they belong to."""
        conversation: KeptConversation | None = None
        before: list[JsonObject] = []
        if (chosen := body.conversation) is not None:
            conversation_id = chosen if isinstance(chosen, str) else chosen.id
            conversation = self._memory.conversations.get(caller, conversation_id)
            before = conversation.items
        elif body.previous_response_id is not None:
            kept = self._previous(caller, body.previous_response_id)
            before = kept.history
        own = self._resolve(body.input or [], before, caller)
        return [*before, *own], own, conversation

    def _previous(self, caller: str, response_id: str) -> KeptResponse:
        try:
            kept = self._memory.responses.get(caller, response_id)
        except FaultError as exc:
            text = f"Previous response with id {response_id[:80]!r} not found."
            code, param = "previous_response_not_found", "previous_response_id"
            raise FaultError(Fault(404, "invalid_request_error", text, code, param)) from exc
        if not kept.is_over:
            raise bad_request("the previous response is not finished", "previous_response_id")
        return kept

    def _resolve(
        self, items: Sequence[AnyItem], before: list[JsonObject], caller: str
    ) -> list[JsonObject]:
        """Write the items, those that are meant by their ids in full."""
        known: dict[str, JsonObject] | None = None
        found: list[JsonObject] = []
        for item in items:
            if not isinstance(item, ReferenceItem):
                found.append(write_item(item))
                continue
            if known is None:  # once for all of them: there may be many
                known = {one["id"]: one for one in (*self._memory.items_of(caller), *before)}
            if item.id not in known:
                text = f"Item with id {item.id[:80]!r} not found."
                raise FaultError(Fault(404, "invalid_request_error", text, "not_found", "input"))
            found.append(known[item.id])
        return found

    @asynccontextmanager
    async def _offer(self, turn: ResponseTurn) -> AsyncIterator[OfferedTools | None]:
        if not turn.servers:
            yield None
            return
        async with self._backend.open_tools(servers_by_url(turn.servers)) as access:
            yield await offer_tools(access, turn.servers, turn.functions)

    @asynccontextmanager
    async def _begun(
        self, asked: _Asked, within_s: float | None = None
    ) -> AsyncIterator[tuple[AgentModel, Job]]:
        async with (
            self._backend.hold_model(asked.model_name) as model,
            self._offer(asked.turn) as offered,  # what is wrong waits for nobody
        ):
            of = asked.transcript, offered, asked.caller, model.tokenizer
            job = Job(asked.body, asked.turn, *of)
            await check_prompt(job, model)
            async with self._backend.turn(asked.caller, within_s):
                yield model.for_caller(asked.caller), job

    def _writer(self, asked: _Asked, emit: Emit, request: Request) -> ResponseWriter:
        """What writes a response whose client waits for it."""

        async def tell(event: JsonObject) -> None:
            if writer.is_over:  # it may be asked for as soon as its end is read
                _note(request, asked.model_name, writer.response.get("usage"))
                self._remember(asked, KeptResponse(writer.response, asked.items, is_over=True))
            await emit(event)

        writer = ResponseWriter(asked.settings, tell, asked.options)
        return writer

    async def _write(self, asked: _Asked, writer: ResponseWriter, request: Request) -> None:
        try:
            async with self._begun(asked, queue_time_s(request)) as (model, job):
                await write_response(job, model, writer)
        except Exception as exc:
            if not writer.is_begun:
                raise
            await write_failure(writer, exc)

    async def _stream(self, asked: _Asked, emit: Emit, request: Request) -> None:
        """Write a response to a client that sees its stream begin before long."""
        writer = self._writer(asked, emit, request)
        problem: Exception | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(writer.begin_after, BEGIN_WITHIN_S)
            try:
                await self._write(asked, writer, request)
            except Exception as exc:  # noqa: BLE001 - raised below, without its group
                problem = exc
            group.cancel_scope.cancel()
        if problem is None:
            return
        if not writer.is_begun:
            raise problem
        await write_failure(writer, problem)

    def _remember(self, asked: _Asked, kept: KeptResponse) -> None:
        response = kept.response
        if response["status"] != "failed":
            self._go_on(asked, response)
        if asked.body.store is not False:
            kept.measure()
            self._memory.responses.put(asked.caller, response["id"], kept)

    def _go_on(self, asked: _Asked, response: JsonObject) -> None:
        """Let the conversation, where there is one, have what was said."""
        if asked.conversation is not None:
            asked.conversation.add([*asked.own, *whole_items(response["output"])])
            conversation_id = asked.conversation.conversation_id
            self._memory.conversations.renew(asked.caller, conversation_id)

    async def _start(self, asked: _Asked) -> Response:
        """Let a response come about by itself."""
        events: list[JsonObject] | None = [] if asked.body.stream else None

        async def tell(event: JsonObject) -> None:
            if events is not None:
                events.append(event)
            kept.tell(writer.response, is_over=writer.is_over)
            if writer.is_over and kept.response["status"] != "failed":
                self._go_on(asked, kept.response)

        writer = ResponseWriter(asked.settings, tell, asked.options)
        scope = anyio.CancelScope()
        kept = KeptResponse(writer.response, asked.items, events, scope)
        await writer.queue()
        self._memory.responses.put(asked.caller, writer.response_id, kept)
        self._backend.start(lambda: self._work(asked, writer, scope))
        if events is None:
            return JSONResponse(kept.response)
        return ResponseStream(lambda emit: _follow(kept, events, -1, emit))

    async def _work(self, asked: _Asked, writer: ResponseWriter, scope: anyio.CancelScope) -> None:
        with scope:
            try:
                async with self._begun(asked) as (model, job):
                    await writer.begin()
                    await write_response(job, model, writer)
            except Exception as exc:  # noqa: BLE001 - the top of a task: it is the response's end
                await write_failure(writer, exc)
        if not writer.is_over:
            await writer.cancel()


async def _follow(kept: KeptResponse, events: list[JsonObject], after: int, emit: Emit) -> None:
    """Emit what has been told since `after`, and what will be."""
    at = after + 1
    while True:
        changed = kept.changed
        while at < len(events):
            at += 1
            await emit(events[at - 1])
        if kept.is_over:
            return
        await changed.wait()
