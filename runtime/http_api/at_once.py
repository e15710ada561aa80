"""Several answers to one request, made at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio


async def all_at_once(jobs: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Run all jobs; the first failure ends the others and is raised alone."""
    problems: list[Exception] = []

    async def attempt(job: Callable[[], Awaitable[None]]) -> None:
        try:
            await job()
        except Exception as exc:  # noqa: BLE001 - raised below, without its group
            problems.append(exc)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for job in jobs:
            group.start_soon(attempt, job)
    if problems:
        raise problems[0]
