"""Tests of the bridge between event loop and engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import anyio
import pytest

from runtime.engine.async_engine import ThreadedEngine
from runtime.engine.engine import Engine
from runtime.errors import CapacityError, PromptTooLongError
from tests.engine.test_engine import expected, make_engine, request

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[ThreadedEngine]:
    threaded = ThreadedEngine(engine)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            await tasks.start(threaded.run)
            yield threaded
            await threaded.aclose()


async def collect(threaded: ThreadedEngine, prompt: list[int], max_tokens: int) -> list[int]:
    token_ids: list[int] = []
    async with aclosing(threaded.generate(request(*prompt, max_tokens=max_tokens))) as chunks:
        async for chunk in chunks:
            token_ids += chunk.token_ids
    return token_ids


async def test_concurrent_requests_get_their_own_tokens() -> None:
    engine = make_engine()
    results: dict[int, list[int]] = {}

    async def one(n: int) -> None:
        results[n] = await collect(threaded, [1, 2, n], 25)

    async with running(engine) as threaded, anyio.create_task_group() as tasks:
        for n in range(32):
            tasks.start_soon(one, n)
    assert results == {n: expected([1, 2, n], 25) for n in range(32)}
    assert engine.pool.num_free == engine.pool.num_pages


async def test_leaving_the_stream_frees_the_pages_before_the_next_step() -> None:
    engine = make_engine()
    async with running(engine) as threaded:
        async with aclosing(threaded.generate(request(1, 2, 3, max_tokens=5000))) as chunks:
            async for _ in chunks:
                break
        # The box is emptied before anything new runs, so the next request finds all pages free.
        assert await collect(threaded, [4, 5], 3) == expected([4, 5], 3)
        assert engine.pool.num_free == engine.pool.num_pages


async def test_cancelled_request_leaves_nothing_behind_wherever_it_is_cancelled() -> None:
    for num_chunks in range(4):
        engine = make_engine()
        async with running(engine) as threaded:
            with anyio.CancelScope() as scope:
                async with aclosing(threaded.generate(request(1, 2, max_tokens=50))) as chunks:
                    if num_chunks == 0:
                        scope.cancel()
                    seen = 0
                    async for _ in chunks:
                        seen += 1
                        if seen == num_chunks:
                            scope.cancel()
            assert await collect(threaded, [4, 5], 3) == expected([4, 5], 3)
            assert engine.pool.num_free == engine.pool.num_pages


async def test_bad_request_is_refused_and_others_go_on() -> None:
    async with running(make_engine(context_length=30)) as threaded:
        with pytest.raises(PromptTooLongError):
            await collect(threaded, [1] * 31, 5)
        assert await collect(threaded, [1, 2], 5) == expected([1, 2], 5)


async def test_closing_ends_open_requests_with_an_error_and_refuses_new_ones() -> None:
    threaded = ThreadedEngine(make_engine(10_000))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            await tasks.start(threaded.run)
            async with aclosing(threaded.generate(request(1, 2, max_tokens=30))) as chunks:
                await anext(chunks)
                await threaded.aclose()
                with pytest.raises(CapacityError, match="closed while the request ran"):
                    async for _ in chunks:
                        pass
    with pytest.raises(CapacityError, match="the engine is closed"):
        await collect(threaded, [1], 1)


async def test_engine_that_breaks_ends_open_requests_with_an_error() -> None:
    engine = make_engine()
    engine.step = None  # type: ignore[assignment, method-assign]  # breaks it
    async with running(engine) as threaded:
        with pytest.raises(CapacityError, match="closed while the request ran"):
            await collect(threaded, [1, 2], 5)
