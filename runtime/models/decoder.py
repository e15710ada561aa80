"""The Llama family: pre-norm decoder layers of attention and a gated feed-forward layer.

Written once over `runtime.kernels`; knows no files, no devices and no number formats.
Source: Llama, Touvron et al., arXiv 2302.13971.
"""

from __future__ import annotations

from runtime import kernels
from runtime.kernels import Array, ForwardBatch
from runtime.models.config import ModelConfig
from runtime.models.layers import MLP, Embedding, Linear, RMSNorm, WeightLoader, rotary_table


class Attention:
    """Grouped-query attention over paged keys and values."""

    def __init__(self, config: ModelConfig, loader: WeightLoader, prefix: str) -> None:
        projections = (f"{prefix}.{name}_proj" for name in "qkv")
        self._qkv = Linear(loader, *projections)
        self._out = Linear(loader, f"{prefix}.o_proj")
        self._config = config

    def __call__(self, x: Array, cos_sin: Array, kv_pages: Array, batch: ForwardBatch) -> Array:
        config = self._config
        q, k, v = kernels.rotate_heads(
            self._qkv(x),
            cos_sin,
            config.num_heads,
            config.num_kv_heads,
            interleaved=config.rotary_interleaved,
        )
        kernels.write_kv(k, v, kv_pages, batch.slot_mapping)
        scale = config.head_dim**-0.5
        return self._out(kernels.paged_attention(q, kv_pages, batch, scale))


class DecoderLayer:
    """Attention, then feed-forward, each behind a norm and around a residual."""

    def __init__(self, config: ModelConfig, loader: WeightLoader, prefix: str) -> None:
        self._attention_norm = RMSNorm(loader, f"{prefix}.attn_norm", config.norm_eps)
        self._attention = Attention(config, loader, prefix)
        self._mlp_norm = RMSNorm(loader, f"{prefix}.mlp_norm", config.norm_eps)
        self._mlp = MLP(loader, prefix)

    def __call__(self, x: Array, cos_sin: Array, kv_pages: Array, batch: ForwardBatch) -> Array:
        x = kernels.add(x, self._attention(self._attention_norm(x), cos_sin, kv_pages, batch))
        return kernels.add(x, self._mlp(self._mlp_norm(x)))


class Decoder:
    """Token ids to logits."""

    def __init__(self, config: ModelConfig, loader: WeightLoader, context_length: int) -> None:
        """Load every weight; positions reach up to `context_length`.

        Raises:
            ModelFileError: a weight is missing or has the wrong shape.
        """
        self._embedding = Embedding(loader, "embed_tokens")
        factors = loader.read("rope_freqs.weight") if loader.has("rope_freqs.weight") else None
        self._rotary = loader.constant(
            rotary_table(context_length, config.head_dim, config.rotary_base, factors)
        )
        self._layers = [
            DecoderLayer(config, loader, f"layers.{index}") for index in range(config.num_layers)
        ]
        self._norm = RMSNorm(loader, "norm", config.norm_eps)
        self._head = Linear(loader, "lm_head") if loader.has("lm_head.weight") else None

    def __call__(self, batch: ForwardBatch, kv_pages: list[Array]) -> Array:
        """Return logits `[R, vocab]` of `batch.logits_rows`; `kv_pages` has one entry a layer."""
        cos_sin = kernels.gather_rows(self._rotary, batch.positions)
        x = self._embedding(batch.token_ids)
        for layer, layer_pages in zip(self._layers, kv_pages, strict=True):
            x = layer(x, cos_sin, layer_pages, batch)
        x = self._norm(kernels.gather_rows(x, batch.logits_rows))
        return self._embedding.as_logits(x) if self._head is None else self._head(x)
