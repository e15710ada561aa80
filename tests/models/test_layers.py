"""Tests of what models compute while they are built."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from runtime.engine.torch_runner import TorchWeights
from runtime.errors import ModelFileError
from runtime.models.config import RotaryConfig
from runtime.models.layers import rotary_table
from tests.helpers.memory_checkpoint import MemoryCheckpoint


def loader(**tensors: list[float]) -> TorchWeights:
    arrays = {f"{name}.weight": np.array(values) for name, values in tensors.items()}
    return TorchWeights(MemoryCheckpoint({}, arrays), torch.device("cpu"), torch.float32)


def wanted_table(num_positions: int, frequencies: list[float], magnitude: float) -> np.ndarray:
    return np.array(
        [
            [
                (magnitude * math.cos(place * turn), magnitude * math.sin(place * turn))
                for turn in frequencies
            ]
            for place in range(num_positions)
        ]
    )


def test_rotary_table_divides_frequencies_by_scale_and_factors() -> None:
    weights = loader(rope_freqs=[1.0, 4.0])
    rotary = RotaryConfig(base=100.0, dim=4, position_scale=2.0, magnitude=1.5)
    np.testing.assert_allclose(
        rotary_table(weights, rotary, 3), wanted_table(3, [0.5, 0.0125], 1.5), atol=1e-6
    )
    without = RotaryConfig(base=100.0, dim=4, has_factors=False)
    np.testing.assert_allclose(
        rotary_table(weights, without, 3), wanted_table(3, [1.0, 0.1], 1.0), atol=1e-6
    )


def test_rotary_table_takes_long_factors_beyond_the_original_context_only() -> None:
    weights = loader(rope_factors_short=[1.0, 2.0], rope_factors_long=[4.0, 8.0])
    rotary = RotaryConfig(base=100.0, dim=4, original_context_length=5)
    for num_positions, frequencies in ((5, [1.0, 0.05]), (6, [0.25, 0.0125])):
        np.testing.assert_allclose(
            rotary_table(weights, rotary, num_positions),
            wanted_table(num_positions, frequencies, 1.0),
            atol=1e-6,
        )


def test_rotary_table_of_no_dimensions_is_empty() -> None:
    rotary = RotaryConfig(base=100.0, dim=0, has_factors=False)
    assert rotary_table(loader(), rotary, 3).shape == (3, 0, 2)


def test_factors_of_another_shape_are_refused() -> None:
    with pytest.raises(ModelFileError, match=r"wanted the shape \(2,\) in all, found \[\(3,\)\]"):
        rotary_table(loader(rope_freqs=[1.0, 1.0, 1.0]), RotaryConfig(base=100.0, dim=4), 3)
