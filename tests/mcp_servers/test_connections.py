"""Tests of slow clients on real sockets: what they hold up, and that they are hung up on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import ClassVar

import anyio
import anyio.lowlevel
import httpx2
import pytest
from anyio.abc import SocketStream

from mcp_servers.model_server.connections import MAX_UNREAD_BYTES, Connection
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import on_port, open_app

pytestmark = pytest.mark.anyio

HELLO = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]}
HEAD = b"Host: 127.0.0.1\r\nContent-Type: application/json\r\n"


class Impatient(Connection):
    """Gives a client no time.

    Attributes:
        unread: how many bytes waited for each client that was left.
    """

    headers_within_s = 0.05
    slow_reader_s = 0.05
    unread: ClassVar[list[int]] = []

    def _leave_reader(self) -> None:
        self.unread.append(self.transport.get_write_buffer_size())
        super()._leave_reader()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[SocketStream]:
    async with await anyio.connect_tcp("127.0.0.1", int(url.rsplit(":", 1)[1][:-4])) as stream:
        yield stream


async def send_until_hung_up(stream: SocketStream, part: bytes) -> None:
    while True:
        await stream.send(part)


async def read_all(stream: SocketStream) -> bytes:
    """Read until the other side hangs up, whichever way it does."""
    received = b""
    try:
        while True:
            received += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return received


@pytest.mark.parametrize(
    "sent", [b"", b"G", b"GET /health HTTP/1.1\r\n", b"GET /health HTTP/1.1\r\nHost: 127"]
)
async def test_headers_that_do_not_come_are_not_waited_for(sent: bytes) -> None:
    async with (
        open_app(scripted_models(play(ScriptedTurn("x")))) as app,
        on_port(app, Impatient) as url,
        connected(url) as stream,
    ):
        if sent:
            await stream.send(sent)
        with anyio.fail_after(5):
            assert await read_all(stream) == b""


async def test_a_second_request_on_a_connection_is_not_waited_for_once_begun() -> None:
    async with (
        open_app(scripted_models(play(ScriptedTurn("x")))) as app,
        on_port(app, Impatient) as url,
        connected(url) as stream,
    ):
        await stream.send(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /h")
        with anyio.fail_after(5):
            answer = await read_all(stream)
    assert answer.count(b"HTTP/1.1 200") == 1


async def test_an_answer_that_takes_long_is_waited_for() -> None:
    models = scripted_models(play(ScriptedTurn("x", hangs=True)))
    async with (
        open_app(models) as app,
        on_port(app, Impatient) as url,
        connected(url) as stream,
    ):
        body = json.dumps(HELLO).encode()
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        await stream.send(b"POST /v1/chat/completions HTTP/1.1\r\n" + HEAD + length + body)
        with anyio.move_on_after(4 * Impatient.headers_within_s) as waited:
            await stream.receive()
        assert waited.cancelled_caught
        assert models.model.num_open == 1


async def test_a_body_that_goes_on_after_its_refusal_is_not_read_for_ever() -> None:
    async with (
        open_app(scripted_models(play(ScriptedTurn("x")))) as app,
        on_port(app, Impatient) as url,
        connected(url) as stream,
    ):
        line = b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
        await stream.send(line + HEAD + b"\r\n")
        part = b"100000\r\n" + b" " * 1024 * 1024 + b"\r\n"
        with anyio.fail_after(10), pytest.raises(anyio.BrokenResourceError):
            await send_until_hung_up(stream, part)


async def test_five_hundred_half_open_connections_hold_nobody_up() -> None:
    async with (
        open_app(scripted_models(play(ScriptedTurn("x")))) as app,
        on_port(app) as url,
        AsyncExitStack() as stack,
    ):
        for number in range(500):
            stream = await stack.enter_async_context(connected(url))
            begun = [b"", b"POST /v1/ch", b"POST /v1/x HTTP/1.1\r\n" + HEAD][number % 3]
            await stream.send(begun + b"Content-Length: 9\r\n\r\n{" * (number % 3 == 2))
        async with httpx2.AsyncClient(base_url=url.removesuffix("/mcp")) as client:
            with anyio.fail_after(5):
                health = await client.get("/health")
                answer = await client.post("/v1/chat/completions", json=HELLO)
    assert (health.status_code, answer.status_code) == (200, 200)


async def test_a_client_that_reads_nothing_is_left_and_its_turn_ends() -> None:
    models = scripted_models(play(ScriptedTurn((10_000 * "w" + " ") * 2000)))
    Impatient.unread.clear()
    async with (
        open_app(models) as app,
        on_port(app, Impatient) as url,
        connected(url) as stream,
    ):
        body = json.dumps({**HELLO, "stream": True}).encode()
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        await stream.send(b"POST /v1/chat/completions HTTP/1.1\r\n" + HEAD + length + body)
        with anyio.fail_after(10):
            while not models.model.asked:
                await anyio.lowlevel.checkpoint()
            while models.model.num_open:
                await anyio.lowlevel.checkpoint()
        received = await read_all(stream)
    assert b"[DONE]" not in received
    assert len(received) < 20_000_000
    (unread,) = Impatient.unread
    assert MAX_UNREAD_BYTES <= unread < MAX_UNREAD_BYTES + 2 * 10_000
