"""Gemma 3 270M itself: greedy tokens equal what transformers says, past its window too.

The golden tokens are transformers' on the same file, dequantised to float32
(`tests/data/make_greedy_goldens.py`); the last prompt is longer than the window of 512 tokens.
Along them logits (up to 49) differ by 4e-5 in the first 110 tokens and by 0.02 at most in 958:
transformers rounds rotary angles to float32 before it takes sine and cosine, we do after; with
angles rounded like its own the logits are equal bit for bit.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runtime.engine.torch_runner import TorchRunner
from runtime.tokenizer import load_tokenizer
from runtime.weights import open_checkpoint
from tests.end_to_end.test_real_model import FEW_TOKENS, RealModel, check

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

GOLDENS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "gemma3_greedy.json").read_text("utf-8")
)


@pytest.fixture(scope="module")
def model(gemma3: Path) -> RealModel:
    checkpoint = open_checkpoint(gemma3)
    runner = TorchRunner(
        checkpoint,
        context_length=2048,
        kv_cache_bytes=256 << 20,
        device="cpu",
        threads=os.cpu_count() or 1,
    )
    return RealModel(runner, load_tokenizer(checkpoint.metadata))


def test_greedy_tokens_equal_transformers_in_a_batch_and_from_the_prefix_cache(
    model: RealModel,
) -> None:
    engine = model.engine()
    check(engine, GOLDENS, num_tokens=32)
    check(engine, GOLDENS[-3:], num_tokens=FEW_TOKENS)


def test_greedy_tokens_equal_transformers_in_chunks_of_forty(model: RealModel) -> None:
    check(model.engine(max_step_tokens=40), GOLDENS[-3:], num_tokens=FEW_TOKENS)
