"""A safetensors folder's `config.json` in GGUF's words, as llama.cpp's converter would put it.

Thus models know one vocabulary. Two keys are ours, for what GGUF's architectures imply:
`rope.interleaved` (bool) and `rope.layer_pattern` (which layers rotate, one bool a layer).

Source: transformers 5, `configuration_*.py` and `modeling_rope_utils.py`; llama.cpp,
`convert_hf_to_gguf.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import ModelFileError

_ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "phi3": "phi3",
    "smollm3": "smollm3",
    "granite": "granite",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
}
"""`model_type` to GGUF's architecture."""

_GEMMA = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "hidden_act": "gelu_pytorch_tanh",
}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "smollm3": {"rope_theta": 2e6},
    "granite": {"attention_multiplier": 1.0},
    "mistral": {"sliding_window": 4096},
    "gemma2": {
        **_GEMMA,
        "max_position_embeddings": 8192,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "gemma3_text": {**_GEMMA, "max_position_embeddings": 131072, "rope_theta": 1e6},
}
"""What transformers takes where the file is silent and GGUF's default is another."""

_KEYS = {
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "attention_multiplier": "attention.scale",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}
_REQUIRED = tuple(_KEYS)[:5]
_MAX_COUNT = 1 << 24
_MAX_NUMBER = 1e30
_LAYER_TYPES = ("sliding_attention", "full_attention")

_PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "mlp_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.qkv_proj": "qkv_proj",
    "self_attn.o_proj": "o_proj",
    "self_attn.q_norm": "q_norm",
    "self_attn.k_norm": "k_norm",
    "mlp.gate_proj": "gate_proj",
    "mlp.up_proj": "up_proj",
    "mlp.gate_up_proj": "up_proj",
    "mlp.down_proj": "down_proj",
}
_SANDWICH_PARTS = {
    **_PARTS,
    "post_attention_layernorm": "post_attn_norm",
    "pre_feedforward_layernorm": "mlp_norm",
    "post_feedforward_layernorm": "post_mlp_norm",
}
_NAME = re.compile(
    r"(?:language_model\.)?(?:model\.)?(?:language_model\.)?"
    r"(?:layers\.(?P<layer>0|[1-9][0-9]*)\.)?(?P<part>[a-z_.]+)\.(?P<kind>weight|bias)"
)


