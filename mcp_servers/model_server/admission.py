"""Who may run now, who waits, and who is refused with a hint when to come back.

Counts runs; knows neither what they do nor how their callers are connected.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import anyio

from runtime.errors import CapacityError
from tools.errors import UnavailableError

FIRST_GUESS_S = 5.0
"""How long a run is taken to need before one has ended."""

MAX_RETRY_S = 60


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Most runs that go on and that wait, in all and of each caller."""

    max_running: int = 64
    max_waiting: int = 128
    max_running_each: int = 32
    max_waiting_each: int = 64


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a caller may still send.

    Attributes:
        limit: runs of one caller that may run and wait at the same time.
        remaining: of them, those that would be taken now.
        reset_s: seconds until likely all of the caller's have ended.
    """

    limit: int
    remaining: int
    reset_s: float


class Ticket:
    """One run's place, from the queue to its end; entered as a context around all of it."""

    def __init__(self, admission: Admission, caller: str) -> None:
        self._admission = admission
        self.caller = caller
        self.started_at: float | None = None
        self._is_called = anyio.Event()

    def call(self, now: float) -> None:
        """Let the run begin; for the admission that owns the ticket."""
        self.started_at = now
        self._is_called.set()

    async def turn(self) -> None:
        """Wait until the run may begin."""
        await self._is_called.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._admission.leave(self)


class Admission:
    """Hands out tickets. Of those who wait, the caller with fewest running goes first.

    Invariant: somebody waits only while all places, or all of that caller's, are taken.
    """

    def __init__(
        self, limits: AdmissionLimits | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits or AdmissionLimits()
        self._now = now
        self._running: set[Ticket] = set()
        self._waiting: list[Ticket] = []
        self._running_of: Counter[str] = Counter()
        self._mean_s = FIRST_GUESS_S
        self._is_closed = False
        self._emptied = anyio.Event()

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def enter(self, caller: str) -> Ticket:
        """Take a place, in the queue where none is free.

        Raises:
            CapacityError: the queue is full; the message says when to try again.
            UnavailableError: nobody is let in any more.
        """
        if self._is_closed:
            raise UnavailableError("the server is shutting down; try again when it is back")
        ticket = Ticket(self, caller)
        self._waiting.append(ticket)
        self._call_next()
        if ticket.started_at is None:
            self._check_queue(ticket)
        return ticket

    def check(self, caller: str) -> None:
        """Refuse a caller whom `enter` would refuse now; the cheap way to turn many away.

        Raises:
            CapacityError, UnavailableError: as `enter`.
        """
        limits, is_full = self._limits, len(self._running) >= self._limits.max_running
        is_full |= self._running_of[caller] >= limits.max_running_each
        may_wait = min(limits.max_waiting, limits.max_waiting_each)
        if self._is_closed or (is_full and len(self._waiting) >= may_wait):
            self.leave(self.enter(caller))

    def allowance(self, caller: str) -> Allowance:
        """Say how much the caller may still send."""
        limits = self._limits
        running = self._running_of[caller]
        waiting = sum(one.caller == caller for one in self._waiting)
        places = min(limits.max_running_each, limits.max_running)
        limit = places + min(limits.max_waiting_each, limits.max_waiting)
        free = limits.max_running + limits.max_waiting - len(self._running) - len(self._waiting)
        remaining = max(min(limit - running - waiting, free), 0)
        return Allowance(limit, remaining, self._mean_s * math.ceil((running + waiting) / places))

    async def turn(self, ticket: Ticket, within_s: float | None = None) -> None:
        """Wait until a ticket's run may begin.

        Raises:
            CapacityError: it did not within that time; the message says when to try again.
        """
        with anyio.move_on_after(math.inf if within_s is None else within_s):
            await ticket.turn()
        if ticket.started_at is None:
            raise CapacityError(
                f"no place was free within {within_s:g} s, as long as you wait; "
                f"try again in {self._retry_s(len(self._running))} s"
            )

    def leave(self, ticket: Ticket) -> None:
        """Give a ticket's place to the next one."""
        if ticket.started_at is None:
            self._waiting.remove(ticket)
        else:
            self._running.remove(ticket)
            self._running_of[ticket.caller] -= 1
            self._mean_s += 0.2 * (self._now() - ticket.started_at - self._mean_s)
        self._call_next()
        if not self._running and not self._waiting:
            self._emptied.set()
            self._emptied = anyio.Event()

    def close(self) -> None:
        """Let nobody in any more; who is in or waits is served."""
        self._is_closed = True

    async def emptied(self) -> None:
        """Wait until nothing runs and nobody waits."""
        while self._running or self._waiting:
            await self._emptied.wait()

    def _call_next(self) -> None:
        each = self._limits.max_running_each
        while len(self._running) < self._limits.max_running:
            able = (one for one in self._waiting if self._running_of[one.caller] < each)
            chosen = min(able, key=lambda one: self._running_of[one.caller], default=None)
            if chosen is None:
                return
            self._waiting.remove(chosen)
            self._running.add(chosen)
            self._running_of[chosen.caller] += 1
            chosen.call(self._now())

    def _check_queue(self, ticket: Ticket) -> None:
        of_caller = sum(one.caller == ticket.caller for one in self._waiting)
        for waiting, most, running, whose in (
            (of_caller, self._limits.max_waiting_each, self._running_of[ticket.caller], "your "),
            (len(self._waiting), self._limits.max_waiting, len(self._running), ""),
        ):
            if waiting > most:
                self._waiting.remove(ticket)
                raise CapacityError(
                    f"{running} {whose}calls are running and {waiting - 1} wait, as many as may; "
                    f"try again in {self._retry_s(running)} s"
                )

    def _retry_s(self, num_running: int) -> int:
        """Whole seconds until one of that many runs is likely to have ended."""
        seconds = self._mean_s / max(num_running, 1)
        return min(max(math.ceil(seconds), 1), MAX_RETRY_S)
