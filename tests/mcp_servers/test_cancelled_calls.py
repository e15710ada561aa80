"""A real engine under the server, step by step: a call that is left frees its pages at once."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.to_thread
import mcp_types as t
import pytest
from mcp import Client

from mcp_servers.model_server.server import build_server
from mcp_servers.model_server.service import ModelService, open_service
from runtime.chat.model import ChatModel
from runtime.config import Config
from runtime.engine.async_engine import ThreadedEngine
from runtime.engine.engine import Engine
from runtime.hub import open_model
from runtime.request import TokenChunk
from tests.helpers.model_service import ERAS, ScriptedModels
from tests.helpers.tiny_gguf import write_tiny_llama

pytestmark = pytest.mark.anyio

CONFIG = Config(kv_cache_mib=8, threads=1, device="cpu")
ENDLESS = {"prompt": "Say something", "max_tokens": 400}


class SteppedEngine(Engine):
    """Takes each step only when it is told to."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._arrived = threading.Semaphore(0)
        self._go = threading.Semaphore(0)
        self.num_steps = 0

    def step(self) -> dict[int, TokenChunk]:
        self._arrived.release()
        assert self._go.acquire(timeout=20)
        self.num_steps += 1
        return super().step()

    async def wait_for_step(self) -> None:
        """Wait until a step has begun; it goes on with `finish_step`."""
        assert await anyio.to_thread.run_sync(self._arrived.acquire, True, 20)

    def finish_step(self, count: int = 1) -> None:
        self._go.release(count)


@dataclass
class Served:
    """A server over a stepped engine, and its client."""

    engine: SteppedEngine
    threaded: ThreadedEngine
    service: ModelService
    client: Client

    def count_pages(self) -> int:
        """How many pages sequences hold."""
        return self.engine.pool.num_pages - self.engine.pool.num_free

    async def settle(self) -> None:
        """Let the engine's thread do what it was told, up to here."""
        await self.threaded.read_prefix([1])


@asynccontextmanager
async def serve(path: Path, era: str) -> AsyncIterator[Served]:
    _, tokenizer, runner, limits = open_model(path, CONFIG)
    engine = SteppedEngine(runner, limits, decoder=tokenizer.decoder, stop_ids=tokenizer.stop_ids)
    threaded = ThreadedEngine(engine)
    model = ChatModel("scripted", tokenizer, threaded, engine.context_length)
    models = ScriptedModels(cast("Any", model))  # a real one in the place of a script
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            await tasks.start(threaded.run)
            try:
                async with (
                    open_service(["scripted"], models.opened) as service,
                    Client(build_server(service, version="1"), mode=era) as client,
                ):
                    yield Served(engine, threaded, service, client)
            finally:
                engine.finish_step(1000)
                with anyio.CancelScope(shield=True):
                    await threaded.aclose()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.mark.parametrize("era", ERAS)
async def test_cancelled_call_frees_its_pages_with_the_step_that_runs(tiny: Path, era: str) -> None:
    async with serve(tiny, era) as served:
        engine = served.engine
        async with anyio.create_task_group() as calls:
            calls.start_soon(served.client.call_tool, "generate", ENDLESS)
            for _ in range(3):
                await engine.wait_for_step()
                engine.finish_step()
            await engine.wait_for_step()
            calls.cancel_scope.cancel()
        await served.service.drain()  # the run is over while the step still runs
        assert served.count_pages() > 0
        engine.finish_step()
        await served.settle()
        assert engine.num_steps == 4
        assert served.count_pages() == 0
        assert not engine.has_work


@pytest.mark.parametrize("era", ERAS)
async def test_run_that_was_handed_out_goes_on_when_who_waits_for_it_leaves(
    tiny: Path, era: str
) -> None:
    async with serve(tiny, era) as served:
        engine = served.engine
        handed = await served.client.call_tool("generate", {**ENDLESS, "wait_seconds": 0})
        assert handed.structured_content is not None
        arguments = {"run_id": handed.structured_content["run_id"]}
        async with anyio.create_task_group() as calls:
            calls.start_soon(served.client.call_tool, "run_result", arguments)
            for _ in range(3):
                await engine.wait_for_step()
                engine.finish_step()
            await engine.wait_for_step()
            calls.cancel_scope.cancel()
        engine.finish_step(1000)
        result = await served.client.call_tool("run_result", arguments)
        await served.settle()
        assert served.count_pages() == 0
    assert isinstance(result.content[0], t.TextContent)
    content = result.structured_content or {}
    assert (content["status"], content["text"]) == ("done", result.content[0].text)
    assert content["usage"]["completion_tokens"] > 3
