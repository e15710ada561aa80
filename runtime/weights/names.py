"""Tensor names of file formats to the canonical names that models ask for.

Canonical are `embed_tokens`, `norm` and `lm_head`, and `layers.{i}.` followed by a value of
`_LAYER_PARTS`; each ends in `.weight` or `.bias`. Names without a canonical form stay.

Source: `gguf.constants.TENSOR_NAMES`, gguf 0.19.
"""

from __future__ import annotations

import re

_MODEL_PARTS = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
}
_LAYER_PARTS = {
    "attn_norm": "attn_norm",
    "attn_q": "q_proj",
    "attn_k": "k_proj",
    "attn_v": "v_proj",
    "attn_qkv": "qkv_proj",
    "attn_output": "o_proj",
    "attn_q_norm": "q_norm",
    "attn_k_norm": "k_norm",
    "ffn_norm": "mlp_norm",
    "ffn_gate": "gate_proj",
    "ffn_up": "up_proj",
    "ffn_down": "down_proj",
    "post_attention_norm": "post_attn_norm",
    "post_ffw_norm": "post_mlp_norm",
}
_LAYER_NAME = re.compile(r"blk\.(0|[1-9][0-9]*)\.([a-z_]+)\.(weight|bias)")
_MODEL_NAME = re.compile(r"([a-z_]+)\.(weight|bias)")


def canonical_name(gguf_name: str) -> str:
    """The canonical form of a GGUF tensor name; the name itself where there is none."""
    if match := _LAYER_NAME.fullmatch(gguf_name):
        layer, part, kind = match.groups()
        if part in _LAYER_PARTS:
            return f"layers.{layer}.{_LAYER_PARTS[part]}.{kind}"
    elif match := _MODEL_NAME.fullmatch(gguf_name):
        part, kind = match.groups()
        if part in _MODEL_PARTS:
            return f"{_MODEL_PARTS[part]}.{kind}"
    return gguf_name
