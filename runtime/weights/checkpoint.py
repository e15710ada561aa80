"""What models know of a file of weights: metadata and named, packed tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from runtime.quant.tensor import QuantTensor


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a checkpoint.

    Attributes:
        shape: outermost first, e.g. `[out_features, in_features]`.
        format_name: how its numbers are packed, e.g. "Q4_1".
        num_bytes: size in the file.
    """

    shape: tuple[int, ...]
    format_name: str
    num_bytes: int


class Checkpoint(Protocol):
    """A file or folder of weights, open as long as it or a tensor read from it is alive."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """GGUF's keys, or what the container says put so; arrays are lists or numpy arrays."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Canonical tensor names (see `runtime.weights.names`), in file order."""
        ...

    def info(self, name: str) -> TensorInfo:
        """Describe a tensor.

        Raises:
            ModelFileError: the file has no tensor of that name.
        """
        ...

    def read(self, name: str) -> QuantTensor:
        """Map a tensor; its bytes come from disk when they are touched.

        Raises:
            ModelFileError: the file has no tensor of that name.
        """
        ...
