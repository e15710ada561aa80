"""What a model brings along to be recorded with: numbers that have their place in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from runtime.kernels.cpu.structs import KvType


@dataclass(frozen=True, eq=False, slots=True)
class Constant:
    """Float32 numbers that belong to the model: norm weights, biases, rotary tables."""

    values: npt.NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def address(self) -> int:
        return self.values.ctypes.data


@dataclass(eq=False, slots=True)
class PackedPart:
    """Rows of a matrix in one packed format.

    Attributes:
        names: tensors of the checkpoint, one below the other.
        packed_format: number of the format (`packing`).
        is_quantized: whether it is multiplied by quantised rows.
        shape: rows and columns in all.
        num_bytes: packed size.
        address: where it lies, once it was packed or mapped.
    """

    names: tuple[str, ...]
    packed_format: int
    is_quantized: bool
    shape: tuple[int, int]
    num_bytes: int
    address: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class PackedWeight:
    """A matrix `[out, in]`: parts below each other, each in its own format."""

    parts: Sequence[PackedPart]

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]


@dataclass(frozen=True, eq=False, slots=True)
class KvPages:
    """One layer's pages `[2, num_pages, page_size, G, D]`, in the layout of `kv_pages.h`."""

    shape: tuple[int, int, int, int, int]
    kv_type: KvType
    memory: npt.NDArray[np.uint8] = field(repr=False)

    @property
    def address(self) -> int:
        return self.memory.ctypes.data
