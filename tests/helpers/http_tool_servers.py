"""Tool servers over HTTP to test against: the SDK's own, and one that answers as a test says."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import uvicorn
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp.server import Server
from mcp.server.sse import SseServerTransport
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from mcp_servers.toolset_server import build_server
from tools.toolset import Toolset


@asynccontextmanager
async def serve_http(toolset: Toolset) -> AsyncIterator[str]:
    """Serve a toolset over streamable HTTP; yield its URL."""
    async with serve_server(build_server("http", toolset)) as url:
        yield url


@asynccontextmanager
async def serve_server(served: Server) -> AsyncIterator[str]:
    """Serve a server of the SDK's over streamable HTTP; yield its URL."""
    app = served.streamable_http_app()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with serve_app(app, listener):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"


@asynccontextmanager
async def serve_app(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Serve an application on a bound socket."""
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve, [listener])
        yield
        server.should_exit = True


def older_app(toolset: Toolset) -> ASGIApp:
    """The SDK's server of this transport; a post to where its events are is not allowed."""
    transport = SseServerTransport("/messages/")
    server = build_server("older", toolset)

    async def events(request: Request) -> Response:
        connection = transport.connect_sse(request.scope, request.receive, request._send)
        async with connection as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())
        return Response()

    return Starlette(
        routes=[
            Route("/sse", events, methods=["GET"]),
            Mount("/messages/", app=transport.handle_post_message),
        ]
    )


Answer = Callable[[dict[str, Any]], bytes | None]
"""Makes the whole HTTP response to a message; None never answers, nothing hangs up."""


@dataclass
class ScriptedHttpServer:
    """A server of the 2025-11-25 era with one tool, `echo`, that `answer` makes misbehave.

    Attributes:
        answer: asked first; a `NotImplementedError` leaves the answer to the server.
        requests: the head of every request that came.
    """

    answer: Answer
    requests: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[str]:
        """Listen; yield the URL."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, self._serve)
            port = listener.extra(SocketAttribute.local_port)
            yield f"http://127.0.0.1:{port}/mcp?key=secret"
            group.cancel_scope.cancel()

    async def _serve(self, stream: SocketStream) -> None:
        async with stream:
            buffered = BufferedByteReceiveStream(stream)
            try:
                head = (await buffered.receive_until(b"\r\n\r\n", 65536)).decode()
                self.requests.append(head)
                length = int(head.lower().partition("content-length:")[2].split("\r")[0] or 0)
                body = await buffered.receive_exactly(length)
                response = self._respond(json.loads(body)) if body else http_response(405)
                await (anyio.sleep_forever() if response is None else stream.send(response))
            except (anyio.BrokenResourceError, anyio.IncompleteRead):
                return

    def _respond(self, message: dict[str, Any]) -> bytes | None:
        try:
            return self.answer(message)
        except NotImplementedError:
            pass
        schema = {"type": "object"}
        results = {
            "initialize": {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "scripted", "version": "1"},
            },
            "tools/list": {"tools": [{"name": "echo", "inputSchema": schema}]},
            "tools/call": {"content": [{"type": "text", "text": "hello"}]},
        }
        if "id" not in message:
            return http_response(202)
        if message["method"] not in results:
            return http_response(400)
        reply = {"jsonrpc": "2.0", "id": message["id"], "result": results[message["method"]]}
        return http_response(200, json.dumps(reply).encode(), "mcp-session-id: s1")


def http_response(
    status: int, body: bytes = b"", *headers: str, content_type: str = "application/json"
) -> bytes:
    """One whole HTTP response, after which the connection is closed."""
    lines = [
        f"HTTP/1.1 {status} X",
        f"content-type: {content_type}",
        f"content-length: {len(body)}",
        "connection: close",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
