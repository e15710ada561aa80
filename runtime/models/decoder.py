"""Decoder layers of attention and a gated feed-forward layer: the Llama family and Gemma.

Architectures differ by `ModelConfig` and by which weights the checkpoint has: biases, norms of
queries and keys, norms behind attention and feed-forward, fused projections, an own head.
Written once over `runtime.kernels`; knows no files, no devices and no number formats.
Source: Llama, Touvron et al., arXiv 2302.13971; Gemma 3 report, arXiv 2503.19786.
"""

from __future__ import annotations

from runtime import kernels
from runtime.kernels import Array, ForwardBatch, SamplingBatch
from runtime.models.attention import Attention
from runtime.models.config import ModelConfig, RotaryConfig
from runtime.models.layers import (
    MLP,
    Embedding,
    Linear,
    RMSNorm,
    WeightLoader,
    rotary_table,
    scaled,
)


class DecoderLayer:
    """Attention, then feed-forward, each behind a norm and around a residual.

    Where the checkpoint has them, more norms follow attention and feed-forward.
    """

    def __init__(self, config: ModelConfig, loader: WeightLoader, index: int) -> None:
        prefix = f"layers.{index}"
        self._attention_norm = RMSNorm(config, loader, f"{prefix}.attn_norm")
        self._attention = Attention(config, loader, prefix, config.layers[index].window)
        self._post_attention_norm = RMSNorm.try_load(config, loader, f"{prefix}.post_attn_norm")
        self._mlp_norm = RMSNorm(config, loader, f"{prefix}.mlp_norm")
        self._mlp = MLP(config, loader, prefix)
        self._post_mlp_norm = RMSNorm.try_load(config, loader, f"{prefix}.post_mlp_norm")
        self._residual_scale = config.residual_scale

    def __call__(self, x: Array, cos_sin: Array, kv_pages: Array, batch: ForwardBatch) -> Array:
        attended = self._attention(self._attention_norm(x), cos_sin, kv_pages, batch)
        x = self._add(x, attended, self._post_attention_norm)
        return self._add(x, self._mlp(self._mlp_norm(x)), self._post_mlp_norm)

    def _add(self, x: Array, y: Array, norm: RMSNorm | None) -> Array:
        return kernels.add(x, scaled(y if norm is None else norm(y), self._residual_scale))


class Decoder:
    """Token ids to logits."""

    def __init__(self, config: ModelConfig, loader: WeightLoader, context_length: int) -> None:
        """Load every weight; positions reach up to `context_length`.

        Raises:
            ModelFileError: a weight is missing or has the wrong shape.
        """
        self._config = config
        self._embedding = Embedding(config, loader, "embed_tokens")
        self._layers = [DecoderLayer(config, loader, index) for index in range(config.num_layers)]
        self._norm = RMSNorm(config, loader, "norm")
        shape = (config.vocab_size, config.hidden_size)
        has_head = loader.has("lm_head.weight")
        self._head = Linear(loader, "lm_head", shape=shape) if has_head else None
        self._rotary: dict[RotaryConfig, Array] = {
            rotary: loader.constant(rotary_table(loader, rotary, context_length))
            for rotary in dict.fromkeys(layer.rotary for layer in config.layers)
        }

    def __call__(
        self, batch: ForwardBatch, kv_pages: list[Array], sampling: SamplingBatch | None = None
    ) -> Array:
        """Return logits `[R, vocab]` of `batch.logits_rows`.

        Args:
            batch: the step.
            kv_pages: one entry a layer.
            sampling: who will look at the logits: the others may stay undefined (see
                `kernels.output_logits`).
        """
        x = self._run_layers(batch, kv_pages)
        return self._to_logits(kernels.gather_rows(x, batch.logits_rows), sampling)

    def hidden_states(self, batch: ForwardBatch, kv_pages: list[Array]) -> Array:
        """Return the last hidden states `[T, hidden]` of all tokens, behind the last norm."""
        return self._norm(self._run_layers(batch, kv_pages))

    def _run_layers(self, batch: ForwardBatch, kv_pages: list[Array]) -> Array:
        cos_sin = {
            rotary: kernels.gather_rows(table, batch.positions)
            for rotary, table in self._rotary.items()
        }
        x = scaled(self._embedding(batch.token_ids), self._config.embedding_scale)
        for layer, shape, pages in zip(self._layers, self._config.layers, kv_pages, strict=True):
            x = layer(x, cos_sin[shape.rotary], pages, batch)
        return x

    def _to_logits(self, x: Array, sampling: SamplingBatch | None) -> Array:
        head = self._embedding if self._head is None else self._head
        logits = head.as_logits(self._norm(x), sampling)
        logits = scaled(logits, self._config.logit_scale)
        cap = self._config.logit_soft_cap
        return kernels.soft_cap(logits, cap) if cap else logits
