"""The older HTTP transport: messages come as events of one stream, and go out as posts.

The SDK's client of it bounds events elsewhere than we do and lets a request whose post fails wait
for ever; here it gets the failure. Source: MCP revision 2024-11-05, "HTTP with SSE".
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urljoin, urlsplit

import anyio
import httpx2
import mcp_types as types
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage

from tools.errors import ToolServerError
from tools.mcp_client.bounded_http import EVENT_STREAM
from tools.mcp_client.process import MAX_LINE_BYTES, Incoming, Streams

logger = logging.getLogger(__name__)

_MAX_QUEUED_MESSAGES = 256
_HEADERS = {"accept": EVENT_STREAM, "cache-control": "no-store"}


@asynccontextmanager
async def open_sse(
    client: httpx2.AsyncClient, url: str, lost: anyio.Event
) -> AsyncIterator[Streams]:
    """Open the stream of events, yield what `mcp.Client` takes; sets `lost` when it ends.

    Raises:
        ToolServerError: the server does not speak this transport; the rest of a sentence.
        httpx2.HTTPError: it cannot be reached.
    """
    async with client.stream("GET", url, headers=_HEADERS) as response:
        if not response.is_success:
            raise ToolServerError(f"answered with HTTP status {response.status_code}")
        kind = response.headers.get("content-type", "none")
        if not kind.lower().startswith(EVENT_STREAM):
            raise ToolServerError(f"answered with content of the type {kind!r}, not with events")
        events = aiter(httpx2.EventSource(response, max_event_size=MAX_LINE_BYTES))
        endpoint = await _find_endpoint(url, events)
        sink, incoming = anyio.create_memory_object_stream[Incoming]()
        outgoing, source = anyio.create_memory_object_stream[SessionMessage](_MAX_QUEUED_MESSAGES)
        async with anyio.create_task_group() as group, sink, source, incoming, outgoing:
            group.start_soon(_read, events, sink, lost)
            group.start_soon(_write, client, endpoint, source, sink)
            try:
                yield incoming, outgoing
            finally:
                group.cancel_scope.cancel()


async def _find_endpoint(url: str, events: AsyncIterator[httpx2.ServerSentEvent]) -> str:
    """Return where messages are posted, which the first event says: a URL of the same server."""
    async for event in events:
        if event.event != "endpoint":
            break
        endpoint = urljoin(url, event.data)
        ours, theirs = urlsplit(url), urlsplit(endpoint)
        if (ours.scheme, ours.netloc) != (theirs.scheme, theirs.netloc):
            raise ToolServerError(f"wants its messages at another server, {theirs.netloc!r}")
        return endpoint
    raise ToolServerError("sent no endpoint, which begins a stream of events")


async def _read(
    events: AsyncIterator[httpx2.ServerSentEvent],
    sink: MemoryObjectSendStream[Incoming],
    lost: anyio.Event,
) -> None:
    async with sink:
        try:
            async for event in events:
                if event.event == "message" and event.data:
                    message = types.jsonrpc_message_adapter.validate_json(event.data, by_name=False)
                    await sink.send(SessionMessage(message))
        except ValueError as exc:
            logger.warning("an event is no message, so its server is given up: %s", exc)
        except anyio.BrokenResourceError:  # the client left
            return
        lost.set()


async def _write(
    client: httpx2.AsyncClient,
    endpoint: str,
    source: MemoryObjectReceiveStream[SessionMessage],
    sink: MemoryObjectSendStream[Incoming],
) -> None:
    """Post one message after another, for their order counts."""
    async for item in source:
        failure = await _post(client, endpoint, item)
        if failure is not None and isinstance(item.message, types.JSONRPCRequest):
            error = types.JSONRPCError(jsonrpc="2.0", id=item.message.id, error=failure)
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await sink.send(SessionMessage(error))


async def _post(
    client: httpx2.AsyncClient, endpoint: str, item: SessionMessage
) -> types.ErrorData | None:
    """Post a message; return why it was refused."""
    message = item.message.model_dump(by_alias=True, mode="json", exclude_unset=True)
    response = await client.post(endpoint, json=message)
    if response.is_success:
        return None
    try:
        told = types.jsonrpc_message_adapter.validate_json(response.content, by_name=False)
    except ValueError:
        told = None
    if isinstance(told, types.JSONRPCError):
        return told.error
    text = f"HTTP status {response.status_code}"
    return types.ErrorData(code=types.INTERNAL_ERROR, message=text)
