"""Several tensors of a checkpoint as one, the first rows first: what fused projections load."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from runtime.errors import ModelFileError
from runtime.weights.checkpoint import Checkpoint, TensorInfo


def find_tensors(
    checkpoint: Checkpoint, names: Sequence[str], shape: tuple[int, ...]
) -> list[TensorInfo]:
    """Describe the named tensors, which have the given shape when one is put below the other.

    Raises:
        ModelFileError: a tensor is missing or has a shape that does not fit.
    """
    for name in names:
        if name not in checkpoint.names:
            raise ModelFileError(f"the model file has no tensor {name!r}")
    infos = [checkpoint.info(name) for name in names]
    found = [info.shape for info in infos]
    num_rows = sum(part[0] for part in found)
    if any((num_rows, *part[1:]) != shape for part in found):
        raise ModelFileError(
            f"tensors {', '.join(names)}: wanted the shape {shape} in all, found {found}"
        )
    return infos


def read_tensors(
    checkpoint: Checkpoint, names: Sequence[str], shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """Dequantise the named tensors into one array.

    Raises:
        ModelFileError: a tensor is missing or has a shape that does not fit.
    """
    infos = find_tensors(checkpoint, names, shape)
    fused = np.empty(shape, np.float32)
    row = 0
    for name, info in zip(names, infos, strict=True):
        checkpoint.read(name).dequantize(out=fused[row : row + info.shape[0]])
        row += info.shape[0]
    return fused
