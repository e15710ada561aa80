"""Every architecture against transformers on tiny random weights, from both containers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.engine.torch_runner import TorchRunner
from runtime.weights import open_checkpoint
from tests.helpers.logits import forward
from tests.helpers.tiny_transformers import make_model, write_gguf

pytestmark = pytest.mark.slow

NUM_TOKENS = 45
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 5.0],
    "partial_rotary_factor": 0.75,
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with scaled rotary embedding": (
        "llama",
        {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True, "head_dim": 32},
    ),
    "mistral": ("mistral", {"sliding_window": None, "head_dim": 24}),
    "mistral with a window": ("mistral", {"sliding_window": 8}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "phi3": ("phi3", {"sliding_window": 9}),
    "phi3 beyond its first context": (
        "phi3",
        {
            "rope_parameters": LONG_ROPE,
            "original_max_position_embeddings": 32,
            "sliding_window": None,
        },
    ),
    "phi3 within its first context": (
        "phi3",
        {
            "rope_parameters": LONG_ROPE,
            "original_max_position_embeddings": 64,
            "sliding_window": None,
        },
    ),
    "smollm3": ("smollm3", {"num_hidden_layers": 5}),
    "granite": (
        "granite",
        {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.3,
            "attention_multiplier": 0.1,
            "logits_scaling": 4.0,
        },
    ),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 8,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 8,
            "num_hidden_layers": 7,
            "rope_parameters": GEMMA3_ROPE,
        },
    ),
}


def token_ids(count: int) -> list[int]:
    found: list[int] = np.random.default_rng(1).integers(0, 97, count).tolist()
    return found


def open_runner(path: Path, context_length: int) -> TorchRunner:
    return TorchRunner(
        open_checkpoint(path),
        context_length=context_length,
        kv_cache_bytes=1 << 20,
        device="cpu",
        threads=1,
    )


def check(actual: torch.Tensor, wanted: torch.Tensor) -> None:
    assert (actual - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert (actual[:-1] - wanted[1:]).abs().max() > 0.1 * wanted.abs().max()


@pytest.mark.parametrize("name", CASES)
def test_logits_agree_with_transformers_from_both_containers(tmp_path: Path, name: str) -> None:
    model_type, changes = CASES[name]
    model = make_model(model_type, **changes)
    prompt = token_ids(NUM_TOKENS)
    with torch.inference_mode():
        wanted = model(torch.tensor([prompt])).logits[0]
    model.save_pretrained(tmp_path / "folder")
    for path in (tmp_path / "folder", write_gguf(model, tmp_path / "model.gguf")):
        runner = open_runner(path, context_length=48)
        check(forward(runner, prompt), wanted)
        check(forward(runner, prompt, cut=12), wanted)
