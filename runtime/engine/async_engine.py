"""The one bridge between an event loop and the engine's thread.

One worker thread owns the engine. Requests and aborts are left in a box that it empties before
each step; chunks go out over a second one, whose bell wakes the event loop. Neither side ever
waits for the other, so the loop's work overlaps with the forward pass. What copies pages takes
turns with the steps.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.abc import TaskStatus

from runtime.engine.embedding import Vectors
from runtime.engine.engine import Engine
from runtime.engine.prefix_pages import PageBytes, Turns
from runtime.engine.tally import EngineState
from runtime.errors import CapacityError, GenerationError
from runtime.grammar.constraint import Constraint
from runtime.request import GenerateRequest, TokenChunk

SWITCH_INTERVAL_S = 0.0005
"""How long another thread that runs Python may keep the engine's waiting between two steps."""

logger = logging.getLogger(__name__)

T = TypeVar("T")


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

    async def hold_prefix(
        self, lease: str, token_ids: Sequence[int], pages: PageBytes | None = None
    ) -> bool:
        """Pin a prefix's full pages until memory runs short, in place of what `lease` held.

        `pages` are what `read_prefix` gave for these tokens on an equal engine; they are used
        where the prefix is not computed. False where it cannot be had so; the lease is as it
        was. A prefix of no full page ends the lease.

        Raises:
            CapacityError: the engine is closed.
        """
        ...

    async def read_prefix(self, token_ids: Sequence[int]) -> PageBytes | None:
        """Copy a computed prefix's full pages; None where it is not, or pages can't be copied.

        Raises:
            CapacityError: the engine is closed.
        """
        ...

    async def embed(self, texts: Sequence[Sequence[int]]) -> Vectors:
        """Return texts' vectors: means of their last hidden states, of length 1.

        Raises:
            InvalidRequestError: a text cannot be computed, `PromptTooLongError` among them, or
                the model gives no vectors.
            CapacityError: the engine is closed.
            GenerationError: the computation failed.
        """
        ...

    async def aclose(self) -> None:
        """Abort what runs and stop."""
        ...


class _Mailbox(Generic[T]):
    """What is on its way to the task that reads it, such as a request's chunks; the loop's alone.

    Half the work of an anyio stream, which turns the loop once more for every item.
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._changed = anyio.Event()
        self._is_closed = False

    def put(self, item: T) -> None:
        self._items.append(item)
        self._changed.set()

    def close(self) -> None:
        """No more will come."""
        self._is_closed = True
        self._changed.set()

    async def get(self) -> T | None:
        """Wait for the next item; None when there will be none."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        while not self._items:
            if self._is_closed:
                return None
            self._changed = anyio.Event()
            await self._changed.wait()
        return self._items.popleft()


class _Chore(Generic[T]):
    """Work in turns, and where its result goes: a tuple of it, an empty one if it failed."""

    def __init__(self, turns: Turns[T], mailbox: _Mailbox[tuple[T] | tuple[()]]) -> None:
        self._turns = turns
        self.mailbox = mailbox

    def take_turn(self) -> tuple[T] | tuple[()] | None:
        """Work a little; None when it isn't done."""
        try:
            next(self._turns)
        except StopIteration as stop:
            return (stop.value,)
        except Exception:
            logger.exception("pages could not be copied")
            return ()
        return None

    def close(self) -> None:
        self._turns.close()


class ThreadedEngine:
    """Steps an `Engine` in a worker thread for as long as there is work."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._box: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._outbox: deque[list[tuple[_Mailbox[Any], Any]] | None] = deque()
        self._mailboxes: dict[int, _Mailbox[TokenChunk]] = {}  # by sequence id; the worker thread's
        self._chores: deque[_Chore[Any]] = deque()  # the worker thread's
        self._open: set[_Mailbox[Any]] = set()  # the event loop's
        self._is_closed = False
        self._stopped = anyio.Event()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Step until `aclose`; to be started once, in a task group of its owner.

        From then on the process's threads take turns every half millisecond.
        """
        sys.setswitchinterval(SWITCH_INTERVAL_S)
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
        mailbox = _Mailbox[TokenChunk]()
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

    async def hold_prefix(
        self, lease: str, token_ids: Sequence[int], pages: PageBytes | None = None
    ) -> bool:
        """See `AsyncEngine.hold_prefix`."""
        is_held = await self._do(lambda: self._engine.prefixes.hold(lease, token_ids, pages))
        return is_held or False

    async def read_prefix(self, token_ids: Sequence[int]) -> PageBytes | None:
        """See `AsyncEngine.read_prefix`."""
        return await self._do(lambda: self._engine.prefixes.read(token_ids))

    async def embed(self, texts: Sequence[Sequence[int]]) -> Vectors:
        """See `AsyncEngine.embed`."""
        if self._is_closed:
            raise CapacityError("the engine is closed; start it again")
        work = self._engine.embed(texts)
        if (vectors := await self._do(lambda: work)) is None:
            raise GenerationError("the vectors could not be computed; see the log")
        return vectors

    async def _do(self, work: Callable[[], Turns[T]]) -> T | None:
        """Let the worker thread do something between steps; None where it failed."""
        if self._is_closed:
            raise CapacityError("the engine is closed; start it again")
        mailbox = _Mailbox[tuple[T] | tuple[()]]()
        self._open.add(mailbox)
        chores: list[_Chore[T]] = []

        def add() -> None:
            chores.append(_Chore(work(), mailbox))
            self._chores.append(chores[0])

        self._box.put(add)
        try:
            if (result := await mailbox.get()) is None:
                raise CapacityError("the engine was closed meanwhile")
        finally:
            self._open.remove(mailbox)
            self._box.put(lambda: self._drop(chores))
        return result[0] if result else None

    def state(self) -> EngineState:
        """Say what goes on in the engine and what it did."""
        return self._engine.state()

    def _drop(self, chores: list[_Chore[Any]]) -> None:
        """End work that nobody waits for any more."""
        for chore in chores:
            if chore in self._chores:
                self._chores.remove(chore)
                chore.close()

    async def aclose(self) -> None:
        """Stop after the step that runs; open requests end with an error."""
        self._close()
        await self._stopped.wait()

    def _close(self) -> None:
        self._is_closed = True
        self._box.put(lambda: None)  # wakes a thread that waits for work

    async def _deliver(self, bell: socket.socket) -> None:
        """Put what the worker thread has into its mailboxes until it ends."""
        while True:
            await anyio.wait_readable(bell)
            bell.recv(4096)
            while self._outbox:
                if (letters := self._outbox.popleft()) is None:
                    return
                for mailbox, item in letters:
                    mailbox.put(item)

    def _work(self, rope: socket.socket) -> None:
        """Step until closed; runs in the worker thread."""
        try:
            while not self._is_closed:
                if not self._box.empty() or not (self._engine.has_work or self._chores):
                    self._box.get()()
                    continue
                if self._chores:
                    self._take_turn(rope)
                if self._engine.has_work and (chunks := self._engine.step()):
                    self._outbox.append(
                        [(self._mailboxes[one], chunk) for one, chunk in chunks.items()]
                    )
                    _ring(rope)
            for sequence_id in self._mailboxes:
                self._engine.abort(sequence_id)
        except Exception:
            logger.exception("the engine stopped; open requests end with an error")
        finally:
            for chore in self._chores:
                chore.close()
            self._is_closed = True
            self._outbox.append(None)
            _ring(rope)

    def _take_turn(self, rope: socket.socket) -> None:
        """Get on with the first chore."""
        if (result := self._chores[0].take_turn()) is not None:
            self._outbox.append([(self._chores.popleft().mailbox, result)])
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
