"""Answers that are written while they come about, as server-sent events.

Source: WHATWG HTML, "Server-sent events"; what OpenAI's clients expect at the end and of errors.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runtime.http_api.faults import Fault, fault_of
from tools.spec import JsonObject

PING_S = 15.0
"""Seconds of silence after which a comment is sent, so that proxies keep the stream open."""
SLOW_READER_S = 30.0
"""Seconds after which a client that reads nothing is left."""
CLIENT_GONE = 499

Emit = Callable[[JsonObject], Awaitable[None]]


class EventStream(Response):
    """Sends each object that `write` emits as one event, then `[DONE]`.

    What fails before the first of them is an ordinary error, later it is the last event. When
    the client leaves or stops reading, `write` is cancelled. Subclasses write the streams of
    other APIs.

    Attributes:
        done: what ends a stream that did not fail.
        ping: what is sent in silence.
    """

    done = "data: [DONE]\n\n"
    ping = ": ping\n\n"

    def __init__(self, write: Callable[[Emit], Awaitable[None]]) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self.headers["x-accel-buffering"] = "no"
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = _Sender(self, send)
        async with anyio.create_task_group() as group:
            group.start_soon(_leave_with_client, receive, group.cancel_scope)
            group.start_soon(sender.ping)
            sender.give_up = group.cancel_scope.cancel
            try:
                await self._write(sender.emit)
            except Exception as exc:  # noqa: BLE001 - the edge of the API: it becomes an answer
                fault = fault_of(exc)
                if sender.is_begun:
                    await sender.emit(self.report(fault))
                else:
                    await self.refuse(fault)(scope, receive, send)
            else:
                await sender.put(self.done)
            if sender.is_begun:
                await sender.end()
            group.cancel_scope.cancel()

    def frame(self, value: JsonObject) -> str:
        """Write one event."""
        return f"data: {dump_event(value)}\n\n"

    def report(self, fault: Fault) -> JsonObject:
        """The last event of a stream that fails."""
        return fault.body

    def refuse(self, fault: Fault) -> Response:
        """The answer in place of a stream that fails before its first event."""
        refusal = fault.as_response()
        refusal.headers["x-request-id"] = self.headers["x-request-id"]
        return refusal


def dump_event(value: JsonObject) -> str:
    """Write what an event says, on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class _Sender:
    """Writes the parts of one answer; the first part brings status and headers."""

    def __init__(self, stream: EventStream, send: Send) -> None:
        self.is_begun = False
        self.give_up: Callable[[], None] = lambda: None
        self._stream = stream
        self._send = send
        self._lock = anyio.Lock()
        self._num_sent = 0

    async def emit(self, value: JsonObject) -> None:
        await self.put(self._stream.frame(value))

    async def put(self, text: str) -> None:
        with anyio.move_on_after(SLOW_READER_S) as scope:
            async with self._lock:
                if not self.is_begun:
                    self.is_begun = True
                    start = {"type": "http.response.start", "status": 200}
                    await self._send({**start, "headers": self._stream.raw_headers})
                body = {"type": "http.response.body", "body": text.encode()}
                await self._send({**body, "more_body": True})
                self._num_sent += 1
        if scope.cancelled_caught:
            self.give_up()
            await anyio.lowlevel.checkpoint()

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def ping(self) -> None:
        while True:
            seen = self._num_sent
            await anyio.sleep(PING_S)
            if self.is_begun and seen == self._num_sent:
                await self.put(self._stream.ping)


async def unless_gone(request: Request, answer: Callable[[], Awaitable[Response]]) -> Response:
    """Return the answer; when the client leaves first, cancel what makes it."""
    found: Response | None = None
    problem: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(_leave_with_client, request.receive, group.cancel_scope)
        try:
            found = await answer()
        except Exception as exc:  # noqa: BLE001 - raised below, without its group
            problem = exc
        group.cancel_scope.cancel()
    if problem is not None:
        raise problem
    return found or Response(status_code=CLIENT_GONE)


async def _leave_with_client(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
