"""Packed tensors: bytes, their format and a shape. Knows no file and no names."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.quant.formats import QuantFormat

# Elements decoded at a time: what is written last is still in the L2 cache when it is scaled.
_CHUNK_ELEMENTS = 1 << 17


@dataclass(frozen=True, slots=True, eq=False)
class QuantTensor:
    """Numbers as a file packs them.

    Attributes:
        data: the packed bytes, flat; may be a read-only view of a mapped file.
        format: how they are packed.
        shape: outermost first, e.g. `[out_features, in_features]`; blocks lie along the
            last axis, which is a multiple of `format.block_size`.
    """

    data: npt.NDArray[np.uint8]
    format: QuantFormat
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.data.shape == (self.format.num_bytes(self.num_elements),)
        assert self.shape[-1] % self.format.block_size == 0

    @property
    def num_elements(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)

    def dequantize(self, out: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
        """Decode every number.

        Args:
            out: filled and returned when given: `shape` float32, C-contiguous.
        """
        if out is None:
            out = np.empty(self.shape, np.float32)
        assert out.shape == self.shape
        assert out.dtype == np.float32
        assert out.flags.c_contiguous
        packed = self.data.reshape(-1, self.format.block_bytes)
        numbers = out.reshape(-1, self.format.block_size)
        step = _CHUNK_ELEMENTS // self.format.block_size
        # Damaged scales may be infinite: their products are NaN, which is not ours to report.
        with np.errstate(all="ignore"):
            for start in range(0, len(packed), step):
                self.format.decode(packed[start : start + step], numbers[start : start + step])
        return out
