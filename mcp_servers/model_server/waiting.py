"""Waits for runs: with progress, with questions, as long as a caller likes.

Knows nothing of MCP: how a question reaches a person is its caller's business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import anyio

from runtime.agent.runs import Run, Runs
from tools.questions import Ask
from tools.spec import JsonObject, TextContent, ToolResult
from tools.toolset import ProgressCallback, Toolset

PROGRESS_INTERVAL_S = 0.2
"""At most five reports of progress a second."""

HEARTBEAT_S = 30.0
"""Without news, progress is reported this often all the same: hosts give up on a silent call."""

WAITING = "waiting for an answer"
"""What a run does while it asks."""

_HEARTBEAT = 0.001
"""What a report without news adds, for progress has to grow; a token or step adds 1."""

AnswerQuestions = Callable[[Run], Awaitable[bool]]
"""Gets a run's open questions answered; False when its caller has to come back for that."""


class RunToolset(Toolset, Protocol):
    """A toolset whose calls are runs, so that whoever calls may wait for them in any way."""

    @property
    def runs(self) -> Runs:
        """The runs that `begin` starts and finds."""
        ...

    def begin(
        self, name: str, arguments: JsonObject, principal: str, *, can_ask: bool = False
    ) -> Run:
        """Start a call, or find the run that the arguments name.

        Raises:
            UnknownToolError: no tool has that name.
            ZondaError: wrong arguments, no such run, or no room for another one.
        """
        ...

    def wait_s(self, name: str, arguments: JsonObject) -> float | None:
        """How long a request waits for such a call; None as long as it takes."""
        ...


async def follow(
    run: Run,
    wait_s: float | None,
    report: ProgressCallback,
    answer_questions: AnswerQuestions | None = None,
) -> bool:
    """Wait for the run's end, at most `wait_s`, reporting new progress and signs of life.

    The clock stands still while a person is being asked. False when a question made the
    wait end, as `answer_questions` says.
    """
    sent = -1.0  # progress
    with run.attended(), anyio.move_on_after(wait_s) as scope:
        while not run.is_finished:
            progress = run.progress
            if run.questions and answer_questions is not None:
                began, deadline = anyio.current_time(), scope.deadline
                scope.deadline = float("inf")
                if not await answer_questions(run):
                    return False
                scope.deadline = deadline + anyio.current_time() - began
            elif progress.message is not None and progress.done > sent:
                sent = progress.done
                await report(progress.done, progress.total, progress.message)
                await run.wait(PROGRESS_INTERVAL_S)
            else:
                with anyio.move_on_after(HEARTBEAT_S) as silence:
                    await run.changed()
                if silence.cancelled_caught:
                    sent += _HEARTBEAT
                    await report(sent, progress.total, progress.message or "working")
    return True


def answers_by(ask: Ask) -> AnswerQuestions:
    """Answer questions by asking now, for as long as they are open."""

    async def answer_questions(run: Run) -> bool:
        for key, question in run.questions.items():

            async def pose() -> None:
                run.answer(key, await ask(question))  # noqa: B023  ends before the next question

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pose)
                while key in run.questions:
                    await run.changed()
                tasks.cancel_scope.cancel()
        return True

    return answer_questions


@contextmanager
def tied_to(run: Run) -> Iterator[None]:
    """Cancel the run with the request that waits for it, unless somebody holds its id."""
    try:
        yield
    except anyio.get_cancelled_exc_class():
        if not run.is_handed_out:
            run.cancel()
        raise


def settle(runs: Runs, run: Run) -> ToolResult:
    """Return what a caller gets for a run as it stands: its result, or from now on its handle.

    Raises:
        Exception: the run failed; this is why.
    """
    if not run.is_finished:
        run.is_handed_out = True
    elif not run.is_handed_out:
        runs.discard(run)
    return outcome(run)


def outcome(run: Run) -> ToolResult:
    """Return what a host gets for a run as it stands.

    Raises:
        Exception: the run failed; this is why.
    """
    if run.status == "done":
        assert isinstance(run.result, ToolResult)
        return run.result
    if run.error is not None:
        raise run.error
    if run.status == "cancelled":
        text = "The run was cancelled."
    else:
        so_far = WAITING if run.questions else run.progress.message
        doing = f" ({so_far})" if so_far else ""
        text = f'Still running{doing}. Call run_result with run_id "{run.id}" for the result.'
    return ToolResult(
        content=(TextContent(text),), structured={"status": run.status, "run_id": run.id}
    )
