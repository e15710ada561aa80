"""Tests of the bridge between event loop and engine."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import anyio
import anyio.lowlevel
import anyio.to_thread
import numpy as np
import numpy.typing as npt
import pytest

from runtime.engine.async_engine import ThreadedEngine
from runtime.engine.engine import DrawnTokens, Engine
from runtime.engine.prefix_pages import PageBytes
from runtime.errors import CapacityError, PromptTooLongError
from runtime.kernels import ForwardBatch, SamplingBatch
from tests.engine.test_engine import PAGE_SIZE, expected, make_engine, request
from tests.engine.test_scheduler import slots_of
from tests.helpers.page_runner import PageRunner, SlotMemory

pytestmark = pytest.mark.anyio


class GatedRunner(PageRunner):
    """Waits in each step until it is let go, as a long forward pass would."""

    def __init__(self) -> None:
        super().__init__(64, PAGE_SIZE)
        self.started = threading.Event()
        self.go = threading.Event()

    def run(self, batch: ForwardBatch, sampling: SamplingBatch) -> DrawnTokens:
        self.started.set()
        assert self.go.wait(5)
        return super().run(batch, sampling)

    async def wait_started(self) -> None:
        assert await anyio.to_thread.run_sync(self.started.wait, 5)


class LoggingRunner(PageRunner):
    """Notes steps and copied pages in the order in which they happened."""

    def __init__(self) -> None:
        super().__init__(64, PAGE_SIZE)
        self.log: list[str] = []
        self.page_memory = LoggingMemory(self._slots, self.log)

    def run(self, batch: ForwardBatch, sampling: SamplingBatch) -> DrawnTokens:
        self.log.append("step")
        return super().run(batch, sampling)


class LoggingMemory(SlotMemory):
    def __init__(self, slots: npt.NDArray[np.int64], log: list[str]) -> None:
        super().__init__(slots, PAGE_SIZE)
        self.log = log

    def read(self, page_ids: Sequence[int], out: PageBytes) -> None:
        self.log.append("read")
        super().read(page_ids, out)

    def write(self, page_ids: Sequence[int], data: PageBytes) -> None:
        self.log.append("write")
        super().write(page_ids, data)


class BrokenMemory(SlotMemory):
    """Fails when it is written to."""

    def write(self, page_ids: Sequence[int], data: PageBytes) -> None:
        raise OSError("broken")


class GatedMemory(SlotMemory):
    """Waits in each write until it is let go."""

    def __init__(self, slots: npt.NDArray[np.int64], page_size: int) -> None:
        super().__init__(slots, page_size)
        self.started = threading.Event()
        self.go = threading.Event()

    def write(self, page_ids: Sequence[int], data: PageBytes) -> None:
        self.started.set()
        assert self.go.wait(5)


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


async def test_engine_that_breaks_ends_open_requests_with_an_error() -> None:
    engine = make_engine()
    engine.step = None  # type: ignore[assignment, method-assign]  # breaks it
    async with running(engine) as threaded:
        with pytest.raises(CapacityError, match="closed while the request ran"):
            await collect(threaded, [1, 2], 5)


async def test_requests_and_aborts_during_a_step_reach_the_engine_before_the_next() -> None:
    runner = GatedRunner()
    engine = make_engine(runner=runner)
    results: list[int] = []

    async def second() -> None:
        results.extend(await collect(threaded, [4, 5], 3))

    async with running(engine) as threaded, anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as first:
            first.start_soon(collect, threaded, [1, 2, 3], 50)
            await runner.wait_started()
            tasks.start_soon(second)
            first.cancel_scope.cancel()
        assert runner.num_tokens_run == []  # the loop went on while the step ran
        runner.go.set()
    assert results == expected([4, 5], 3)
    assert runner.num_tokens_run == [3, 2, 1, 1]
    assert engine.pool.num_free == engine.pool.num_pages


async def test_closing_ends_running_and_waiting_requests_and_refuses_new_ones() -> None:
    runner = GatedRunner()
    engine = make_engine(runner=runner)
    errors: list[str] = []

    async def refused(prompt: list[int]) -> None:
        with pytest.raises(CapacityError) as caught:
            await collect(threaded, prompt, 5)
        errors.append(str(caught.value))

    async with running(engine) as threaded, anyio.create_task_group() as tasks:
        tasks.start_soon(refused, [1, 2])
        await runner.wait_started()
        tasks.start_soon(refused, [3, 4])
        await anyio.lowlevel.checkpoint()
        tasks.start_soon(threaded.aclose)
        await anyio.lowlevel.checkpoint()
        runner.go.set()
    assert errors == ["the engine was closed while the request ran"] * 2
    with pytest.raises(CapacityError, match="the engine is closed"):
        await collect(threaded, [1], 1)
    assert engine.pool.num_free == engine.pool.num_pages


async def test_cancelling_the_owner_ends_the_thread_and_the_open_requests() -> None:
    engine = make_engine(10_000)
    threaded = ThreadedEngine(engine)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            await tasks.start(threaded.run)
            async with aclosing(threaded.generate(request(1, 2, max_tokens=5000))) as chunks:
                await anext(chunks)
                tasks.cancel_scope.cancel()
        await threaded.aclose()
    with pytest.raises(CapacityError, match="the engine is closed"):
        await collect(threaded, [1], 1)
    assert engine.pool.num_free == engine.pool.num_pages


async def test_copying_pages_takes_turns_with_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.engine.prefix_pages.PIECE_BYTES", 1)
    runner = LoggingRunner()
    engine = make_engine(runner=runner)
    prefix = list(range(1, 25))
    results: list[int] = []

    async def generate() -> None:
        results.extend(await collect(threaded, [40, 41], 50))

    async with running(engine) as threaded:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(generate)
            assert await threaded.hold_prefix("kept", prefix, slots_of(prefix))
        pages = await threaded.read_prefix(prefix)
        assert pages is not None
        assert pages.tolist() == slots_of(prefix).tolist()
        assert await threaded.hold_prefix("kept", ())
    assert results == expected([40, 41], 50)
    assert "writewrite" not in "".join(runner.log).partition("read")[0]
    assert runner.log.count("write") == runner.log.count("read") == 6
    assert engine.pool.num_free == engine.pool.num_pages


async def test_failed_copy_is_a_refusal_and_the_engine_goes_on() -> None:
    engine = make_engine()
    async with running(engine) as threaded:
        engine.prefixes._memory = None
        assert await threaded.read_prefix([1] * 9) is None
        engine.prefixes._memory = BrokenMemory(np.zeros((64, 2), np.int64), PAGE_SIZE)
        assert not await threaded.hold_prefix("kept", [1] * 9, slots_of([1] * 9))
        assert await collect(threaded, [4, 5], 3) == expected([4, 5], 3)
    assert engine.pool.num_free == engine.pool.num_pages


async def test_copy_that_a_closing_engine_did_not_finish_gives_its_pages_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtime.engine.prefix_pages.PIECE_BYTES", 1)
    memory = GatedMemory(np.zeros((64 * PAGE_SIZE, 2), np.int64), PAGE_SIZE)
    engine = make_engine()
    engine.prefixes._memory = memory
    errors: list[str] = []

    async def hold() -> None:
        with pytest.raises(CapacityError) as caught:
            await threaded.hold_prefix("kept", [1] * 30, slots_of([1] * 30))
        errors.append(str(caught.value))

    async with running(engine) as threaded, anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        assert await anyio.to_thread.run_sync(memory.started.wait, 5)
        assert engine.pool.num_free == engine.pool.num_pages - 7
        tasks.start_soon(threaded.aclose)
        await anyio.lowlevel.checkpoint()
        memory.go.set()
    assert errors == ["the engine was closed meanwhile"]
    assert engine.pool.num_free == engine.pool.num_pages
