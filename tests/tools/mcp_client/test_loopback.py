"""The port that a browser comes back to takes the answer of its own login, and nothing else."""

from __future__ import annotations

import socket

import anyio
import pytest
from mcp.client.auth import OAuthFlowError
from mcp.shared.auth import AuthorizationCodeResult

from tools.errors import ConfigurationError
from tools.mcp_client.loopback import Callback, open_callback

pytestmark = pytest.mark.anyio
GOOD = "GET /callback?code=c1&state=s1&iss=https%3A%2F%2Fi HTTP/1.1\r\nHost: x\r\n\r\n"


async def say(callback: Callback, text: str) -> str:
    """Send bytes to the port; return the status it answers with, "" when it hangs up."""
    port = int(callback.url.rsplit(":", 1)[1].partition("/")[0])
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(text.encode("latin-1"))
        try:
            return (await stream.receive()).split()[1].decode()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return ""


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (GOOD.replace("s1", "s2"), "400"),
        (GOOD.replace("&state=s1", ""), "400"),
        (GOOD.replace("/callback", "/"), "404"),
        (GOOD.replace("GET", "POST"), "404"),
        ("GET http://[x/callback?state=s1 HTTP/1.1\r\n\r\n", "400"),
        ("GET /callback?" + "a=1&" * 30 + "state=s1 HTTP/1.1\r\n\r\n", "400"),
        ("\x16\x03\x01\r\n\r\n", "404"),
        ("GET /" + "x" * 20_000, ""),
    ],
)
async def test_what_is_no_answer_of_the_login_is_turned_away(
    request_text: str, status: str
) -> None:
    with anyio.fail_after(5):
        async with open_callback(0) as callback:
            callback.state = "s1"
            assert await say(callback, request_text) == status
            assert await say(callback, GOOD) == "200"
            assert await callback.result() == AuthorizationCodeResult(
                code="c1", state="s1", iss="https://i"
            )


async def test_nothing_is_an_answer_before_a_login_has_begun() -> None:
    with anyio.fail_after(5):
        async with open_callback(0) as callback:
            assert await say(callback, GOOD) == "400"
            assert await say(callback, GOOD.replace("s1", "")) == "400"


async def test_the_first_answer_counts() -> None:
    with anyio.fail_after(5):
        async with open_callback(0) as callback:
            callback.state = "s1"
            await say(callback, GOOD.replace("code=c1", "error=access_denied"))
            await say(callback, GOOD)
            with pytest.raises(OAuthFlowError, match="it was refused: access_denied"):
                await callback.result()


async def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} of this machine"):
            async with open_callback(port):
                pass
        async with open_callback(port, is_fixed=False) as callback:
            assert f":{port}/" not in callback.url
