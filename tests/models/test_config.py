"""Tests of the model's shape as read from metadata."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.errors import ModelFileError
from runtime.models.config import ModelConfig

LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.context_length": 512,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 128,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-6,
    "llama.rope.freq_base": 5e5,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
}


def test_reads_every_field() -> None:
    assert ModelConfig.from_gguf(LLAMA) == ModelConfig(
        architecture="llama",
        vocab_size=3,
        context_length=512,
        hidden_size=64,
        intermediate_size=128,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        norm_eps=1e-6,
        rotary_base=5e5,
        rotary_interleaved=True,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "mamba"}, "architecture is 'mamba'; supported is 'llama'"),
        ({"llama.block_count": None}, "llama.block_count must be a positive count, found None"),
        ({"llama.block_count": 2**40}, "must be a positive count"),
        ({"llama.block_count": "2"}, "must be a positive count, found '2'"),
        ({"llama.attention.head_count_kv": 3}, "4 query heads are no multiple of 3 key heads"),
        ({"llama.attention.key_length": 15}, "head dimension 15 is odd"),
        ({"llama.rope.freq_base": float("nan")}, "must be a positive number, found nan"),
        ({"llama.rope.dimension_count": 8}, "rotary embedding of 8 of 16 dimensions"),
        ({"llama.rope.scaling.type": "yarn"}, "rotary scaling 'yarn' is not supported"),
        ({"llama.expert_count": 8}, r"expert layers \(8\) are not supported"),
    ],
)
def test_says_what_it_cannot_run(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        ModelConfig.from_gguf({**LLAMA, **change})
