"""The real engine on a tiny checkpoint keeps the promises of the seam."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from runtime.config import Config
from runtime.engine.async_engine import ThreadedEngine
from runtime.engine.engine import Engine
from runtime.engine.loading import load_runner
from runtime.tokenizer import load_tokenizer
from runtime.weights import open_checkpoint
from tests.helpers.engine_contract import CHECKS, Check
from tests.helpers.tiny_gguf import write_tiny_llama


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.mark.anyio
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_threaded_engine(check: Check, tiny: Path) -> None:
    checkpoint = open_checkpoint(tiny)
    tokenizer = load_tokenizer(checkpoint.metadata)
    runner, limits = load_runner(checkpoint, Config(kv_cache_mib=1, threads=1, device="cpu"))
    engine = Engine(runner, limits, decoder=tokenizer.decoder, stop_ids=tokenizer.stop_ids)
    threaded = ThreadedEngine(engine)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            await tasks.start(threaded.run)
            await check(threaded, tokenizer)
            await threaded.aclose()
    assert engine.pool.num_free == engine.pool.num_pages
