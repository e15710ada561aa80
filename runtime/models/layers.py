"""The parts models are made of; each asks the loader for its weights by canonical name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from runtime import kernels
from runtime.kernels import Array, SamplingBatch
from runtime.models.config import Activation, ModelConfig, RotaryConfig


class WeightLoader(Protocol):
    """Gives a model its weights as values of the runner that will run it."""

    def has(self, name: str) -> bool: ...

    def load(self, *names: str, shape: tuple[int, ...]) -> Array:
        """Return the named tensors, one below the other along the first axis: `shape` in all.

        Raises:
            ModelFileError: a tensor is missing or has a shape that does not fit.
        """
        ...

    def read(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Return a tensor for the model to compute with while it is built.

        Raises:
            ModelFileError: the tensor is missing or has another shape.
        """
        ...

    def constant(self, values: npt.NDArray[np.float32]) -> Array:
        """Return float32 values that the model computed itself."""
        ...


class Linear:
    """`x @ weight.T + bias`; several names make one fused projection."""

    def __init__(self, loader: WeightLoader, *names: str, shape: tuple[int, int]) -> None:
        self._weight = loader.load(*(f"{name}.weight" for name in names), shape=shape)
        biases = [f"{name}.bias" for name in names]
        self._bias = loader.load(*biases, shape=shape[:1]) if loader.has(biases[0]) else None

    def __call__(self, x: Array) -> Array:
        return kernels.linear(x, self._weight, self._bias)

    def as_logits(self, x: Array, sampling: SamplingBatch | None) -> Array:
        """The same for the head of a model: what `sampling` will look at."""
        return kernels.output_logits(x, self._weight, self._bias, sampling)


class RMSNorm:
    """Root-mean-square normalisation over the hidden axis."""

    def __init__(self, config: ModelConfig, loader: WeightLoader, name: str) -> None:
        self._weight = loader.load(f"{name}.weight", shape=(config.hidden_size,))
        self._eps = config.norm_eps

    @classmethod
    def try_load(cls, config: ModelConfig, loader: WeightLoader, name: str) -> Self | None:
        """Load the norm where the checkpoint has it."""
        return cls(config, loader, name) if loader.has(f"{name}.weight") else None

    def __call__(self, x: Array) -> Array:
        return kernels.rms_norm(x, self._weight, self._eps)


class Embedding:
    """Token ids to vectors, and with `as_logits` hidden states to logits by the same table."""

    def __init__(self, config: ModelConfig, loader: WeightLoader, name: str) -> None:
        shape = (config.vocab_size, config.hidden_size)
        self._weight = loader.load(f"{name}.weight", shape=shape)

    def __call__(self, token_ids: Array) -> Array:
        return kernels.gather_rows(self._weight, token_ids)

    def as_logits(self, x: Array, sampling: SamplingBatch | None) -> Array:
        return kernels.output_logits(x, self._weight, None, sampling)


class MLP:
    """Gated feed-forward layer; where there is no `gate_proj`, `up_proj` holds both."""

    def __init__(self, config: ModelConfig, loader: WeightLoader, prefix: str) -> None:
        hidden, inner = config.hidden_size, config.intermediate_size
        gate, up = f"{prefix}.gate_proj", f"{prefix}.up_proj"
        names = [gate, up] if loader.has(f"{gate}.weight") else [up]
        self._gate_up = Linear(loader, *names, shape=(2 * inner, hidden))
        self._down = Linear(loader, f"{prefix}.down_proj", shape=(hidden, inner))
        self._gate = _GATES[config.activation]

    def __call__(self, x: Array) -> Array:
        return self._down(self._gate(self._gate_up(x)))


_GATES: Mapping[Activation, Callable[[Array], Array]] = {
    "silu": kernels.silu_and_multiply,
    "gelu": kernels.gelu_and_multiply,
}


def scaled(x: Array, factor: float) -> Array:
    """Multiply by a factor of the configuration, which most models leave at 1."""
    return x if factor == 1 else kernels.scale(x, factor)


def rotary_table(
    loader: WeightLoader, rotary: RotaryConfig, num_positions: int
) -> npt.NDArray[np.float32]:
    """Cosines and sines `[num_positions, rotary.dim / 2, 2]` of every position's angles.

    Source: LongRoPE, Ding et al., arXiv 2402.13753, for the short and long factors.
    """
    frequencies = rotary.base ** (-np.arange(0, rotary.dim, 2, dtype=np.float64) / rotary.dim)
    is_long = num_positions > rotary.original_context_length
    for name in ("rope_freqs", f"rope_factors_{'long' if is_long else 'short'}"):
        if rotary.has_factors and loader.has(f"{name}.weight"):
            frequencies = frequencies / loader.read(f"{name}.weight", frequencies.shape)
    angles = np.arange(num_positions)[:, None] * (frequencies / rotary.position_scale)
    table = np.stack((np.cos(angles), np.sin(angles)), axis=-1) * rotary.magnitude
    return table.astype(np.float32)
