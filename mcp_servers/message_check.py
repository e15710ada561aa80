"""Answers messages that are no JSON-RPC, where the SDK is silent or answers something else.

The SDK takes a request whose id is null or a list for a notification, and never answers the
first of two requests of a session that go on under one id.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_servers.message_rules import INVALID_REQUEST, Refusal, read_message
from mcp_servers.request_limits import refuse, replay_body


class MessageCheck:
    """Wraps the MCP endpoint; messages reach it only when JSON-RPC lets them.

    Invariant: `_open` holds (session, id) of each request that is being answered.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open: set[tuple[str, str]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if request.method != "POST":
            await self._app(scope, receive, send)
            return
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != (
            "application/json"
        ):
            refusal = Refusal(INVALID_REQUEST, "the Content-Type must be application/json")
            await refuse(refusal, 415)(scope, receive, send)
            return
        body = await request.body()
        message = read_message(body)
        if isinstance(message, Refusal):
            await refuse(message, 400)(scope, receive, send)
            return
        await self._answer(message, request, scope, replay_body(body, receive), send)

    async def _answer(
        self, message: dict[str, Any], request: Request, scope: Scope, receive: Receive, send: Send
    ) -> None:
        session = request.headers.get("mcp-session-id")
        if session is None or "id" not in message or "method" not in message:
            await self._app(scope, receive, send)
            return
        key = (session, str(message["id"]))
        if key in self._open:
            text = f"a request with the id {message['id']!r} is still being answered"
            refusal = Refusal(INVALID_REQUEST, text, message["id"])
            await refuse(refusal, 400)(scope, receive, send)
            return
        self._open.add(key)
        try:
            await self._app(scope, receive, send)
        finally:
            self._open.remove(key)
