"""Tests of the model's shape as read from metadata."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime.errors import ModelFileError
from runtime.models.config import LayerConfig, ModelConfig, RotaryConfig
from tests.helpers.memory_checkpoint import MemoryCheckpoint

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
}


def read_config(metadata: dict[str, Any]) -> ModelConfig:
    return ModelConfig.from_checkpoint(
        MemoryCheckpoint(metadata, {"embed_tokens.weight": np.zeros((3, 64))})
    )


def like_llama(architecture: str, **changes: Any) -> dict[str, Any]:
    """LLAMA's metadata under another architecture's prefix; `__` in a change is a dot."""
    renamed = {key.replace("llama.", f"{architecture}.", 1): LLAMA[key] for key in LLAMA}
    changed = {f"{architecture}.{key.replace('__', '.')}": changes[key] for key in changes}
    return {**renamed, "general.architecture": architecture, **changed}


def test_reads_every_field() -> None:
    assert read_config(LLAMA) == ModelConfig(
        architecture="llama",
        vocab_size=3,
        context_length=512,
        hidden_size=64,
        intermediate_size=128,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        norm_eps=1e-6,
        layers=(LayerConfig(RotaryConfig(base=5e5, dim=16)),) * 2,
        rotary_interleaved=True,
        attention_scale=0.25,
    )


def test_reads_the_multipliers_of_granite() -> None:
    config = read_config(
        like_llama(
            "granite",
            attention__scale=0.5,
            embedding_scale=12.0,
            residual_scale=0.25,
            logit_scale=8.0,
        )
    )
    assert config == ModelConfig(
        architecture="granite",
        vocab_size=3,
        context_length=512,
        hidden_size=64,
        intermediate_size=128,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        norm_eps=1e-6,
        layers=(LayerConfig(RotaryConfig(base=5e5, dim=16)),) * 2,
        rotary_interleaved=True,
        attention_scale=0.5,
        embedding_scale=12.0,
        residual_scale=0.25,
        logit_scale=0.125,
    )


def test_gemma3_has_windows_with_their_own_rotary_base_in_all_but_each_sixth_layer() -> None:
    config = read_config(
        like_llama(
            "gemma3",
            block_count=7,
            attention__sliding_window=512,
            rope__scaling__type="linear",
            rope__scaling__factor=8.0,
        )
    )
    near = LayerConfig(RotaryConfig(base=1e4, dim=16, has_factors=False), window=512)
    far = LayerConfig(RotaryConfig(base=5e5, dim=16, position_scale=8.0))
    assert config.layers == (near, near, near, near, near, far, near)
    assert config.embedding_scale == 8.0
    assert config.activation == "gelu"


def test_a_file_may_list_which_layers_have_a_window() -> None:
    for pattern, wanted in (([False, True, True, False], [0, 9, 9, 0]), (4, [9, 9, 9, 0])):
        config = read_config(
            like_llama(
                "gemma2",
                block_count=4,
                attention__sliding_window=9,
                attention__sliding_window_pattern=pattern,
            )
        )
        assert [layer.window for layer in config.layers] == wanted


def test_each_fourth_layer_of_smollm3_turns_nothing() -> None:
    config = read_config(like_llama("smollm3", block_count=5))
    assert [layer.rotary.dim for layer in config.layers] == [16, 16, 16, 0, 16]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"general.architecture": "mamba"},
            "architecture is 'mamba'; supported are gemma2, gemma3, granite, llama, phi3, qwen2",
        ),
        ({"llama.block_count": None}, "llama.block_count must be a positive count, found None"),
        ({"llama.block_count": 2**40}, "must be a positive count"),
        ({"llama.block_count": "2"}, "must be a positive count, found '2'"),
        ({"llama.attention.head_count_kv": 3}, "4 query heads are no multiple of 3 key heads"),
        ({"llama.attention.key_length": 15}, "head dimension 15 is odd"),
        ({"llama.rope.freq_base": float("nan")}, "must be a positive number, found nan"),
        ({"llama.rope.dimension_count": 18}, "rotary embedding of 18 of 16 dimensions"),
        ({"llama.rope.scaling.type": "yarn"}, "rotary scaling 'yarn' is not supported"),
        ({"llama.rope.interleaved": "yes"}, "must be true or false, found 'yes'"),
        ({"llama.rope.layer_pattern": [True]}, r"must be a period or 2 flags, found \[True\]"),
        ({"llama.expert_count": 8}, r"expert layers \(8\) are not supported"),
    ],
)
def test_says_what_it_cannot_run(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        read_config({**LLAMA, **change})
