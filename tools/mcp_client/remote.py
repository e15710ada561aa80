"""Connects to a tool server at a URL, within bounds of our own: streamable HTTP, or the older SSE.

The twin of `process.py`: the same members, and nothing to start or to end. The SDK's client
tells little of what went wrong; that is mended here.
Proxies of the environment are not used: this package never reads it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
from mcp import MCPError
from mcp.client.streamable_http import streamable_http_client

from tools.errors import ToolServerError
from tools.mcp_client.bounded_http import BoundedTransport
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.oauth import ServerAuth
from tools.mcp_client.process import MAX_LINE_BYTES
from tools.mcp_client.sse import open_sse
from tools.mcp_client.token_store import TokenStore

_SESSION = "mcp-session-id"
_FIRST_ERROR, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _NOT_ALLOWED = 400, 401, 403, 404, 405


class RemoteServer:
    """A tool server at a URL, from connecting to losing it; used once.

    `lost` is set when the server has forgotten the session. A connection that fails ends `run`.
    Where the entry has no Authorization of its own, tokens are taken from `tokens`.

    Attributes:
        is_answered: whether the server has taken a message.
        is_older: whether it refused the first message as one does that only speaks SSE.
        auth: what bears tokens, or None.
    """

    pid: int | None = None

    def __init__(
        self, config: ServerConfig, tokens: TokenStore | None = None, *, is_sse: bool = False
    ) -> None:
        self.lost = anyio.Event()
        self.is_answered = False
        self.is_older = False
        has_key = any(name.lower() == "authorization" for name in config.headers)
        self.auth = None if has_key else ServerAuth(config, tokens)
        self._is_sse = is_sse
        self._config = config
        self._end = f"did not answer within {config.timeouts.connect_s:g} s"
        self._is_refusal = False

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Any]:
        """Yield the SDK's streams, which `mcp.Client` takes.

        Raises:
            ToolServerError: the connection failed; the message is the rest of a sentence.
        """
        limits = self._config.timeouts
        try:
            async with (
                httpx2.AsyncClient(
                    auth=self.auth,
                    headers={"accept-encoding": "identity", **self._config.headers},
                    timeout=httpx2.Timeout(limits.connect_s, read=limits.total_s),
                    transport=BoundedTransport(lambda host, port: True),  # the entry's URL
                    event_hooks={"response": [self._look_at]},
                    trust_env=False,
                ) as client,
                self._open_streams(client) as streams,
            ):
                yield streams
        except* (httpx2.HTTPError, httpx2.SSEError) as group:
            self._end = f"cannot be used at {self._place}: {_first(group)}"
            raise ToolServerError(self._end) from group
        except* ToolServerError as group:
            told = self._problem or f"{_first(group)} at {self._place}"
            raise ToolServerError(told) from group
        except* MCPError as group:
            if not self._is_refusal:
                raise
            raise ToolServerError(self.describe_end()) from group

    def describe_end(self) -> str:
        """Say why a server that was connected is there no more, as the rest of a sentence."""
        if self._is_sse and self.lost.is_set():
            return self._problem or "ended its stream of events"
        return self._problem or self._end

    def _open_streams(self, client: httpx2.AsyncClient) -> AbstractAsyncContextManager[Any]:
        if self._is_sse:
            return open_sse(client, self._config.url, self.lost)
        return streamable_http_client(
            self._config.url,
            http_client=client,
            terminate_on_close=False,  # the server's idle limit ends the session
            max_sse_event_size=MAX_LINE_BYTES,
        )

    @property
    def _problem(self) -> str | None:
        return None if self.auth is None else self.auth.problem

    @property
    def _place(self) -> str:
        """The URL as far as it may be shown: without user, password and query."""
        parts = urlsplit(self._config.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    async def _look_at(self, response: httpx2.Response) -> None:
        """Keep what a refusal says; the SDK's errors do not."""
        if response.request.method != "POST":
            return
        status = response.status_code
        self._is_refusal = status >= _FIRST_ERROR
        self.is_answered = self.is_answered or not self._is_refusal
        if self._is_refusal:
            self._end = f"answered with HTTP status {status} at {self._place}"
            if status in {_UNAUTHORIZED, _FORBIDDEN}:
                self._end += "; check the entry's `headers`"
        self.is_older = not self.is_answered and status in {_NOT_FOUND, _NOT_ALLOWED}
        if status == _NOT_FOUND and _SESSION in response.request.headers:
            self._end = "ended its session"
            self.lost.set()


def _first(group: BaseExceptionGroup[Exception]) -> str:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return str(first) or type(first).__name__
