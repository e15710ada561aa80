"""The shape of a model, read and checked from its checkpoint's metadata.

One table row per architecture says what its files do not; all else is GGUF's keys, which
safetensors folders are translated to (`runtime.weights.hf_config`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from runtime.errors import ModelFileError
from runtime.weights.checkpoint import Checkpoint

Activation = Literal["silu", "gelu"]

_MAX_NUMBER = 1e30
_MAX_LAYERS = 10_000
"""Guards against damaged files, whose layers would be listed before they are missed."""


@dataclass(frozen=True, slots=True)
class RotaryConfig:
    """Rotary embedding of some layers.

    Attributes:
        base: wavelengths grow to about `2 * pi * base` positions.
        dim: leading dimensions of a head that are turned; 0 turns none.
        position_scale: positions are divided by it (linear scaling).
        has_factors: whether the checkpoint's factors divide the frequencies.
        original_context_length: contexts beyond it take the long factors, where there are two
            sets of them; 0 where there is one.
        magnitude: factor of cosines and sines.
    """

    base: float
    dim: int
    position_scale: float = 1.0
    has_factors: bool = True
    original_context_length: int = 0
    magnitude: float = 1.0


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """In what layers differ: a token sees the last `window` tokens, all where it is 0."""

    rotary: RotaryConfig
    window: int = 0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What the decoder needs to know of its checkpoint.

    Attributes:
        context_length: most positions the model was trained for.
        layers: one entry per layer.
        rotary_interleaved: whether pairs are neighbours (see `kernels.rotate_heads`).
        attention_scale: factor of attention scores.
        attention_soft_cap: bound of attention scores, 0 for none (see `kernels.soft_cap`).
        logit_soft_cap: bound of logits, 0 for none.
        embedding_scale: factor of token embeddings.
        residual_scale: factor of what a layer adds.
        logit_scale: factor of logits.
    """

    architecture: str
    vocab_size: int
    context_length: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    layers: tuple[LayerConfig, ...]
    rotary_interleaved: bool
    attention_scale: float
    activation: Activation = "silu"
    attention_soft_cap: float = 0.0
    logit_soft_cap: float = 0.0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> ModelConfig:
        """Read a checkpoint's metadata; no weight is touched.

        Raises:
            ModelFileError: an architecture we don't run, or a value that is missing or makes
                no sense.

        Source: GGUF specification, "LLM" metadata keys; llama.cpp, `src/models/*.cpp`.
        """
        architecture = checkpoint.metadata.get("general.architecture")
        if not isinstance(architecture, str) or architecture not in _ARCHITECTURES:
            known = ", ".join(sorted(_ARCHITECTURES))
            raise ModelFileError(
                f"the file's architecture is {architecture!r}; supported are {known} "
                "(llama is also Mistral, SmolLM2, TinyLlama …)"
            )
        traits = _ARCHITECTURES[architecture]
        read = _Reader(checkpoint.metadata, prefix=f"{architecture}.")
        num_heads = read.count("attention.head_count")
        hidden_size = read.count("embedding_length")
        head_dim = read.count("attention.key_length", hidden_size // num_heads)
        config = cls(
            architecture=architecture,
            vocab_size=checkpoint.info("embed_tokens.weight").shape[0],
            context_length=read.count("context_length"),
            hidden_size=hidden_size,
            intermediate_size=read.count("feed_forward_length"),
            num_heads=num_heads,
            num_kv_heads=read.count("attention.head_count_kv", num_heads),
            head_dim=head_dim,
            norm_eps=read.number("attention.layer_norm_rms_epsilon", 1e-5),
            layers=_read_layers(read, traits, head_dim),
            rotary_interleaved=read.flag("rope.interleaved", default=traits.rotary_interleaved),
            attention_scale=_read_attention_scale(read, traits, head_dim, hidden_size / num_heads),
            activation=traits.activation,
            attention_soft_cap=read.number("attn_logit_softcapping", 0.0),
            logit_soft_cap=read.number("final_logit_softcapping", 0.0),
            embedding_scale=read.number(
                "embedding_scale", hidden_size**0.5 if traits.scales_embedding else 1.0
            ),
            residual_scale=read.number("residual_scale", 1.0),
            logit_scale=1 / read.number("logit_scale", 1.0),
        )
        _check(config, read)
        return config


@dataclass(frozen=True, slots=True)
class _Architecture:
    """What is true of all models of an architecture.

    Attributes:
        rotary_interleaved: of GGUF files; the converter reorders the heads of some.
        window_period: every so many layers, one sees all tokens; 0: none does.
        window_rotary_base: rotary base of layers with a window, 0 for that of the others.
        plain_period: every so many layers, one has no rotary embedding; 0: all have it.
        wide_scale_layers: a model of so many layers scales attention by the hidden size per
            head, not by the head's own dimension.
    """

    rotary_interleaved: bool = False
    activation: Activation = "silu"
    scales_embedding: bool = False
    window_period: int = 0
    window_rotary_base: float = 0.0
    plain_period: int = 0
    wide_scale_layers: int = 0


_ARCHITECTURES: Mapping[str, _Architecture] = {
    "llama": _Architecture(rotary_interleaved=True),
    "qwen2": _Architecture(),
    "qwen3": _Architecture(),
    "phi3": _Architecture(),
    "smollm3": _Architecture(rotary_interleaved=True, plain_period=4),
    "granite": _Architecture(rotary_interleaved=True),
    "gemma2": _Architecture(
        activation="gelu", scales_embedding=True, window_period=2, wide_scale_layers=46
    ),
    "gemma3": _Architecture(
        activation="gelu",
        scales_embedding=True,
        window_period=6,
        window_rotary_base=10_000.0,
        wide_scale_layers=62,
    ),
}


class _Reader:
    """Typed look-ups under one prefix."""

    def __init__(self, metadata: Mapping[str, Any], prefix: str) -> None:
        self._metadata = metadata
        self._prefix = prefix

    def get(self, key: str) -> Any:
        return self._metadata.get(self._prefix + key)

    def count(self, key: str, default: int | None = None, *, limit: int = 1 << 31) -> int:
        value = self._metadata.get(self._prefix + key, default)
        if not isinstance(value, int) or not 0 < value < limit:
            raise self._wrong(key, "a positive count", value)
        return value

    def number(self, key: str, default: float) -> float:
        """A positive number; only a default may be 0."""
        value = self._metadata.get(self._prefix + key)
        if value is None:
            return default
        if not isinstance(value, int | float) or not 0 < value < _MAX_NUMBER:
            raise self._wrong(key, "a positive number", value)
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._metadata.get(self._prefix + key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def pattern(self, key: str, num_layers: int, period: int) -> list[bool]:
        """Flags of all layers: listed in the file, or false for each `period`-th alone."""
        value = self._metadata.get(self._prefix + key)
        if value is None or (isinstance(value, int) and value >= 0):
            period = period if value is None else value
            return [not period or (index + 1) % period != 0 for index in range(num_layers)]
        if isinstance(value, str) or not hasattr(value, "__len__") or len(value) != num_layers:
            raise self._wrong(key, f"a period or {num_layers} flags", value)
        return [bool(flag) for flag in value]

    def _wrong(self, key: str, wanted: str, value: object) -> ModelFileError:
        return ModelFileError(f"{self._prefix}{key} must be {wanted}, found {value!r}")


def _read_layers(read: _Reader, traits: _Architecture, head_dim: int) -> tuple[LayerConfig, ...]:
    num_layers = read.count("block_count", limit=_MAX_LAYERS)
    scaling = read.get("rope.scaling.type")
    rotary = RotaryConfig(
        base=read.number("rope.freq_base", 10_000.0),
        dim=read.count("rope.dimension_count", head_dim),
        position_scale=read.number("rope.scaling.factor", 1.0) if scaling == "linear" else 1.0,
        original_context_length=_or_zero(read, "rope.scaling.original_context_length"),
        magnitude=read.number("rope.scaling.attn_factor", 1.0),
    )
    local = rotary
    if local_base := read.number("rope.freq_base_swa", traits.window_rotary_base):
        local = RotaryConfig(local_base, rotary.dim, has_factors=False)
    none = RotaryConfig(rotary.base, 0, has_factors=False)
    window = _or_zero(read, "attention.sliding_window")
    has_window = read.pattern("attention.sliding_window_pattern", num_layers, traits.window_period)
    has_rotary = read.pattern("rope.layer_pattern", num_layers, traits.plain_period)
    return tuple(
        LayerConfig(
            rotary=none if not turned else local if window and near else rotary,
            window=window if near else 0,
        )
        for near, turned in zip(has_window, has_rotary, strict=True)
    )


def _or_zero(read: _Reader, key: str) -> int:
    """A count that may be missing or 0."""
    return read.count(key) if read.get(key) else 0


def _read_attention_scale(
    read: _Reader, traits: _Architecture, head_dim: int, hidden_per_head: float
) -> float:
    is_wide = traits.wide_scale_layers == read.count("block_count")
    return read.number("attention.scale", (hidden_per_head if is_wide else head_dim) ** -0.5)


def _check(config: ModelConfig, read: _Reader) -> None:
    rotary_dim = read.get("rope.dimension_count") or config.head_dim
    scaling, num_experts = read.get("rope.scaling.type"), read.get("expert_count")
    problems = {
        f"{config.num_heads} query heads are no multiple of {config.num_kv_heads} key heads": (
            config.num_heads % config.num_kv_heads
        ),
        f"head dimension {config.head_dim} is odd": config.head_dim % 2,
        f"rotary embedding of {rotary_dim} of {config.head_dim} dimensions is not possible": (
            rotary_dim > config.head_dim or rotary_dim % 2
        ),
        f"expert layers ({num_experts}) are not supported": num_experts,
        f"rotary scaling {scaling!r} is not supported": (
            scaling not in {None, "none", "linear", "longrope"}
        ),
    }
    for problem, is_there in problems.items():
        if is_there:
            raise ModelFileError(f"the model's metadata: {problem}")
