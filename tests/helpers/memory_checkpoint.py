"""A checkpoint in memory: metadata and float32 arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runtime.errors import ModelFileError
from runtime.quant.formats import GGML_FORMATS
from runtime.quant.tensor import QuantTensor
from runtime.weights import TensorInfo


class MemoryCheckpoint:
    """A `Checkpoint` of what it is given."""

    def __init__(self, metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
        self.metadata = metadata
        self._tensors = tensors

    @property
    def names(self) -> Sequence[str]:
        return tuple(self._tensors)

    def info(self, name: str) -> TensorInfo:
        packed = self.read(name)
        return TensorInfo(packed.shape, packed.format.name, packed.data.size)

    def read(self, name: str) -> QuantTensor:
        if name not in self._tensors:
            raise ModelFileError(f"no tensor is named {name!r}")
        values = self._tensors[name].astype(np.float32)
        return QuantTensor(values.reshape(-1).view(np.uint8), GGML_FORMATS[0], values.shape)
