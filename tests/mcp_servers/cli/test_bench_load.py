"""Tests of our engine under a load."""

from __future__ import annotations

import anyio
import pytest

from mcp_servers.cli.bench_arrivals import RefusedError
from mcp_servers.cli.bench_load import EngineCompleter
from runtime.engine.async_engine import ThreadedEngine
from runtime.engine.engine import Engine, EngineLimits
from runtime.errors import GenerationError
from tests.helpers.page_runner import LetterDecoder, PageRunner

pytestmark = pytest.mark.anyio


async def test_our_engine_is_asked_in_process() -> None:
    runner = PageRunner(64)
    engine = Engine(runner, EngineLimits(128), decoder=LetterDecoder, stop_ids=frozenset())
    threaded = ThreadedEngine(engine)
    completer = EngineCompleter(threaded)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            await tasks.start(threaded.run)
            answer = await completer.complete([1, 2, 3], 20)
            with pytest.raises(GenerationError, match="wanted 200 tokens, found 125"):
                await completer.complete([1, 2, 3], 200)
            await threaded.aclose()
            with pytest.raises(RefusedError, match="the engine is closed"):
                await completer.complete([1, 2, 3], 20)
    assert (len(answer.times), answer.prompt_tokens) == (20, 3)
    assert list(answer.times) == sorted(answer.times)
