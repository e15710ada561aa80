"""The one bridge between an event loop and the engine's thread.

Requests and aborts are left in a box that is emptied at the start of each step, so the
engine is only ever touched by one thread at a time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Protocol

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus
from anyio.streams.memory import MemoryObjectSendStream

from runtime.engine.engine import Engine
from runtime.errors import CapacityError
from runtime.grammar.constraint import Constraint
from runtime.request import GenerateRequest, TokenChunk

logger = logging.getLogger(__name__)


class AsyncEngine(Protocol):
    """What chat needs of an engine."""

    def generate(
        self, request: GenerateRequest, constraint: Constraint | None = None
    ) -> AsyncGenerator[TokenChunk, None]:
        """Run one request; closing the iterator, or cancelling, aborts it.

        The last chunk has a `finish_reason`. The constraint belongs to this request alone.

        Raises:
            InvalidRequestError: the request can't be run, `PromptTooLongError` among them.
            CapacityError: the queue is full, or the engine is closed.
        """
        ...

    async def aclose(self) -> None:
        """Abort what runs and stop."""
        ...


class ThreadedEngine:
    """Steps an `Engine` in a worker thread for as long as there is work."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._box: list[Callable[[], None]] = []
        self._streams: dict[int, MemoryObjectSendStream[TokenChunk]] = {}
        self._num_active = 0
        self._wake = anyio.Event()
        self._is_closed = False
        self._stopped = anyio.Event()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Step until `aclose`; to be started once, in a task group of its owner."""
        limiter = anyio.CapacityLimiter(1)
        task_status.started()
        try:
            while not self._is_closed:
                if not self._box and not self._engine.has_work:
                    await self._wake.wait()
                self._wake = anyio.Event()
                box, self._box = self._box, []
                chunks = await anyio.to_thread.run_sync(self._step, box, limiter=limiter)
                for sequence_id, chunk in chunks.items():
                    # Who has left the stream has put an abort into the box.
                    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                        self._streams[sequence_id].send_nowait(chunk)
        except Exception:
            logger.exception("the engine stopped; open requests end with an error")
        finally:
            self._is_closed = True
            for stream in self._streams.values():
                stream.close()
            self._stopped.set()

    async def generate(
        self, request: GenerateRequest, constraint: Constraint | None = None
    ) -> AsyncGenerator[TokenChunk, None]:
        """See `AsyncEngine.generate`."""
        if self._is_closed:
            raise CapacityError("the engine is closed; start it again")
        if self._num_active >= self._engine.limits.max_queue:
            raise CapacityError(
                f"{self._num_active} requests are being served, at most "
                f"{self._engine.limits.max_queue} may be; try again later"
            )
        self._engine.check(request)
        send, receive = anyio.create_memory_object_stream[TokenChunk](math.inf)
        sequence_ids: list[int] = []

        def add() -> None:
            sequence_ids.append(self._engine.add(request, constraint))
            self._streams[sequence_ids[0]] = send

        self._num_active += 1
        self._post(add)
        is_over = False
        try:
            async with send, receive:
                async for chunk in receive:
                    is_over = chunk.finish_reason is not None
                    yield chunk
                    if is_over:
                        return
            raise CapacityError("the engine was closed while the request ran")
        finally:
            self._num_active -= 1
            self._post(lambda: self._forget(sequence_ids, is_over=is_over))

    async def aclose(self) -> None:
        """Stop after the step that runs; open requests end with an error."""
        self._is_closed = True
        self._wake.set()
        await self._stopped.wait()

    def _post(self, action: Callable[[], None]) -> None:
        self._box.append(action)
        self._wake.set()

    def _step(self, box: list[Callable[[], None]]) -> dict[int, TokenChunk]:
        for action in box:
            action()
        return self._engine.step() if self._engine.has_work else {}

    def _forget(self, sequence_ids: list[int], *, is_over: bool) -> None:
        for sequence_id in sequence_ids:
            del self._streams[sequence_id]
            if not is_over:
                self._engine.abort(sequence_id)
