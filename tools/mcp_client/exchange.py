"""One request to a tool server on its way: how long it may take, and what is asked meanwhile."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import anyio
import mcp_types as types
from mcp import Client, MCPError

from tools.mcp_client.config import Timeouts
from tools.toolset import CallContext

MAX_ROUNDS = 10
"""Times that a server may answer a request with questions of its own."""

_FIRST_PAUSE_S, _MOST_PAUSE_S = 0.05, 0.25

T = TypeVar("T")
Replies = types.InputResponses | None
Send = Callable[[Replies, str | None], Awaitable[T | types.InputRequiredResult]]


class Answerer(Protocol):
    """Answers a question that a server put during a request."""

    async def __call__(
        self, request: types.InputRequest, exchange: Exchange
    ) -> types.InputResponse | types.ErrorData:
        """Answer; an error ends the request."""
        ...


class Exchange:
    """A request and its two deadlines: of silence, which progress moves, and of it all.

    Whatever is done for it stands within `scope`. While a person or our model is asked, the
    server's silence does not count. `ended` is set when it is over.
    """

    def __init__(
        self, client: Client, context: CallContext, limits: Timeouts, answer: Answerer
    ) -> None:
        self.client = client
        self.context = context
        self.ended = anyio.Event()
        self._limits = limits
        self._answer = answer
        self._num_pauses = 0
        self._last = anyio.current_time() + limits.total_s
        self._best = -math.inf
        self.scope = anyio.CancelScope()
        self._stir()

    @property
    def is_over(self) -> bool:
        """Whether its whole time has passed, not only that of a silence."""
        return anyio.current_time() >= self._last

    async def on_progress(self, progress: float, total: float | None, message: str | None) -> None:
        """Take a report of the server; it is passed on unless it came too late."""
        self._stir()
        if progress > self._best:  # the wire does not keep the order
            self._best = progress
            await self.context.report_progress(progress, total, message)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let no silence count meanwhile."""
        self._num_pauses += 1
        self._stir()
        try:
            yield
        finally:
            self._num_pauses -= 1
            self._stir()

    async def settle(self, send: Send[T]) -> T:
        """Send a request of the modern era until its result is no question any more.

        Raises:
            MCPError: the server refused, or one of its questions got an error.
            RuntimeError: it asked `MAX_ROUNDS` times.
        """
        result = await send(None, None)
        pause_s = _FIRST_PAUSE_S
        for _ in range(MAX_ROUNDS):
            if not isinstance(result, types.InputRequiredResult):
                return result
            replies: types.InputResponses = {}
            for key, request in (result.input_requests or {}).items():
                reply = await self._answer(request, self)
                if isinstance(reply, types.ErrorData):
                    raise MCPError.from_error_data(reply)
                replies[key] = reply
            if not replies:  # it only wants to be asked again
                await anyio.sleep(pause_s)
                pause_s = min(2 * pause_s, _MOST_PAUSE_S)
            self._stir()
            result = await send(replies or None, result.request_state)
        if isinstance(result, types.InputRequiredResult):
            raise RuntimeError(f"it asked {MAX_ROUNDS} times")
        return result

    def _stir(self) -> None:
        idle_s = math.inf if self._num_pauses else self._limits.idle_s
        self.scope.deadline = min(anyio.current_time() + idle_s, self._last)
