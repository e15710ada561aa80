"""Grouped-query attention over paged keys and values."""

from __future__ import annotations

import numpy as np

from runtime import kernels
from runtime.kernels import Array, ForwardBatch
from runtime.models.config import ModelConfig
from runtime.models.layers import Linear, WeightLoader


class Attention:
    """Projections around `kernels.paged_attention`.

    Where the checkpoint has `q_norm` and `k_norm`, each head's queries and keys are normalised
    before they are rotated.
    """

    def __init__(self, config: ModelConfig, loader: WeightLoader, prefix: str, window: int) -> None:
        hidden, head_dim = config.hidden_size, config.head_dim
        num_heads = config.num_heads + 2 * config.num_kv_heads
        names = [f"{prefix}.{name}_proj" for name in "qkv"]
        if loader.has(f"{prefix}.qkv_proj.weight"):
            names = [f"{prefix}.qkv_proj"]
        self._qkv = Linear(loader, *names, shape=(num_heads * head_dim, hidden))
        self._out = Linear(loader, f"{prefix}.o_proj", shape=(hidden, config.num_heads * head_dim))
        self._head_norm = self._load_head_norm(config, loader, prefix)
        self._config = config
        self._window = window

    @staticmethod
    def _load_head_norm(config: ModelConfig, loader: WeightLoader, prefix: str) -> Array | None:
        if not loader.has(f"{prefix}.q_norm.weight"):
            return None
        query, key = (
            loader.read(f"{prefix}.{name}_norm.weight", (config.head_dim,)) for name in "qk"
        )
        rows = [query] * config.num_heads + [key] * config.num_kv_heads
        return loader.constant(np.stack(rows))

    def __call__(self, x: Array, cos_sin: Array, kv_pages: Array, batch: ForwardBatch) -> Array:
        config = self._config
        qkv = self._qkv(x)
        if self._head_norm is not None:
            qkv = kernels.norm_heads(qkv, self._head_norm, config.norm_eps)
        q, k, v = kernels.rotate_heads(
            qkv,
            cos_sin,
            config.num_heads,
            config.num_kv_heads,
            interleaved=config.rotary_interleaved,
        )
        kernels.write_kv(k, v, kv_pages, batch.slot_mapping)
        attended = kernels.paged_attention(
            q,
            kv_pages,
            batch,
            config.attention_scale,
            window=self._window,
            soft_cap=config.attention_soft_cap,
        )
        return self._out(attended)
