"""Tests of what is opened in the background."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from mcp_servers.model_server.background import Background
from tools.errors import ConfigurationError, UnavailableError

pytestmark = pytest.mark.anyio


async def test_opens_only_when_wanted_and_once_for_all() -> None:
    opened: list[str] = []

    @asynccontextmanager
    async def open_() -> AsyncIterator[str]:
        opened.append("opened")
        yield "value"
        opened.append("closed")

    background = Background("it", open_)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(background.run)
            await anyio.lowlevel.checkpoint()
            assert opened == []
            assert await background.get() == "value"
            assert await background.get() == "value"
            assert opened == ["opened"]
            group.cancel_scope.cancel()


async def test_is_closed_when_its_task_is_cancelled() -> None:
    closed = anyio.Event()

    @asynccontextmanager
    async def open_() -> AsyncIterator[str]:
        try:
            yield "value"
        finally:
            closed.set()

    background = Background("it", open_)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(background.run)
            await background.get()
            group.cancel_scope.cancel()
    assert closed.is_set()
    with pytest.raises(UnavailableError):
        await background.get()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConfigurationError("no such file"), "no such file"),
        (RuntimeError("private"), "it could not be opened; the server's log says why"),
    ],
)
async def test_everyone_who_waits_learns_that_it_failed(error: Exception, expected: str) -> None:
    class Broken(AbstractAsyncContextManager[str]):
        async def __aenter__(self) -> str:
            raise error

        async def __aexit__(self, *exc_info: object) -> None:
            return None

    messages: list[str] = []
    background = Background("it", Broken)

    async def wait() -> None:
        try:
            await background.get()
        except (ConfigurationError, UnavailableError) as exc:
            messages.append(str(exc))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            group.start_soon(background.run)
            group.start_soon(wait)
    assert messages == [expected, expected]
