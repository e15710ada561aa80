"""HTTP whose answers end with an error where they grow too large or come encoded, unasked.

The SDK's clients read whole bodies without bound; events they bound one by one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

from tools.mcp_client.addresses import MayBeInner
from tools.mcp_client.process import MAX_LINE_BYTES

EVENT_STREAM = "text/event-stream"


class BoundedTransport(httpx2.AsyncBaseTransport):
    """HTTP whose bodies end with an error at `MAX_LINE_BYTES`; events are bounded one by one.

    It goes inside this network only where `may_be_inner` says so.
    """

    def __init__(self, may_be_inner: MayBeInner) -> None:
        from tools.mcp_client.checked_http import CheckedTransport

        self._inner = CheckedTransport(may_be_inner)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        if (encoding := response.headers.get("content-encoding", "identity")) != "identity":
            await response.aclose()
            raise httpx2.DecodingError(f"its answer is encoded as {encoding!r}, unasked")
        is_events = response.headers.get("content-type", "").lower().startswith(EVENT_STREAM)
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
