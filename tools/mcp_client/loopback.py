"""The port of this machine that a browser comes back to after a login.

It takes one answer, the one that bears the login's state; whatever else comes is turned away.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.stapled import MultiListener
from mcp.client.auth import OAuthFlowError
from mcp.shared.auth import AuthorizationCodeResult

from tools.errors import ConfigurationError

PATH = "/callback"

_MAX_HEAD_BYTES = 16 * 1024
_READ_WITHIN_S = 10.0
_DONE = "You are logged in. You may close this window and go back to Zonda."
_FAILED = "The login failed; Zonda says why. You may close this window."
_OTHER = "This is not the login that Zonda waits for."


@dataclass
class Callback:
    """Where a login comes back to.

    Attributes:
        url: the redirect URI.
        state: what a login's answer has to bear; unset, nothing is an answer.
    """

    url: str
    state: str = ""
    _answer: dict[str, str] = field(default_factory=dict)
    _has_come: anyio.Event = field(default_factory=anyio.Event)

    async def result(self) -> AuthorizationCodeResult:
        """Wait for the browser.

        Raises:
            OAuthFlowError: the authorization server refused.
        """
        await self._has_come.wait()
        if (error := self._answer.get("error")) is not None:
            told = self._answer.get("error_description", "")
            raise OAuthFlowError(f"it was refused: {error} {told}".rstrip())
        code, state, iss = (self._answer.get(name) for name in ("code", "state", "iss"))
        return AuthorizationCodeResult(code=code or "", state=state, iss=iss)

    async def serve(self, stream: SocketStream) -> None:
        """Answer one request."""
        async with stream:
            with (
                suppress(anyio.BrokenResourceError, anyio.EndOfStream, anyio.IncompleteRead),
                suppress(anyio.DelimiterNotFound),
                anyio.move_on_after(_READ_WITHIN_S),
            ):
                buffered = BufferedByteReceiveStream(stream)
                head = await buffered.receive_until(b"\r\n\r\n", _MAX_HEAD_BYTES)
                status, text = self._take(head.decode("latin-1"))
                await stream.send(_response(status, text))

    def _take(self, head: str) -> tuple[str, str]:
        method, _, rest = head.partition("\r\n")[0].partition(" ")
        try:
            target = urlsplit(rest.rpartition(" ")[0])
            given = parse_qs(target.query, max_num_fields=20)
        except ValueError:
            return "400 Bad Request", _OTHER
        if method != "GET" or target.path != PATH:
            return "404 Not Found", _OTHER
        answer = {name: values[0] for name, values in given.items()}
        state = answer.get("state", "").encode()
        if not self.state or not secrets.compare_digest(state, self.state.encode()):
            return "400 Bad Request", _OTHER
        if not self._has_come.is_set():
            self._answer = answer
            self._has_come.set()
        return "200 OK", _FAILED if "error" in self._answer else _DONE


@asynccontextmanager
async def open_callback(port: int, *, is_fixed: bool = True) -> AsyncIterator[Callback]:
    """Listen on a loopback port (0 takes a free one) until left.

    Where it is not `is_fixed`, another is as good if it is taken.

    Raises:
        ConfigurationError: the port is taken.
    """
    try:
        listener = await _listen(port, is_fixed=is_fixed)
    except OSError as exc:
        raise ConfigurationError(
            f"a login has to come back to port {port} of this machine, which is taken; end what "
            "uses it, or register another `redirect_port`"
        ) from exc
    failure: Exception | None = None
    async with listener, anyio.create_task_group() as group:
        bound = listener.extra(SocketAttribute.local_port)  # noqa: S610  no database's
        callback = Callback(f"http://127.0.0.1:{bound}{PATH}")
        group.start_soon(listener.serve, callback.serve)
        try:
            yield callback
        except Exception as exc:  # noqa: BLE001  raised below, outside of the group: not wrapped
            failure = exc
        finally:
            group.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _listen(port: int, *, is_fixed: bool) -> MultiListener[SocketStream]:
    try:
        return await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    except OSError:
        if is_fixed:
            raise
        return await anyio.create_tcp_listener(local_host="127.0.0.1")


def _response(status: str, text: str) -> bytes:
    body = f"<!doctype html><title>Zonda</title><p>{text}</p>".encode()
    lines = (
        f"HTTP/1.1 {status}",
        "content-type: text/html; charset=utf-8",
        f"content-length: {len(body)}",
        "cache-control: no-store",
        "referrer-policy: no-referrer",
        "connection: close",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
