"""Connects to a tool server that speaks streamable HTTP, within bounds of our own.

The twin of `process.py`: the same members, and nothing to start or to end. The SDK's client
reads JSON answers without bound and tells little of what went wrong; both are mended here.
Proxies of the environment are not used: this package never reads it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
from mcp import MCPError
from mcp.client.streamable_http import streamable_http_client

from tools.errors import ToolServerError
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.process import MAX_LINE_BYTES

_EVENT_STREAM = "text/event-stream"
_SESSION = "mcp-session-id"
_FIRST_ERROR, _NOT_FOUND = 400, 404


class RemoteServer:
    """A tool server at a URL, from connecting to losing it; used once.

    `lost` is set when the server has forgotten the session. A connection that fails ends `run`.
    """

    pid: int | None = None

    def __init__(self, config: ServerConfig) -> None:
        self.lost = anyio.Event()
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
                    headers={"accept-encoding": "identity", **self._config.headers},
                    timeout=httpx2.Timeout(limits.connect_s, read=limits.total_s),
                    transport=_BoundedTransport(),
                    event_hooks={"response": [self._look_at]},
                    trust_env=False,
                ) as client,
                streamable_http_client(
                    self._config.url,
                    http_client=client,
                    terminate_on_close=False,  # the server's idle limit ends the session
                    max_sse_event_size=MAX_LINE_BYTES,
                ) as streams,
            ):
                yield streams
        except* httpx2.HTTPError as group:
            self._end = f"cannot be used at {self._place}: {_first(group)}"
            raise ToolServerError(self._end) from group
        except* MCPError as group:
            if not self._is_refusal:
                raise
            raise ToolServerError(self._end) from group

    def describe_end(self) -> str:
        """Say why a server that was connected is there no more, as the rest of a sentence."""
        return self._end

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
        if self._is_refusal:
            self._end = f"answered with HTTP status {status} at {self._place}"
            if status in {401, 403}:
                self._end += "; check the entry's `headers`"
        if status == _NOT_FOUND and _SESSION in response.request.headers:
            self._end = "ended its session"
            self.lost.set()


class _BoundedTransport(httpx2.AsyncBaseTransport):
    """HTTP whose bodies end with an error at `MAX_LINE_BYTES`; events are bounded one by one."""

    def __init__(self) -> None:
        self._inner = httpx2.AsyncHTTPTransport(trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        if (encoding := response.headers.get("content-encoding", "identity")) != "identity":
            await response.aclose()
            raise httpx2.DecodingError(f"its answer is encoded as {encoding!r}, unasked")
        is_events = response.headers.get("content-type", "").lower().startswith(_EVENT_STREAM)
        if not is_events and isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _BoundedStream(response.stream)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        num_bytes = 0
        async for chunk in self._inner:
            num_bytes += len(chunk)
            if num_bytes > MAX_LINE_BYTES:
                raise httpx2.ReadError(f"it sent a message of more than {MAX_LINE_BYTES} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


def _first(group: BaseExceptionGroup[Exception]) -> str:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return str(first) or type(first).__name__
