"""A checkpoint's weights as the CPU's operators take them: matrices packed, the rest float32."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.kernels.cpu.packed_file import load_packed
from runtime.kernels.cpu.packing import find_format, is_quantized, pack_tensor, packed_bytes
from runtime.kernels.cpu.values import Constant, PackedPart, PackedWeight
from runtime.quant.tensor import QuantTensor
from runtime.weights.checkpoint import Checkpoint, TensorInfo
from runtime.weights.fused import find_tensors, read_tensors

logger = logging.getLogger(__name__)

_TILE_ROWS = 16


class CpuWeights:
    """Notes which matrices a model asks for while it is built; `pack` then gives them memory."""

    def __init__(self, checkpoint: Checkpoint, num_threads: int) -> None:
        self._checkpoint = checkpoint
        self._names = frozenset(checkpoint.names)
        self._num_threads = num_threads
        self._parts: list[PackedPart] = []

    def has(self, name: str) -> bool:
        return name in self._names

    def load(self, *names: str, shape: tuple[int, ...]) -> PackedWeight | Constant:
        if len(shape) == 1:
            return Constant(read_tensors(self._checkpoint, names, shape))
        infos = find_tensors(self._checkpoint, names, shape)
        parts = [_make_part(group) for group in _group(names, infos)]
        self._parts += parts
        return PackedWeight(parts)

    def read(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        return read_tensors(self._checkpoint, (name,), shape)

    def constant(self, values: npt.NDArray[np.float32]) -> Constant:
        return Constant(np.ascontiguousarray(values))

    def pack(self, folder: Path | None, stamp: str) -> npt.NDArray[np.uint8]:
        """Give all matrices their memory; see `load_packed`."""
        return load_packed(
            self._parts, self._checkpoint.read, self._pack_rows, folder=folder, stamp=stamp
        )

    def _pack_rows(self, packed_format: int, rows: QuantTensor, out: npt.NDArray[np.uint8]) -> None:
        pack_tensor(packed_format, rows, out, self._num_threads)


_Named = tuple[str, TensorInfo]


def _group(names: Sequence[str], infos: Sequence[TensorInfo]) -> list[list[_Named]]:
    """Neighbours of one format, each of whole tiles but the last, become one matrix."""
    groups: list[list[_Named]] = []
    for named in zip(names, infos, strict=True):
        last = groups[-1][-1][1] if groups else None
        joins = (
            last is not None
            and last.shape[0] % _TILE_ROWS == 0
            and find_format(last.format_name) == find_format(named[1].format_name)
        )
        if joins:
            groups[-1].append(named)
        else:
            groups.append([named])
    return groups


def _make_part(group: Sequence[_Named]) -> PackedPart:
    names, infos = zip(*group, strict=True)
    packed_format = find_format(infos[0].format_name)
    rows, columns = sum(info.shape[0] for info in infos), infos[0].shape[1]
    num_bytes = packed_bytes(packed_format, rows, columns)
    return PackedPart(names, packed_format, is_quantized(packed_format), (rows, columns), num_bytes)
