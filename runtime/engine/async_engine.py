"""The one bridge between an event loop and the engine's thread.

One worker thread owns the engine. Requests and aborts are left in a box that it empties before
each step; chunks go out over a second one, whose bell wakes the event loop. Neither side ever
waits for the other, so the loop's work overlaps with the forward pass.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Protocol

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.abc import TaskStatus

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


class _Mailbox:
    """Chunks on their way to the task that reads one request's; the event loop's alone.

    Half the work of an anyio stream, which turns the loop once more for every item.
    """

    def __init__(self) -> None:
        self._chunks: deque[TokenChunk] = deque()
        self._changed = anyio.Event()
        self._is_closed = False

    def put(self, chunk: TokenChunk) -> None:
        self._chunks.append(chunk)
        self._changed.set()

    def close(self) -> None:
        """No more chunks will come."""
        self._is_closed = True
        self._changed.set()

    async def get(self) -> TokenChunk | None:
        """Wait for the next chunk; None when there will be none."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        while not self._chunks:
            if self._is_closed:
                return None
            self._changed = anyio.Event()
            await self._changed.wait()
        return self._chunks.popleft()


class ThreadedEngine:
    """Steps an `Engine` in a worker thread for as long as there is work."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._box: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._outbox: deque[list[tuple[_Mailbox, TokenChunk]] | None] = deque()
        self._mailboxes: dict[int, _Mailbox] = {}  # by sequence id; the worker thread's
        self._open: set[_Mailbox] = set()  # the event loop's
        self._is_closed = False
        self._stopped = anyio.Event()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Step until `aclose`; to be started once, in a task group of its owner."""
        bell, rope = socket.socketpair()
        work = partial(anyio.to_thread.run_sync, limiter=anyio.CapacityLimiter(1))
        try:
            with bell, rope:
                bell.settimeout(0)
                rope.settimeout(0)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(work, self._work, rope)
                    task_status.started()
                    try:
                        await self._deliver(bell)
                    finally:
                        self._close()
        finally:
            for mailbox in self._open:
                mailbox.close()
            self._stopped.set()

    async def generate(
        self, request: GenerateRequest, constraint: Constraint | None = None
    ) -> AsyncGenerator[TokenChunk, None]:
        """See `AsyncEngine.generate`."""
        if self._is_closed:
            raise CapacityError("the engine is closed; start it again")
        if len(self._open) >= self._engine.limits.max_queue:
            raise CapacityError(
                f"{len(self._open)} requests are being served, at most "
                f"{self._engine.limits.max_queue} may be; try again later"
            )
        self._engine.check(request)
        mailbox = _Mailbox()
        sequence_ids: list[int] = []

        def add() -> None:
            sequence_ids.append(self._engine.add(request, constraint))
            self._mailboxes[sequence_ids[0]] = mailbox

        self._open.add(mailbox)
        self._box.put(add)
        is_over = False
        try:
            while (chunk := await mailbox.get()) is not None:
                is_over = chunk.finish_reason is not None
                yield chunk
                if is_over:
                    return
            raise CapacityError("the engine was closed while the request ran")
        finally:
            self._open.remove(mailbox)
            self._box.put(lambda: self._forget(sequence_ids, is_over=is_over))

    async def aclose(self) -> None:
        """Stop after the step that runs; open requests end with an error."""
        self._close()
        await self._stopped.wait()

    def _close(self) -> None:
        self._is_closed = True
        self._box.put(lambda: None)  # wakes a thread that waits for work

    async def _deliver(self, bell: socket.socket) -> None:
        """Put the worker thread's chunks into their mailboxes until it ends."""
        while True:
            await anyio.wait_readable(bell)
            bell.recv(4096)
            while self._outbox:
                if (chunks := self._outbox.popleft()) is None:
                    return
                for mailbox, chunk in chunks:
                    mailbox.put(chunk)

    def _work(self, rope: socket.socket) -> None:
        """Step until closed; runs in the worker thread."""
        try:
            while not self._is_closed:
                if not self._engine.has_work or not self._box.empty():
                    self._box.get()()
                elif chunks := self._engine.step():
                    self._outbox.append(
                        [(self._mailboxes[one], chunk) for one, chunk in chunks.items()]
                    )
                    _ring(rope)
            for sequence_id in self._mailboxes:
                self._engine.abort(sequence_id)
        except Exception:
            logger.exception("the engine stopped; open requests end with an error")
        finally:
            self._is_closed = True
            self._outbox.append(None)
            _ring(rope)

    def _forget(self, sequence_ids: list[int], *, is_over: bool) -> None:
        for sequence_id in sequence_ids:
            del self._mailboxes[sequence_id]
            if not is_over:
                self._engine.abort(sequence_id)


def _ring(rope: socket.socket) -> None:
    """Make the other end readable; a full buffer means that it is."""
    with suppress(BlockingIOError):
        rope.send(b"\0")
