"""MCP over the lines of a Unix socket: the streams that the SDK's server runs on.

The SDK's stdio transport reads its files on threads, one for each and never to be cancelled.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp_types as types
from anyio.abc import ByteReceiveStream, ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import ServerMessageMetadata, SessionMessage

from mcp_servers.message_rules import INVALID_REQUEST, MAX_MESSAGE_BYTES, Refusal

Incoming = SessionMessage | Exception
Streams = tuple[MemoryObjectReceiveStream[Incoming], MemoryObjectSendStream[SessionMessage]]

GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)
"""What reading from or writing to a peer raises that has left."""


class LineReader:
    """Reads lines, each at most so long; a peer that sends more or leaves has ended."""

    def __init__(self, stream: ByteReceiveStream) -> None:
        self._stream = BufferedByteReceiveStream(stream)

    async def next(self, max_bytes: int = MAX_MESSAGE_BYTES + 1) -> bytes | None:
        """Return the next line without its end; None when no more come."""
        try:
            return await self._stream.receive_until(b"\n", max_bytes)
        except (anyio.IncompleteRead, anyio.DelimiterNotFound, *GONE):
            return None


class LineWriter:
    """Writes whole lines, whoever writes them."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._lock = anyio.Lock()

    async def write(self, line: bytes) -> None:
        """Write a line.

        Raises:
            BrokenResourceError: the peer has left.
        """
        async with self._lock:
            await self._stream.send(line)


@asynccontextmanager
async def open_line_streams(
    reader: LineReader, writer: LineWriter, request: Any
) -> AsyncIterator[Streams]:
    """Carry messages from and to a peer; each comes with `request`, which says whose it is."""
    sink, incoming = anyio.create_memory_object_stream[Incoming]()
    outgoing, source = anyio.create_memory_object_stream[SessionMessage]()
    metadata = ServerMessageMetadata(request_context=request)

    async def read() -> None:
        async with sink:
            while (line := await reader.next()) is not None:
                try:
                    message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValueError:
                    await writer.write(_refuse(line))
                    continue
                await sink.send(SessionMessage(message, metadata))

    async def write() -> None:
        async with source:
            async for item in source:
                text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
                await writer.write(text.encode() + b"\n")

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        group.start_soon(write)
        yield incoming, outgoing
        group.cancel_scope.cancel()


def _refuse(line: bytes) -> bytes:
    """Make the error for a line that the relay let through and that is no message of MCP's."""
    found = json.loads(line)
    request_id = found.get("id") if isinstance(found, dict) else None
    refusal = Refusal(INVALID_REQUEST, "the line is not a JSON-RPC 2.0 message", request_id)
    return json.dumps(refusal.to_message()).encode() + b"\n"
