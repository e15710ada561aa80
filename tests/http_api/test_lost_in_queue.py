"""Clients on real sockets that leave while their request waits: their place is free at once."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketStream

from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import ServedApp, on_port
from tests.http_api.test_hostile_requests import CHAT, ROUTES, ask_for, full_server

pytestmark = pytest.mark.anyio

HEADS = {
    "/mcp": b"Mcp-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: generate\r\n"
}
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "generate", "arguments": {"prompt": "hello"}, "_meta": META},
}


async def send(stream: SocketStream, path: str, *, streams: bool) -> None:
    asked = CALL if path == "/mcp" else ask_for(path, "hello", stream=streams)
    body = json.dumps(asked).encode()
    head = (
        b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n" % path.encode()
    )
    head += b"Accept: application/json, text/event-stream\r\n" + HEADS.get(path, b"")
    await stream.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


async def until_waiting(app: ServedApp, number: int) -> None:
    while app.service.num_waiting != number:
        await anyio.lowlevel.checkpoint()


async def close(stream: SocketStream) -> None:
    await stream.aclose()


async def end_sending(stream: SocketStream) -> None:
    await stream.send_eof()


async def ask_more_and_close(stream: SocketStream) -> None:
    await stream.send(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await stream.aclose()


LEAVE: list[Callable[[SocketStream], Awaitable[None]]] = [close, end_sending, ask_more_and_close]


@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize(("path", "streams"), [*ROUTES, ("/mcp", False)])
async def test_who_leaves_the_queue_gives_their_place_to_the_next(
    path: str, streams: bool, leave: Callable[[SocketStream], Awaitable[None]]
) -> None:
    """Nobody said how long they wait, and no turn comes: the server's one place is taken."""
    models = scripted_models(play(ScriptedTurn("x", hangs=True)))
    async with full_server(models) as app, on_port(app) as url:
        port = int(url.rsplit(":", 1)[1].removesuffix("/mcp"))
        for _ in range(2):  # one may wait: the second takes the place of the first
            with anyio.fail_after(5):
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    await send(stream, path, streams=streams)
                    await until_waiting(app, 1)
                    await leave(stream)
                    await until_waiting(app, 0)
        with anyio.fail_after(5):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await send(stream, CHAT, streams=False)
                await until_waiting(app, 1)
    assert len(models.model.asked) == 1


async def test_what_is_sent_ahead_is_not_read_without_bound() -> None:
    models = scripted_models(play(ScriptedTurn("x", hangs=True)))
    async with full_server(models) as app, on_port(app) as url:
        port = int(url.rsplit(":", 1)[1].removesuffix("/mcp"))
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await send(stream, CHAT, streams=False)
            await until_waiting(app, 1)
            with anyio.move_on_after(0.2) as sent:
                await stream.send(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 2_000_000)
        assert sent.cancelled_caught