class HfConfig:
    """One model's `config.json`, understood.

    Attributes:
        architecture: GGUF's name of it.
        metadata: the configuration under GGUF's keys.
        factors: divisors of rotary frequencies as tensors, by GGUF's names.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Check and translate.

        Raises:
            ModelFileError: a model we don't run, or a value that is missing or makes no sense.
        """
        if config.get("model_type") == "gemma3":  # with its vision tower, which is left out
            config = {"model_type": "gemma3_text", **_mapping(config, "text_config")}
        if "quantization_config" in config:
            raise ModelFileError(
                "the folder's weights are quantised in a way we don't read; take the model's "
                "GGUF file or its plain safetensors"
            )
        model_type = config.get("model_type")
        if model_type not in _ARCHITECTURES:
            known = ", ".join(_ARCHITECTURES)
            raise ModelFileError(
                f"config.json: model_type is {model_type!r}; supported are {known}"
            )
        self.architecture = _ARCHITECTURES[model_type]
        common = {"rms_norm_eps": 1e-5 if model_type == "phi3" else 1e-6}
        merged = {**common, **_DEFAULTS.get(model_type, {}), **config}
        self._config = {key: value for key, value in merged.items() if value is not None}
        for key in _REQUIRED:
            _count(self._config, key)
        self._check_supported()
        self._rotary = self._read_rotary()
        self.metadata = self._read_metadata()
        self.factors = self._read_factors()

    @property
    def adds_one_to_norms(self) -> bool:
        """Whether norms' weights are stored as their difference from 1."""
        return self.architecture.startswith("gemma")

    def canonical_name(self, name: str) -> str:
        """The canonical form of a tensor's name; the name itself where there is none."""
        match = _NAME.fullmatch(name)
        if match is None:
            return name
        layer, part, kind = match["layer"], match["part"], match["kind"]
        if layer is None:
            return f"{part}.{kind}" if part in {"embed_tokens", "norm", "lm_head"} else name
        parts = _SANDWICH_PARTS if self.architecture.startswith("gemma") else _PARTS
        return f"layers.{layer}.{parts[part]}.{kind}" if part in parts else name

    def _read_metadata(self) -> dict[str, Any]:
        config = self._config
        found = {gguf_key: config[key] for key, gguf_key in _KEYS.items() if key in config}
        if "query_pre_attn_scalar" in config:
            found["attention.scale"] = _number(config, "query_pre_attn_scalar") ** -0.5
        found |= self._window_keys() | self._rotary_keys()
        keys = {f"{self.architecture}.{key}": value for key, value in found.items()}
        return {"general.architecture": self.architecture, **keys}

    def _read_factors(self) -> dict[str, npt.NDArray[np.float32]]:
        rotary, kind = self._rotary, self._rotary_type
        if kind == "llama3":
            return {"rope_freqs.weight": _llama3_factors(rotary, self._rotary_dim)}
        if kind != "longrope":
            return {}
        return {
            f"rope_factors_{length}.weight": _floats(rotary, f"{length}_factor")
            for length in ("short", "long")
        }

    @property
    def _rotary_type(self) -> str:
        kind = self._rotary.get("rope_type", self._rotary.get("type", "default"))
        return "longrope" if kind == "su" else str(kind)

    @property
    def _rotary_dim(self) -> int:
        config = self._config
        head_dim = config["hidden_size"] // config["num_attention_heads"]
        if "head_dim" in config:
            head_dim = _count(config, "head_dim")
        merged = {"partial_rotary_factor": 1.0, **config, **self._rotary}
        turned = _number(merged, "partial_rotary_factor")
        if turned > 1:
            raise ModelFileError(f"config.json: partial_rotary_factor {turned} is above 1")
        return int(head_dim * turned)

    def _check_supported(self) -> None:
        wanted = "gelu_pytorch_tanh" if self.architecture.startswith("gemma") else "silu"
        activation = self._config.get("hidden_activation", self._config.get("hidden_act", wanted))
        if activation != wanted:
            raise ModelFileError(
                f"config.json: the activation {activation!r} is not supported, only {wanted!r}"
            )
        if self._config.get("use_bidirectional_attention"):
            raise ModelFileError("config.json: bidirectional attention is not supported")

    def _read_rotary(self) -> Mapping[str, Any]:
        """Parameters of the layers that see everything; older files spread them about."""
        config = self._config
        key = "rope_parameters" if "rope_parameters" in config else "rope_scaling"
        found = _mapping(config, key)
        if "full_attention" in found:
            found = _mapping(found, "full_attention")
        return {"rope_theta": config.get("rope_theta", 10_000.0), **found}

    def _rotary_keys(self) -> dict[str, Any]:
        config, rotary, kind = self._config, self._rotary, self._rotary_type
        keys: dict[str, Any] = {
            "rope.freq_base": rotary["rope_theta"],
            "rope.dimension_count": self._rotary_dim,
            "rope.interleaved": False,
        }
        if local := _mapping(_mapping(config, "rope_parameters"), "sliding_attention"):
            keys["rope.freq_base_swa"] = local.get("rope_theta")
        elif "rope_local_base_freq" in config:
            keys["rope.freq_base_swa"] = config["rope_local_base_freq"]
        if "no_rope_layers" in config:
            keys["rope.layer_pattern"] = config["no_rope_layers"]
        elif "no_rope_layer_interval" in config:
            keys["rope.layer_pattern"] = config["no_rope_layer_interval"]
        if kind == "longrope":
            keys |= self._longrope_keys()
        elif kind not in {"default", "llama3"}:
            keys["rope.scaling.type"] = kind
            keys["rope.scaling.factor"] = rotary.get("factor")
        return keys

    def _longrope_keys(self) -> dict[str, Any]:
        longest = self._config["max_position_embeddings"]
        merged = {"original_max_position_embeddings": longest, **self._rotary, **self._config}
        original = _count(merged, "original_max_position_embeddings")
        factor = _number({"factor": longest / original, **self._rotary}, "factor")
        magnitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        return {
            "rope.scaling.original_context_length": original,
            "rope.scaling.attn_factor": self._rotary.get("attention_factor") or magnitude,
        }

    def _window_keys(self) -> dict[str, Any]:
        config = self._config
        window = config.get("sliding_window")
        if window is None or not config.get("use_sliding_window", True):
            return {}
        keys = {"attention.sliding_window": window}
        if kinds := config.get("layer_types"):
            if not isinstance(kinds, list) or any(kind not in _LAYER_TYPES for kind in kinds):
                raise ModelFileError(f"config.json: layer_types {kinds!r:.200} are not supported")
            pattern = [kind == "sliding_attention" for kind in kinds]
            keys["attention.sliding_window_pattern"] = pattern
        elif "max_window_layers" in config:
            first = _number(config, "max_window_layers", or_zero=True)
            pattern = [index >= first for index in range(config["num_hidden_layers"])]
            keys["attention.sliding_window_pattern"] = pattern
        elif "sliding_window_pattern" in config:
            keys["attention.sliding_window_pattern"] = config["sliding_window_pattern"]
        return keys


def _llama3_factors(rotary: Mapping[str, Any], dim: int) -> npt.NDArray[np.float32]:
    """1 for short wavelengths, `factor` for long ones, and smoothly between them.

    Source: Llama 3.1, `apply_scaling` of meta-llama/llama-models.
    """
    factor, low, high, original = (
        _number(rotary, key)
        for key in (
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        )
    )
    if low >= high:
        raise ModelFileError(f"config.json: low_freq_factor {low} is not below {high}")
    base = _number(rotary, "rope_theta")
    wavelengths = 2 * math.pi * base ** (np.arange(0, dim, 2, dtype=np.float64) / dim)
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def _mapping(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, Mapping):
        raise ModelFileError(f"config.json: {key} must be an object, not {value!r}")
    return value


def _count(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or not 0 < value < _MAX_COUNT:
        raise ModelFileError(f"config.json: {key} must be a positive count, not {value!r}")
    return value


def _number(config: Mapping[str, Any], key: str, *, or_zero: bool = False) -> float:
    """A number above 0 of a sane size."""
    value = config.get(key)
    if (
        not isinstance(value, int | float)
        or not 0 <= value < _MAX_NUMBER
        or (value == 0 and not or_zero)
    ):
        raise ModelFileError(f"config.json: {key} must be a positive number, not {value!r}")
    return float(value)


def _floats(config: Mapping[str, Any], key: str) -> npt.NDArray[np.float32]:
    try:
        return np.array(config.get(key), np.float32, ndmin=1)
    except (TypeError, ValueError, OverflowError) as exc:
        raise ModelFileError(f"config.json: {key} must be a list of numbers") from exc
