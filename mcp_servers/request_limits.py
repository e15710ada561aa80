"""Bounds of what one HTTP request may be, and of how many are answered at once.

A refusal is a JSON-RPC error at `/mcp`, elsewhere one of the API that was called, with the HTTP
status that fits. Probes are answered however much else is going on.
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
from mcp_servers.refusals import refuse_api

MAX_BODY_BYTES = MAX_MESSAGE_BYTES
"""Of a message to the MCP server."""
MAX_API_BODY_BYTES = 10 * 1024 * 1024
MAX_HELD_BYTES = 256 * 1024 * 1024
"""Of the bodies of all requests that are being answered."""
BODY_WITHIN_S = 30.0
MAX_REQUESTS = 1024
MCP_PATH = "/mcp"
PROBES = frozenset({"/health", "/ready", "/metrics"})


class RequestLimits:
    """Reads each body within the limits, then lets the application answer.

    Streams that stay open (GET) are ended by `end_streams`, whole responses all the same.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_requests: int = MAX_REQUESTS,
        max_held_bytes: int = MAX_HELD_BYTES,
        body_within_s: float = BODY_WITHIN_S,
    ) -> None:
        self._app = app
        self._max_requests = max_requests
        self._max_held_bytes = max_held_bytes
        self._num_held_bytes = 0
        self._body_within_s = body_within_s
        self._num_open = 0
        self._streams: set[anyio.CancelScope] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        if self._num_open >= self._max_requests:
            text = f"{self._num_open} requests are being answered, as many as may; try again in 1 s"
            refusal = _refuse(scope, Refusal(OVERLOADED, text), 503, retry_s=1)
            await refusal(scope, receive, send)
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
        body, size = bytearray(), 0
        try:
            if (refusal := await self._read_body(scope, receive, body)) is not None:
                await refusal(scope, receive, send)
                return
            size, whole = len(body), bytes(body)
            body.clear()  # one copy is enough
            await self._app(scope, replay_body(whole, receive), send)
        finally:
            self._num_held_bytes -= size + len(body)

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

    async def _read_body(self, scope: Scope, receive: Receive, body: bytearray) -> ASGIApp | None:
        """Read it into `body`; return what answers instead where it is refused, or never comes."""
        max_bytes = MAX_BODY_BYTES if scope["path"] == MCP_PATH else MAX_API_BODY_BYTES
        text = f"the body is over {max_bytes} bytes"
        too_large = _refuse(scope, Refusal(INVALID_REQUEST, text), 413)
        declared = [value for name, value in scope["headers"] if name == b"content-length"]
        if any(not value.isdigit() or int(value) > max_bytes for value in declared):
            return too_large
        with anyio.move_on_after(self._body_within_s):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return _say_nothing
                body += (part := message.get("body", b""))
                self._num_held_bytes += len(part)
                if len(body) > max_bytes:
                    return too_large
                if self._num_held_bytes > self._max_held_bytes:
                    text = f"{self._max_held_bytes} bytes of requests are held; try again in 1 s"
                    return _refuse(scope, Refusal(OVERLOADED, text), 503, retry_s=1)
                if not message.get("more_body", False):
                    problem = find_problem(bytes(body))
                    return None if problem is None else _refuse(scope, problem, 400)
        text = f"the body did not come within {self._body_within_s:g} s"
        return _refuse(scope, Refusal(INVALID_REQUEST, text), 408)


async def _say_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a client that has left."""


def refuse(refusal: Refusal, status: int, headers: dict[str, str] | None = None) -> Response:
    """Make the response that refuses a message to the MCP server."""
    return JSONResponse(refusal.to_message(), status, headers)


def _refuse(scope: Scope, refusal: Refusal, status: int, retry_s: int | None = None) -> Response:
    if scope["path"] == MCP_PATH:
        return refuse(refusal, status, None if retry_s is None else {"retry-after": str(retry_s)})
    code = "overloaded" if status == 503 else None
    return refuse_api(scope, status, refusal.text, code=code, retry_s=retry_s)


def replay_body(body: bytes, receive: Receive) -> Receive:
    """Give the body again, then whatever comes after it."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay
