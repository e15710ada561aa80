"""The shape of a model, read and checked from its checkpoint's metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.errors import ModelFileError


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What the decoder needs to know of its checkpoint.

    Attributes:
        context_length: most positions the model was trained for.
        rotary_dim: dimensions of a head that rotary embedding turns.
        rotary_interleaved: whether pairs are neighbours (see `kernels.rotate_heads`).
    """

    architecture: str
    vocab_size: int
    context_length: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rotary_base: float
    rotary_interleaved: bool

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> ModelConfig:
        """Read the keys of a GGUF file.

        Raises:
            ModelFileError: an architecture we don't run, or a value that is missing or makes
                no sense.

        Source: GGUF specification, "LLM" metadata keys.
        """
        architecture = metadata.get("general.architecture")
        if architecture != "llama":
            raise ModelFileError(
                f"the file's architecture is {architecture!r}; supported is 'llama' "
                "(Llama 2 and 3, Mistral, SmolLM2, TinyLlama …)"
            )
        read = _Reader(metadata, prefix=f"{architecture}.")
        num_heads = read.count("attention.head_count")
        hidden_size = read.count("embedding_length")
        config = cls(
            architecture=architecture,
            vocab_size=len(metadata.get("tokenizer.ggml.tokens", ())),
            context_length=read.count("context_length"),
            hidden_size=hidden_size,
            intermediate_size=read.count("feed_forward_length"),
            num_layers=read.count("block_count"),
            num_heads=num_heads,
            num_kv_heads=read.count("attention.head_count_kv", num_heads),
            head_dim=read.count("attention.key_length", hidden_size // num_heads),
            norm_eps=read.number("attention.layer_norm_rms_epsilon", 1e-5),
            rotary_base=read.number("rope.freq_base", 10_000.0),
            rotary_interleaved=True,
        )
        config._check(metadata)
        return config

    def _check(self, metadata: Mapping[str, Any]) -> None:
        problems = {
            f"{self.num_heads} query heads are no multiple of {self.num_kv_heads} key heads": (
                self.num_heads % self.num_kv_heads
            ),
            f"head dimension {self.head_dim} is odd": self.head_dim % 2,
            f"expert layers ({metadata.get('llama.expert_count')}) are not supported": (
                metadata.get("llama.expert_count", 0)
            ),
            f"rotary embedding of {metadata.get('llama.rope.dimension_count')} of {self.head_dim} "
            "dimensions is not supported": (
                metadata.get("llama.rope.dimension_count", self.head_dim) != self.head_dim
            ),
            f"rotary scaling {metadata.get('llama.rope.scaling.type')!r} is not supported": (
                metadata.get("llama.rope.scaling.type", "none") != "none"
            ),
        }
        for problem, is_there in problems.items():
            if is_there:
                raise ModelFileError(f"the model's metadata: {problem}")


class _Reader:
    """Typed look-ups under one prefix."""

    def __init__(self, metadata: Mapping[str, Any], prefix: str) -> None:
        self._metadata = metadata
        self._prefix = prefix

    def count(self, key: str, default: int | None = None) -> int:
        value = self._metadata.get(self._prefix + key, default)
        if not isinstance(value, int) or not 0 < value < 2**31:
            raise ModelFileError(f"{self._prefix}{key} must be a positive count, found {value!r}")
        return value

    def number(self, key: str, default: float) -> float:
        value = self._metadata.get(self._prefix + key, default)
        if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise ModelFileError(f"{self._prefix}{key} must be a positive number, found {value!r}")
        return float(value)
