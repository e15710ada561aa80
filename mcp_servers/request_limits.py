"""Bounds of what one HTTP request may be, and of how many are answered at once.

A refusal is a JSON-RPC error with the HTTP status that fits.
"""

from __future__ import annotations

import anyio
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_servers.message_rules import (
    INVALID_REQUEST,
    MAX_MESSAGE_BYTES,
    OVERLOADED,
    Refusal,
    find_problem,
)

MAX_BODY_BYTES = MAX_MESSAGE_BYTES
BODY_WITHIN_S = 30.0
MAX_REQUESTS = 1024


class RequestLimits:
    """Reads each body within the limits, then lets the application answer.

    Streams that stay open (GET) are ended by `end_streams`, whole responses all the same.
    """

    def __init__(self, app: ASGIApp, *, max_requests: int = MAX_REQUESTS) -> None:
        self._app = app
        self._max_requests = max_requests
        self._num_open = 0
        self._streams: set[anyio.CancelScope] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._num_open >= self._max_requests:
            text = f"{self._num_open} requests are being answered, as many as may; try again in 1 s"
            response = refuse(Refusal(OVERLOADED, text), 503, {"retry-after": "1"})
            await response(scope, receive, send)
            return
        self._num_open += 1
        try:
            await self._answer(scope, receive, send)
        finally:
            self._num_open -= 1

    def end_streams(self) -> None:
        """End every open GET stream."""
        for scope in self._streams:
            scope.cancel()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            await self._stream(scope, receive, send)
            return
        body = await _read_body(scope, receive)
        if isinstance(body, Response):
            await body(scope, receive, send)
        elif body is not None:
            await self._app(scope, replay_body(body, receive), send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = False

        async def watch(message: Message) -> None:
            nonlocal is_open
            is_open = message["type"] == "http.response.start" or message.get("more_body", False)
            await send(message)

        with anyio.CancelScope() as cancel_scope:
            self._streams.add(cancel_scope)
            try:
                await self._app(scope, receive, watch)
            finally:
                self._streams.remove(cancel_scope)
        if cancel_scope.cancelled_caught and is_open:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def refuse(refusal: Refusal, status: int, headers: dict[str, str] | None = None) -> Response:
    """Make the response that refuses a request."""
    return JSONResponse(refusal.to_message(), status, headers)


async def _read_body(scope: Scope, receive: Receive) -> bytes | Response | None:
    """Return the body, why it is refused, or None when the client has left."""
    text = f"the body is over {MAX_BODY_BYTES} bytes"
    too_large = refuse(Refusal(INVALID_REQUEST, text), 413)
    declared = [value for name, value in scope["headers"] if name == b"content-length"]
    if any(not value.isdigit() or int(value) > MAX_BODY_BYTES for value in declared):
        return too_large
    body = bytearray()
    with anyio.move_on_after(BODY_WITHIN_S):
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            if len(body) > MAX_BODY_BYTES:
                return too_large
            if not message.get("more_body", False):
                problem = find_problem(bytes(body))
                return bytes(body) if problem is None else refuse(problem, 400)
    text = f"the body did not come within {BODY_WITHIN_S:g} s"
    return refuse(Refusal(INVALID_REQUEST, text), 408)


def replay_body(body: bytes, receive: Receive) -> Receive:
    """Give the body again, then whatever comes after it."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay
