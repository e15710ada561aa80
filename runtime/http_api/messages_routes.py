"""The routes of Anthropic's API that we answer; who is let in is known already.

The list of models is at an address that OpenAI's API has too: it is Anthropic's for who sends
`anthropic-version`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import Scope

from runtime.chat.messages import ChatEvent, TurnEnd
from runtime.chat.prompt_length import check_length
from runtime.errors import GenerationError
from runtime.http_api.body import read_body
from runtime.http_api.chat_answer import write_totals
from runtime.http_api.event_stream import Emit, EventStream, dump_event, unless_gone
from runtime.http_api.faults import Fault, FaultError, fault_of
from runtime.http_api.messages_answer import Answer, EventWriter, write_message
from runtime.http_api.messages_faults import refuse, write_error
from runtime.http_api.messages_request import MessageTurn, read_message, read_sampling
from runtime.http_api.messages_shapes import CountRequest, MessagesRequest
from runtime.http_api.routes import Backend, Model, queue_time_s
from runtime.request import SamplingParams
from tools.spec import JsonObject

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def anthropic_routes(backend: Backend, caller_of: Callable[[Request], str]) -> list[Route]:
    """Return the routes under `/v1`, to stand before those of `openai_routes`.

    `caller_of` names who sent a request.
    """
    api = _Api(backend, caller_of)
    return [
        Route("/v1/messages", _guarded(api.create), methods=["POST"]),
        Route("/v1/messages/count_tokens", _guarded(api.count_tokens), methods=["POST"]),
        _VersionedRoute("/v1/models", _guarded(api.list_models), methods=["GET"]),
        _VersionedRoute("/v1/models/{name:path}", _guarded(api.show_model), methods=["GET"]),
    ]


class _VersionedRoute(Route):
    """A route for Anthropic's clients alone; other methods are the other API's to answer."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found = super().matches(scope)
        is_versioned = any(name == b"anthropic-version" for name, _ in scope.get("headers", ()))
        return found if is_versioned and found[0] is Match.FULL else (Match.NONE, {})


def _guarded(
    answer: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Answer with an error instead of raising one; every answer bears its request's id."""

    async def guarded(request: Request) -> Response:
        given = request.headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        try:
            response = await answer(request)
        except Exception as exc:  # noqa: BLE001 - the edge of the API: it becomes an answer
            return refuse(fault_of(exc), request_id)
        response.headers["request-id"] = request_id
        return response

    return guarded


class _MessageStream(EventStream):
    """A stream of named events, which ends with `message_stop` or `error`."""

    done = ""
    ping = 'event: ping\ndata: {"type":"ping"}\n\n'

    def frame(self, value: JsonObject) -> str:
        return f"event: {value['type']}\ndata: {dump_event(value)}\n\n"

    def report(self, fault: Fault) -> JsonObject:
        return write_error(fault, self.headers["request-id"])

    def refuse(self, fault: Fault) -> Response:
        return refuse(fault, self.headers["request-id"])


class _Api:
    def __init__(self, backend: Backend, caller_of: Callable[[Request], str]) -> None:
        self._backend = backend
        self._caller_of = caller_of
        self._created = datetime.now(UTC).isoformat(timespec="seconds")

    async def create(self, request: Request) -> Response:
        self._backend.check_queue(self._caller_of(request))
        body = await read_body(request, MessagesRequest)
        turn, sampling = read_message(body), read_sampling(body)

        @asynccontextmanager
        async def begun() -> AsyncIterator[tuple[Model, Answer]]:
            caller = self._caller_of(request)
            async with self._backend.hold_model(body.model) as model:
                request.state.model = body.model
                length = model.context_length
                await check_length(model, turn.messages, turn.tools)
                async with self._backend.turn(caller, queue_time_s(request)):
                    yield (
                        model.for_caller(caller),
                        Answer(body.model, body.max_tokens, length, turn.shows_thoughts),
                    )

        async def write(emit: Emit) -> None:
            async with begun() as (model, answer):
                end = await _stream(answer, model, turn, sampling, emit)
            request.state.usage = write_totals([end])

        async def complete() -> Response:
            async with begun() as (model, answer):
                end = await _run(model, turn, sampling)
            request.state.usage = write_totals([end])
            return JSONResponse(write_message(answer, end))

        return _MessageStream(write) if body.stream else await unless_gone(request, complete)

    async def count_tokens(self, request: Request) -> Response:
        body = await read_body(request, CountRequest)
        turn = read_message(body)

        async def count() -> Response:
            async with self._backend.hold_model(body.model) as model:
                count = model.count_tokens(turn.messages, turn.tools, thinks=turn.thinks)
                return JSONResponse({"input_tokens": await count})

        return await unless_gone(request, count)

    async def list_models(self, request: Request) -> Response:
        names = list(self._backend.model_names)
        return JSONResponse(
            {
                "data": [self._describe(name) for name in names],
                "has_more": False,
                "first_id": names[0] if names else None,
                "last_id": names[-1] if names else None,
            }
        )

    async def show_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not self._backend.has_model(name):
            text = f"no model is named {name!r}"
            raise FaultError(Fault(404, "invalid_request_error", text, "model_not_found", "model"))
        return JSONResponse(self._describe(name))

    def _describe(self, name: str) -> JsonObject:
        return {
            "id": name,
            "type": "model",
            "display_name": name,
            "created_at": self._created,
            "lifecycle": "active",
        }


def _open(
    model: Model, turn: MessageTurn, sampling: SamplingParams, *, tells_start: bool = False
) -> AsyncGenerator[ChatEvent]:
    return model.stream(
        turn.messages,
        tools=turn.tools,
        tool_choice=turn.tool_choice,
        output=turn.output,
        sampling=sampling,
        thinks=turn.thinks,
        admitted=turn.admitted,
        tells_start=tells_start,
    )


async def _run(model: Model, turn: MessageTurn, sampling: SamplingParams) -> TurnEnd:
    async with aclosing(_open(model, turn, sampling)) as events:
        async for event in events:
            if isinstance(event, TurnEnd):
                return event
    raise GenerationError("the turn ended without saying why; try again")


async def _stream(
    answer: Answer, model: Model, turn: MessageTurn, sampling: SamplingParams, emit: Emit
) -> TurnEnd:
    """Emit a message's events as they come: the first when what was asked is known to be sound."""
    writer = EventWriter(answer)
    end: TurnEnd | None = None
    async with aclosing(_open(model, turn, sampling, tells_start=True)) as events:
        async for event in events:
            for value in writer.push(event):
                await emit(value)
            if isinstance(event, TurnEnd):
                end = event
    if end is None:
        raise GenerationError("the turn ended without saying why; try again")
    return end
