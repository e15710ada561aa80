"""Tests of where connections go: what was checked, whatever a name means by then."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx2
import pytest
from anyio.abc import SocketAttribute, SocketStream

from tests.helpers.http_tool_servers import http_response
from tools.mcp_client.checked_http import CheckedTransport
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.oauth_flow import FLOW_ERRORS, auth_client

pytestmark = pytest.mark.anyio

SPELLINGS = ["127.0.0.1", "127.1", "2130706433", "0x7f.0.0.1", "[::ffff:127.0.0.1]", "localhost"]


@dataclass
class Victim:
    """A server inside the network, and who came to it."""

    port: int = 0
    heads: list[bytes] = field(default_factory=list)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            self.port = listener.extra(SocketAttribute.local_port)
            async with anyio.create_task_group() as group:
                group.start_soon(listener.serve, self._answer)
                yield
                group.cancel_scope.cancel()

    async def _answer(self, stream: SocketStream) -> None:
        async with stream:
            self.heads.append(await stream.receive())
            await stream.send(http_response(200))


@pytest.fixture
async def victim() -> AsyncIterator[Victim]:
    victim = Victim()
    with anyio.fail_after(10):
        async with victim.run():
            yield victim


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: Sequence[str]) -> list[str]:
    """Let every name mean these addresses, one list after another; tells which were asked."""
    asked: list[str] = []
    left = list(answers)

    async def getaddrinfo(host: str, port: int, **options: Any) -> list[Any]:
        asked.append(host)
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found]

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
    return asked


async def get(url: str, *, may_be_inner: bool) -> httpx2.Response:
    transport = CheckedTransport(lambda host, port: may_be_inner)
    async with httpx2.AsyncClient(transport=transport, timeout=5) as client:
        return await client.get(url)


@pytest.mark.parametrize("host", SPELLINGS)
async def test_no_spelling_of_an_inner_address_is_connected_to(victim: Victim, host: str) -> None:
    url = f"http://{host}:{victim.port}/"
    with pytest.raises(httpx2.ConnectError, match="inside this network, where only what"):
        await get(url, may_be_inner=False)
    assert victim.heads == []
    if host != "[::ffff:127.0.0.1]":  # some systems do not connect so
        assert (await get(url, may_be_inner=True)).status_code == 200
        assert f"host: {host}:{victim.port}\r\n".encode() in victim.heads[0].lower()


async def test_a_name_that_means_another_address_later_gains_nothing(
    victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = resolve_to(monkeypatch, ["127.0.0.1", "169.254.169.254"], ["169.254.169.254"])
    url = f"http://tools.example:{victim.port}/"
    assert (await get(url, may_be_inner=True)).status_code == 200
    assert (asked, len(victim.heads)) == (["tools.example"], 1)
    with pytest.raises(httpx2.ConnectError, match=r"tools\.example is 169\.254\.169\.254, inside"):
        await get(url, may_be_inner=True)


async def test_the_next_address_of_a_name_is_tried_where_the_first_does_not_answer(
    victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, ["127.0.0.9", "127.0.0.1"])  # nobody listens at the first
    url = f"http://tools.example:{victim.port}/"
    assert (await get(url, may_be_inner=True)).status_code == 200


async def test_a_name_that_nobody_knows_is_an_error_of_the_connection() -> None:
    for host in ("nobody.invalid", "a" * 64 + ".invalid"):
        with pytest.raises(httpx2.ConnectError, match="cannot be found"):
            await get(f"http://{host}/", may_be_inner=True)


@pytest.mark.parametrize("target", ["https://127.1:{port}/", "https://login.example:{port}/"])
async def test_a_tool_server_cannot_lead_a_login_inside_by_a_name(
    victim: Victim, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    if "example" in target:
        resolve_to(monkeypatch, ["127.0.0.1"])
    config = ServerConfig("web", url="https://tools.example/mcp")
    async with auth_client(config) as client:
        with pytest.raises(FLOW_ERRORS, match="inside this network"):
            await client.get(target.format(port=victim.port))
    assert victim.heads == []
