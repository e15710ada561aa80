"""SmolLM2-135M itself: greedy text equals what transformers says, however the work is cut.

The golden tokens are transformers' on the same file, dequantised to float32
(`tests/data/make_greedy_goldens.py`), with the smallest top-2 margin of logits on the way.
Along them logits (up to 45) differ from transformers' by 1.2e-4 at most.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runtime.engine.engine import Engine, EngineLimits
from runtime.engine.torch_runner import TorchRunner
from runtime.request import GenerateRequest, SamplingParams
from runtime.tokenizer import Tokenizer, load_tokenizer
from runtime.weights import open_checkpoint
from tests.engine.test_engine import generate

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

NUM_TOKENS = 64
FEW_TOKENS = 16
"""Enough where it is the prompt that is computed in another way."""

GOLDENS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "smollm2_greedy.json").read_text("utf-8")
)


@dataclass
class RealModel:
    runner: TorchRunner
    tokenizer: Tokenizer

    def engine(self, **limits: int) -> Engine:
        return Engine(
            self.runner,
            EngineLimits(context_length=2048, **limits),
            decoder=self.tokenizer.decoder,
            stop_ids=frozenset(),
        )


@pytest.fixture(scope="module")
def model(smollm2: Path) -> RealModel:
    checkpoint = open_checkpoint(smollm2)
    runner = TorchRunner(
        checkpoint,
        context_length=2048,
        kv_cache_bytes=256 << 20,
        device="cpu",
        threads=os.cpu_count() or 1,
    )
    return RealModel(runner, load_tokenizer(checkpoint.metadata))


def check(engine: Engine, goldens: list[dict[str, Any]], *, num_tokens: int = NUM_TOKENS) -> None:
    """Generate and compare; a difference is shown with the margin that could excuse it."""
    requests = [
        GenerateRequest(tuple(golden["prompt_ids"]), SamplingParams(max_tokens=num_tokens))
        for golden in goldens
    ]
    results = generate(engine, *requests)
    differences = [
        f"{golden['prompt']!r}: differs although the top-2 margin is {golden['min_margin']}"
        for golden, result in zip(goldens, results, strict=True)
        if result.token_ids != golden["token_ids"][:num_tokens]
    ]
    assert not differences
    assert engine.pool.num_free == engine.pool.num_pages


def test_greedy_tokens_equal_transformers_in_a_batch_and_from_the_prefix_cache(
    model: RealModel,
) -> None:
    engine = model.engine()
    check(engine, GOLDENS)
    check(engine, GOLDENS, num_tokens=FEW_TOKENS)


def test_greedy_tokens_equal_transformers_alone(model: RealModel) -> None:
    for golden in GOLDENS[:5]:
        check(model.engine(), [golden])


def test_greedy_tokens_equal_transformers_in_chunks_of_seven(model: RealModel) -> None:
    check(model.engine(max_step_tokens=7), GOLDENS[:8], num_tokens=FEW_TOKENS)


def test_greedy_tokens_equal_transformers_when_preempted(smollm2: Path) -> None:
    checkpoint = open_checkpoint(smollm2)
    page_bytes = 2 * 16 * 3 * 64 * 4 * 30  # keys and values, slots, heads, dimension, float, layers
    runner = TorchRunner(
        checkpoint,
        context_length=2048,
        kv_cache_bytes=30 * page_bytes,
        device="cpu",
        threads=os.cpu_count() or 1,
    )
    engine = RealModel(runner, load_tokenizer(checkpoint.metadata)).engine()
    check(engine, GOLDENS)
    assert engine.scheduler.num_preemptions > 0
