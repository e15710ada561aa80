"""The parts models are made of; each asks the loader for its weights by canonical name."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from runtime import kernels
from runtime.kernels import Array


class WeightLoader(Protocol):
    """Gives a model its weights as values of the runner that will run it."""

    def has(self, name: str) -> bool: ...

    def load(self, *names: str) -> Array:
        """Return the named tensors, one below the other along the first axis.

        Raises:
            ModelFileError: a tensor is missing or has a shape that does not fit.
        """
        ...

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor for the model to compute with while it is built."""
        ...

    def constant(self, values: npt.NDArray[np.float32]) -> Array:
        """Return float32 values that the model computed itself."""
        ...


class Linear:
    """`x @ weight.T + bias`; several names make one fused projection."""

    def __init__(self, loader: WeightLoader, *names: str) -> None:
        self._weight = loader.load(*(f"{name}.weight" for name in names))
        biases = [f"{name}.bias" for name in names]
        self._bias = loader.load(*biases) if loader.has(biases[0]) else None

    def __call__(self, x: Array) -> Array:
        return kernels.linear(x, self._weight, self._bias)


class RMSNorm:
    """Root-mean-square normalisation over the hidden axis."""

    def __init__(self, loader: WeightLoader, name: str, eps: float) -> None:
        self._weight = loader.load(f"{name}.weight")
        self._eps = eps

    def __call__(self, x: Array) -> Array:
        return kernels.rms_norm(x, self._weight, self._eps)


class Embedding:
    """Token ids to vectors, and with `as_logits` hidden states to logits by the same table."""

    def __init__(self, loader: WeightLoader, name: str) -> None:
        self._weight = loader.load(f"{name}.weight")

    def __call__(self, token_ids: Array) -> Array:
        return kernels.gather_rows(self._weight, token_ids)

    def as_logits(self, x: Array) -> Array:
        return kernels.linear(x, self._weight)


class MLP:
    """Gated feed-forward layer."""

    def __init__(self, loader: WeightLoader, prefix: str) -> None:
        self._gate_up = Linear(loader, f"{prefix}.gate_proj", f"{prefix}.up_proj")
        self._down = Linear(loader, f"{prefix}.down_proj")

    def __call__(self, x: Array) -> Array:
        return self._down(kernels.silu_and_multiply(self._gate_up(x)))


def rotary_table(
    num_positions: int,
    head_dim: int,
    base: float,
    frequency_factors: npt.NDArray[np.float32] | None,
) -> npt.NDArray[np.float32]:
    """Cosines and sines `[num_positions, head_dim / 2, 2]` of every position's angles.

    `frequency_factors` `[head_dim / 2]` divide the frequencies, as Llama 3.1's
    `rope_freqs.weight` does.
    """
    frequencies = base ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if frequency_factors is not None:
        frequencies = frequencies / frequency_factors
    angles = np.arange(num_positions)[:, None] * frequencies
    return np.stack((np.cos(angles), np.sin(angles)), axis=-1).astype(np.float32)
