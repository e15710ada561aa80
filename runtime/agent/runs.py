"""Work that outlives the request that asked for it.

A `Run` never knows who waits for it or how; `Runs` owns the tasks and ends them with the
process. Nothing here knows what the work does, or how a question reaches a person.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import anyio

from runtime.agent.transcript import Transcript
from runtime.errors import CapacityError, UnknownRunError
from tools.errors import ZondaError
from tools.questions import Answer, Question

logger = logging.getLogger(__name__)

RunStatus = Literal["running", "done", "failed", "cancelled"]
Work = Callable[["Run"], Awaitable[Any]]
"""Gets its own run, for `report` and `ask`; what it returns is the run's result."""

ANSWER_WITHIN_S = 300.0
"""How long a question stays open."""

MAX_QUESTIONS = 64
"""What a run asks beyond these reaches nobody: a tool may ask in a loop."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; `done` only grows, `total` is None while it is unknown."""

    done: float = 0.0
    total: float | None = None
    message: str | None = None


class _Asked:
    """A question that is open, and where its answer goes."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.answer = Answer("cancel")
        self.answered = anyio.Event()


class Run:
    """One piece of work and what became of it; `principal` is whose it is, `title` its kind.

    Invariant: `result` is set only when `status` is "done", `error` exactly when it is
    "failed"; once the status left "running", nothing changes any more.

    Attributes:
        can_ask: whether there is a person who can be asked; for who starts the work.
        is_handed_out: whether somebody holds the id; the run then depends on no request.
        created_at: when it began, in seconds since 1970.
        updated_at: when something last changed, likewise.
    """

    def __init__(
        self,
        principal: str = "",
        *,
        can_ask: bool = False,
        answer_within_s: float = ANSWER_WITHIN_S,
    ) -> None:
        self.id = secrets.token_urlsafe(18)
        self.principal = principal
        self.title = ""
        self.transcript = Transcript()
        self.can_ask = can_ask
        self.is_handed_out = False
        self.status: RunStatus = "running"
        self.progress = Progress()
        self.result: Any = None
        self.error: Exception | None = None
        self.created_at = self.updated_at = time.time()
        self.scope = anyio.CancelScope()
        self.discarded = anyio.Event()
        self._answer_within_s = answer_within_s
        self._asked: dict[str, _Asked] = {}
        self._num_attending = 0
        self._change = anyio.Event()

    @property
    def is_finished(self) -> bool:
        return self.status != "running"

    @property
    def questions(self) -> Mapping[str, Question]:
        """The open questions by their keys."""
        return {
            key: asked.question for key, asked in self._asked.items() if not asked.answered.is_set()
        }

    def report(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Publish progress; a `done` below the last one counts as the last one."""
        if not self.is_finished:
            self.progress = Progress(max(done, self.progress.done), total, message)
            self._announce()

    async def ask(self, question: Question, key: str | None = None) -> Answer:
        """Ask whoever waits for the run; "cancel" when there is no answer in time.

        A run that nobody waits for and nobody holds the id of ends then: its caller has left.

        Args:
            question: what is asked.
            key: names the question, once in a run. By default one that cannot be guessed, so
                that nobody answers what they were not asked.
        """
        if len(self._asked) >= MAX_QUESTIONS:
            return Answer("cancel")
        key = key or secrets.token_urlsafe(9)
        assert key not in self._asked, f"run {self.id} asks {key} twice"
        asked = self._asked[key] = _Asked(question)
        self._announce()
        try:
            with anyio.move_on_after(self._answer_within_s) as is_late:
                await asked.answered.wait()
        finally:
            asked.answered.set()  # the key stays taken: it names one question for good
            self._announce()
        if is_late.cancelled_caught and not self._num_attending and not self.is_handed_out:
            self.cancel()
            await anyio.sleep_forever()
        return asked.answer

    def answer(self, key: str, answer: Answer) -> None:
        """Answer an open question; a key that names none, or one already answered, is ignored."""
        if key in self.questions:
            self._asked[key].answer = answer
            self._asked[key].answered.set()
            self._announce()

    @contextmanager
    def attended(self) -> Iterator[None]:
        """Say that somebody waits for the run meanwhile."""
        self._num_attending += 1
        try:
            yield
        finally:
            self._num_attending -= 1

    async def changed(self) -> None:
        """Wait for the next progress, question, answer or the end; not when the run is over."""
        if not self.is_finished:
            await self._change.wait()

    async def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` for the end; return whether the run is over."""
        with anyio.move_on_after(seconds):
            while not self.is_finished:
                await self._change.wait()
        return self.is_finished

    def cancel(self) -> None:
        """Ask the work to end; the status changes once it has unwound."""
        self.scope.cancel()

    def finish(
        self, status: RunStatus, *, result: Any = None, error: Exception | None = None
    ) -> None:
        """Settle what became of the work; for the owner of the task."""
        assert not self.is_finished, f"run {self.id} finished twice"
        self.status, self.result, self.error = status, result, error
        self._announce()

    def _announce(self) -> None:
        self.updated_at = time.time()
        self._change.set()
        self._change = anyio.Event()


class Runs:
    """Owns every run's task; leaving the context cancels what still runs and waits for it.

    Results stay in memory for `expiry_s` seconds after a run ended, never on disk. When
    `max_runs` are kept, the principal with most finished runs loses the one that started first.
    Questions stay open for `answer_within_s`. `num_ended` counts the runs that ended, by what
    became of them.
    """

    def __init__(
        self,
        *,
        max_runs: int = 256,
        expiry_s: float = 3600.0,
        answer_within_s: float = ANSWER_WITHIN_S,
    ) -> None:
        self._max_runs = max_runs
        self._expiry_s = expiry_s
        self._answer_within_s = answer_within_s
        self._runs: dict[str, Run] = {}
        self.num_ended = Counter[RunStatus]()
        self._group = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        self._group.cancel_scope.cancel()
        return await self._group.__aexit__(exc_type, exc, traceback)

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def expiry_s(self) -> float:
        """How long a result is kept."""
        return self._expiry_s

    def start(self, work: Work, principal: str = "", *, can_ask: bool = False) -> Run:
        """Begin `work(run)` in a task of its own, for a principal who may be asked or not.

        Raises:
            CapacityError: as many runs as may be kept are all still running.
        """
        self._make_room()
        run = Run(principal, can_ask=can_ask, answer_within_s=self._answer_within_s)
        self._runs[run.id] = run
        self._group.start_soon(self._own, run, work)
        return run

    def get(self, run_id: str, principal: str = "") -> Run:
        """Return a principal's run by its id.

        Raises:
            UnknownRunError: no such run, it expired, or it is another principal's: the message
                does not tell which.
        """
        run = self._runs.get(run_id)
        if run is None or run.principal != principal:
            raise UnknownRunError(
                "no run has this id: it never existed, or its result expired "
                f"({self._expiry_s:g} s after the run ended)"
            )
        return run

    def of(self, principal: str) -> list[Run]:
        """A principal's runs that are kept, the oldest first."""
        return [run for run in self._runs.values() if run.principal == principal]

    def discard(self, run: Run) -> None:
        """Forget a finished run whose result was delivered."""
        assert run.is_finished, f"run {run.id} is still running"
        run.discarded.set()
        self._runs.pop(run.id, None)

    async def _own(self, run: Run, work: Work) -> None:
        try:
            with run.scope:
                result = await work(run)
                run.finish("done", result=result)
        except ZondaError as exc:
            run.finish("failed", error=exc)
        except Exception as exc:
            logger.exception("run=%s failed", run.id)
            run.finish("failed", error=exc)
        finally:
            if not run.is_finished:
                run.finish("cancelled")
            self.num_ended[run.status] += 1
        if run.status != "cancelled" or run.is_handed_out:  # else nobody can ask for it
            with anyio.move_on_after(self._expiry_s):
                await run.discarded.wait()
        self._runs.pop(run.id, None)

    def _make_room(self) -> None:
        if len(self._runs) < self._max_runs:
            return
        finished = [run for run in self._runs.values() if run.is_finished]
        if not finished:
            raise CapacityError(
                f"{len(self._runs)} runs are going on, at most {self._max_runs} may; "
                "wait for one or cancel it"
            )
        num_kept = Counter(run.principal for run in finished)
        self.discard(max(finished, key=lambda run: num_kept[run.principal]))
