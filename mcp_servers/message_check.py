"""Answers messages that are no JSON-RPC, where the SDK is silent or answers something else.

The SDK takes a request whose id is null or a list for a notification, and never answers the
first of two requests of a session that go on under one id.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_servers.request_limits import INVALID_REQUEST, PARSE_ERROR, replay_body, rpc_error


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
            refusal = rpc_error(415, INVALID_REQUEST, "the Content-Type must be application/json")
            await refusal(scope, receive, send)
            return
        body = await request.body()
        message = _read_message(body)
        if isinstance(message, Response):
            await message(scope, receive, send)
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
            refusal = rpc_error(400, INVALID_REQUEST, text, request_id=message["id"])
            await refusal(scope, receive, send)
            return
        self._open.add(key)
        try:
            await self._app(scope, receive, send)
        finally:
            self._open.remove(key)


def _read_message(body: bytes) -> dict[str, Any] | Response:
    """Return the message, or the error that JSON-RPC asks for."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):  # a number of 5,000 digits is a plain ValueError
        return rpc_error(400, PARSE_ERROR, "the body is not JSON")
    if isinstance(message, list):
        text = "batches are not part of MCP; send one message a request"
        return rpc_error(400, INVALID_REQUEST, text)
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        return rpc_error(400, INVALID_REQUEST, "the body is not a JSON-RPC 2.0 message")
    request_id = message.get("id", "")
    if not isinstance(request_id, str | int) or isinstance(request_id, bool):
        text = f"an id is a string or a whole number, not {json.dumps(request_id)[:100]}"
        return rpc_error(400, INVALID_REQUEST, text)
    if message.keys().isdisjoint({"method", "result", "error"}):
        text = "the message has no method"
        return rpc_error(400, INVALID_REQUEST, text, request_id=message.get("id"))
    return message
