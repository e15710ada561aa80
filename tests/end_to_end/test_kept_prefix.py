"""Both real models: pages from disk have the bytes, and give the bits, of computed ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.engine.saved_pages import SavedPages
from runtime.kernels.cpu.structs import KvType
from runtime.request import GenerateRequest, SamplingParams
from tests.end_to_end.test_cpu_engine import (
    PROSE,
    make_engine,
    model_path,  # noqa: F401 - a fixture
    open_runner,
    run,
    tokenize,
)
from tests.engine.test_prefix_pages import finish

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@pytest.mark.parametrize("kv_type", KvType)
def test_restored_pages_give_bit_equal_tokens_and_logprobs(
    model_path: Path,  # noqa: F811 - the fixture
    kv_type: KvType,
    tmp_path: Path,
) -> None:
    token_ids = tokenize(model_path, PROSE)
    prefix = token_ids[:601]
    requests = [
        GenerateRequest(
            (*prefix[:600], *token_ids[start : start + 20]),
            SamplingParams(max_tokens=12, temperature=n * 0.5, seed=n),
            num_scored_tokens=19,
        )
        for n, start in enumerate((700, 720))
    ]
    computed = open_runner(model_path, kv_type)
    engine = make_engine(computed)
    wanted = run(engine, requests)
    other = make_engine(open_runner(model_path, kv_type, threads=1), max_step_tokens=64)
    run(other, [GenerateRequest(prefix, SamplingParams(max_tokens=0))])
    pages = finish(other.prefixes.read(prefix))
    found = finish(engine.prefixes.read(prefix))
    assert pages is not None
    assert found is not None
    assert (pages == found).all()
    assert SavedPages(tmp_path, computed.page_memory, 16).save(prefix, pages)
    restarted = open_runner(model_path, kv_type)
    loaded = SavedPages(tmp_path, restarted.page_memory, 16).load(prefix)
    assert loaded is not None
    fresh = make_engine(restarted)
    assert finish(fresh.prefixes.hold("kept", prefix, loaded))
    assert run(fresh, requests) == wanted
