"""Tests of `config.json` in GGUF's words: new and old spellings, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime.errors import ModelFileError
from runtime.models.config import ModelConfig
from runtime.weights.hf_config import HfConfig
from tests.helpers.memory_checkpoint import MemoryCheckpoint
from tests.weights.test_safetensors import CONFIG

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def translate(**changes: Any) -> dict[str, Any]:
    return HfConfig({**CONFIG, **changes}).metadata


def test_a_plain_config_becomes_these_keys() -> None:
    assert translate(num_key_value_heads=1, head_dim=None) == {
        "general.architecture": "llama",
        "llama.context_length": 128,
        "llama.embedding_length": 8,
        "llama.feed_forward_length": 16,
        "llama.block_count": 1,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-6,
        "llama.rope.freq_base": 10_000.0,
        "llama.rope.dimension_count": 4,
        "llama.rope.interleaved": False,
    }


def test_old_and_new_spellings_of_rotary_embedding_say_the_same() -> None:
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}
    new = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}}
    assert translate(**old) == translate(**new)
    old_gemma = {"rope_theta": 1e6, "rope_local_base_freq": 2e4, "sliding_window_pattern": 6}
    new_gemma = {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        },
        "sliding_window_pattern": 6,
    }
    gemma = translate(model_type="gemma3_text", **new_gemma)
    assert translate(model_type="gemma3_text", **old_gemma) == gemma
    assert gemma["gemma3.rope.freq_base_swa"] == 2e4


def test_gemma3_with_a_vision_tower_is_its_text_model() -> None:
    text = {**CONFIG, "model_type": "gemma3_text"}
    config = HfConfig({"model_type": "gemma3", "text_config": text, "vision_config": {}})
    assert config.metadata == HfConfig(text).metadata
    for prefix in ("model.language_model.", "language_model.model.", "model."):
        name = f"{prefix}layers.3.post_feedforward_layernorm.weight"
        assert config.canonical_name(name) == "layers.3.post_mlp_norm.weight"
    tower = "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight"
    assert config.canonical_name(tower) == tower


def test_llama3_scaling_becomes_factors_between_one_and_the_scale() -> None:
    scaling = {"rope_type": "llama3", **LLAMA3}
    config = HfConfig({**CONFIG, "head_dim": 128, "rope_theta": 5e5, "rope_scaling": scaling})
    factors = config.factors["rope_freqs.weight"]
    assert factors.shape == (64,)
    assert factors[0] == 1.0
    assert factors[-1] == 8.0
    assert np.all(np.diff(factors) >= 0)
    assert len(np.unique(factors)) > 4


def test_windows_are_off_where_the_config_says_so() -> None:
    window = {"sliding_window": 4, "max_window_layers": 0}
    off = translate(model_type="qwen2", use_sliding_window=False, **window)
    on = translate(model_type="qwen2", use_sliding_window=True, **window)
    assert "qwen2.attention.sliding_window" not in off
    assert on["qwen2.attention.sliding_window"] == 4
    assert on["qwen2.attention.sliding_window_pattern"] == [True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model_type is 'mamba'; supported are llama, mistral"),
        ({"hidden_size": None}, "hidden_size must be a positive count, not None"),
        ({"num_hidden_layers": "1"}, "num_hidden_layers must be a positive count, not '1'"),
        ({"hidden_act": "relu"}, "activation 'relu' is not supported, only 'silu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised in a way we don't read"),
        ({"rope_scaling": "x"}, "rope_scaling must be an object, not 'x'"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8}},
            "low_freq_factor must be a positive number, not None",
        ),
        (
            {"rope_scaling": {"rope_type": "longrope", "short_factor": ["a"]}},
            "short_factor must be a list of numbers",
        ),
        (
            {"sliding_window": 4, "layer_types": ["linear_attention"]},
            r"layer_types \['linear_attention'\] are not supported",
        ),
        (
            {"model_type": "gemma3_text", "use_bidirectional_attention": True},
            "bidirectional attention is not supported",
        ),
    ],
)
def test_says_what_it_cannot_read(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        HfConfig({**CONFIG, **change})


def test_no_value_of_any_key_raises_anything_else() -> None:
    rope = {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}
    long_rope = {"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [1.0, 1.0]}
    both = {"full_attention": rope, "sliding_attention": {"rope_theta": 1e4}}
    every: dict[str, Any] = {
        **CONFIG,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4,
        "layer_types": ["sliding_attention"],
        "max_window_layers": 1,
        "sliding_window_pattern": 2,
        "no_rope_layers": [1],
        "no_rope_layer_interval": 4,
        "query_pre_attn_scalar": 4,
        "partial_rotary_factor": 1.0,
        "original_max_position_embeddings": 64,
        "rope_parameters": rope,
    }
    odd = [
        None,
        0,
        1,
        -1,
        2**70,
        10**400,
        0.5,
        1e-300,
        float("nan"),
        True,
        "x",
        [],
        ["x"],
        {},
        {"x": 1},
    ]
    configs = [{**every, key: value} for key in every for value in odd]
    configs += [
        {**every, "rope_parameters": {**parameters, key: value}}
        for parameters in (rope, long_rope, both, {**both, "full_attention": long_rope})
        for key in (*parameters, "factor", "attention_factor")
        for value in odd
    ]
    embedding = {"embed_tokens.weight": np.zeros((3, 8))}
    for config in configs:
        for model_type in ("gemma3_text", "smollm3"):
            try:
                metadata = HfConfig({**config, "model_type": model_type}).metadata
                ModelConfig.from_checkpoint(MemoryCheckpoint(metadata, embedding))
            except ModelFileError:
                pass
