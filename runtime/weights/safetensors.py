"""Safetensors folders: `config.json` and memory-mapped `*.safetensors`; nothing is trusted.

Source: huggingface/safetensors, README, "Format" (0.8).
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import ModelFileError
from runtime.quant.formats import GGML_FORMATS, QuantFormat
from runtime.quant.tensor import QuantTensor
from runtime.weights.checkpoint import TensorInfo
from runtime.weights.hf_config import HfConfig
from tools.errors import suggest

_FORMATS = {GGML_FORMATS[0].name: GGML_FORMATS[0]} | {
    GGML_FORMATS[ggml_type].name: GGML_FORMATS[ggml_type] for ggml_type in (1, 30)
}
"""Number types by safetensors' names, which are ggml's."""

_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True, eq=False)
class _Tensor:
    data: npt.NDArray[np.uint8]
    dtype: str
    shape: tuple[int, ...]


class SafetensorsFolder:
    """A model as transformers saves it; a `Checkpoint`.

    Tensors are as in a GGUF file of the model: norms are the factors that are multiplied with,
    and what `config.json` says of rotary frequencies is a tensor.
    """

    def __init__(self, path: Path) -> None:
        """Read `config.json` and the headers of the weights, and map the rest.

        Raises:
            ModelFileError: not such a folder, damaged, or a model we don't run.
            OSError: a file cannot be opened.
        """
        self._path = path
        if not (path / "config.json").is_file():
            raise ModelFileError(
                f"{path}: wanted a model folder, found no config.json; name the GGUF file itself "
                "where it has one"
            )
        try:
            self._config = HfConfig(_read_json(path / "config.json"))
        except ModelFileError as exc:
            raise ModelFileError(f"{path}: {exc}") from exc
        self._tensors: dict[str, _Tensor] = {}
        for file in _weight_files(path):
            for name, tensor in _read_tensors(file).items():
                self._tensors[self._config.canonical_name(name)] = tensor
        for name, values in self._config.factors.items():
            self._tensors[name] = _Tensor(values.view(np.uint8), "F32", values.shape)

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self._config.metadata

    @property
    def names(self) -> Sequence[str]:
        return tuple(self._tensors)

    def info(self, name: str) -> TensorInfo:
        tensor, format_ = self._find(name)
        return TensorInfo(tensor.shape, format_.name, len(tensor.data))

    def read(self, name: str) -> QuantTensor:
        tensor, format_ = self._find(name)
        packed = QuantTensor(tensor.data, format_, tensor.shape)
        if self._config.adds_one_to_norms and name.endswith("norm.weight"):
            values = packed.dequantize() + 1
            return QuantTensor(values.view(np.uint8), _FORMATS["F32"], tensor.shape)
        return packed

    def _find(self, name: str) -> tuple[_Tensor, QuantFormat]:
        try:
            tensor = self._tensors[name]
        except KeyError:
            problem = f"{self._path}: no tensor is named {name!r}{suggest(name, self._tensors)}"
            raise ModelFileError(problem) from None
        if tensor.dtype not in _FORMATS:
            raise ModelFileError(
                f"{self._path}: the tensor {name!r} is of type {tensor.dtype}, we read "
                f"{', '.join(_FORMATS)}; take the model's GGUF file"
            )
        return tensor, _FORMATS[tensor.dtype]


def _weight_files(path: Path) -> list[Path]:
    """The files that the index lists, or the only one there is."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelFileError(f"{index}: wanted a weight_map of tensors to files")
        names = sorted({str(name) for name in weight_map.values()})
    else:
        names = sorted(file.name for file in path.glob("*.safetensors"))
        if "model.safetensors" in names:
            names = ["model.safetensors"]
        if len(names) != 1:
            raise ModelFileError(
                f"{path}: wanted model.safetensors or an index of several, found {names}"
            )
    for name in names:
        if Path(name).name != name or not (path / name).is_file():
            raise ModelFileError(f"{path}: the weights' file {name!r} is not in the folder")
    return [path / name for name in names]


def _read_tensors(path: Path) -> dict[str, _Tensor]:
    """Map one file; every number of its header is checked against the file's size."""
    size = path.stat().st_size
    if size < 8:
        raise ModelFileError(f"{path}: wanted a safetensors file, found one of {size} bytes")
    with path.open("rb") as file:
        mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    header_bytes = int(mapped[:8].view("<u8")[0])
    if header_bytes > min(size - 8, _MAX_HEADER_BYTES):
        raise ModelFileError(
            f"{path}: damaged safetensors file: a header of {header_bytes} bytes in one of {size}"
        )
    header = _parse_json(mapped[8 : 8 + header_bytes].tobytes(), path)
    header.pop("__metadata__", None)
    data = mapped[8 + header_bytes :]
    return {name: _tensor(data, entry, f"{path}: {name!r}") for name, entry in header.items()}


def _tensor(data: npt.NDArray[np.uint8], entry: object, what: str) -> _Tensor:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]}:
            is_shape = all(isinstance(size, int) and size >= 0 for size in shape)
        case _:
            raise ModelFileError(f"{what}: damaged safetensors file: described by {entry!r:.200}")
    if not is_shape or not 0 <= start <= end <= len(data):
        raise ModelFileError(
            f"{what}: damaged safetensors file: shape {shape}, bytes {start} to {end} of "
            f"{len(data)}"
        )
    shape = shape or [1]
    if dtype in _FORMATS and _FORMATS[dtype].num_bytes(math.prod(shape)) != end - start:
        raise ModelFileError(
            f"{what}: damaged safetensors file: {end - start} bytes for {shape} of {dtype}"
        )
    return _Tensor(data[start:end], dtype, tuple(shape))


def _read_json(path: Path) -> dict[str, Any]:
    return _parse_json(path.read_bytes(), path)


def _parse_json(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise ModelFileError(f"{path}: not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: wanted a JSON object, found {value!r:.80}")
    return value
