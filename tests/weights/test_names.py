"""Tests of canonical tensor names."""

import gguf
import pytest

from runtime.weights.names import canonical_name


@pytest.mark.parametrize(
    ("gguf_name", "canonical"),
    [
        ("token_embd.weight", "embed_tokens.weight"),
        ("output_norm.weight", "norm.weight"),
        ("output.weight", "lm_head.weight"),
        ("blk.0.attn_q.weight", "layers.0.q_proj.weight"),
        ("blk.11.attn_q.bias", "layers.11.q_proj.bias"),
        ("blk.2.attn_k_norm.weight", "layers.2.k_norm.weight"),
        ("blk.29.ffn_norm.weight", "layers.29.mlp_norm.weight"),
        ("blk.3.post_ffw_norm.weight", "layers.3.post_mlp_norm.weight"),
        ("rope_freqs.weight", "rope_freqs.weight"),
        ("blk.0.ssm_conv1d.weight", "blk.0.ssm_conv1d.weight"),
        ("blk.01.attn_q.weight", "blk.01.attn_q.weight"),
        ("blk.0.attn_q.scale", "blk.0.attn_q.scale"),
        ("", ""),
    ],
)
def test_gguf_names_become_canonical(gguf_name: str, canonical: str) -> None:
    assert canonical_name(gguf_name) == canonical


def test_every_tensor_of_a_llama_has_a_canonical_name() -> None:
    parts = gguf.MODEL_TENSORS[gguf.MODEL_ARCH.LLAMA]
    names = [gguf.TENSOR_NAMES[part].format(bid=7) + ".weight" for part in parts]
    dense = [name for name in names if "exp" not in name and "gate_inp" not in name]
    kept = {name for name in dense if canonical_name(name) == name}
    assert kept == {"rope_freqs.weight", "blk.7.attn_rot_embd.weight"}
