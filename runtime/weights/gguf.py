"""GGUF files: a memory-mapped reader that trusts nothing.

Every count, length, offset, size and type is checked against the file before anything is
allocated for it. Knows the container only; what the keys mean is for its callers.

Source: ggml, docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import ModelFileError
from runtime.quant.formats import GGML_FORMATS, GGML_TYPE_NAMES, QuantFormat
from runtime.quant.tensor import QuantTensor
from runtime.weights.checkpoint import TensorInfo
from runtime.weights.names import canonical_name
from tools.errors import suggest

MAGIC = b"GGUF"

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_UINT32, _STRING, _ARRAY = 4, 8, 9
# GGUF value type -> numpy type of one number.
_NUMBERS: Mapping[int, np.dtype[Any]] = {
    value_type: np.dtype(code)
    for value_type, code in {
        0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?",
        10: "<u8", 11: "<i8", 12: "<f8",
    }.items()
}  # fmt: skip
# The least bytes of a key with its value and of a tensor's description.
_MIN_KEY_BYTES = 8 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8
_MAX_DIMENSIONS = 4
# The specification's limit for keys, llama.cpp's for tensors.
_MAX_KEY_BYTES = 65_535
_MAX_NAME_BYTES = 63
_ALIGNMENT_KEY = "general.alignment"
_DEFAULT_ALIGNMENT = 32


class _Cursor:
    """Reads values off mapped bytes, front to back, never past their end.

    Invariant: `0 <= pos <= len(data)`.
    """

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data = data
        self.path = path
        self.size = len(data)
        self.pos = 0

    def damaged(self, problem: str, at: int | None = None) -> ModelFileError:
        """The error to raise; `at` is the byte offset, the current one when not given."""
        at = self.pos if at is None else at
        return ModelFileError(f"{self.path}: damaged GGUF file: {problem} (at byte {at})")

    def take(self, num_bytes: int, what: str) -> bytes:
        if num_bytes > self.size - self.pos:
            raise self.damaged(
                f"{what} needs {num_bytes} bytes, {self.size - self.pos} are left in the file"
            )
        start, self.pos = self.pos, self.pos + num_bytes
        return self._data[start : self.pos]

    def u32(self, what: str) -> int:
        value: int = _U32.unpack(self.take(4, what))[0]
        return value

    def u64(self, what: str) -> int:
        value: int = _U64.unpack(self.take(8, what))[0]
        return value

    def count(self, what: str, min_bytes: int) -> int:
        """A number of things that take at least `min_bytes` each, all still in the file."""
        start = self.pos
        value = self.u64(f"the number of {what}")
        if value * min_bytes > self.size - self.pos:
            raise self.damaged(f"{value} {what} cannot fit in {self.size} bytes", start)
        return value

    def name(self, what: str, max_bytes: int) -> str:
        """A text that identifies something: 1 to `max_bytes` bytes."""
        start = self.pos
        name = self.string(what)
        num_bytes = self.pos - start - 8
        if not 1 <= num_bytes <= max_bytes:
            raise self.damaged(f"{what} has {num_bytes} bytes, not 1 to {max_bytes}", start)
        return name

    def string(self, what: str) -> str:
        start = self.pos
        raw = self.take(self.u64(f"the length of {what}"), what)
        try:
            return raw.decode()
        except UnicodeDecodeError as exc:
            raise self.damaged(f"{what} is not UTF-8: {raw[:40]!r}", start) from exc

    def strings(self, count: int, what: str) -> list[str]:
        # A vocabulary has 100,000s of strings: this loop is the cost of opening a file.
        data, size, pos, length_at = self._data, self.size, self.pos, _U64.unpack_from
        found = []
        try:
            for _ in range(count):
                end = pos + 8 + length_at(data, pos)[0]
                if end > size:
                    raise self.damaged(f"a string of {what} ends at byte {end} of {size}", pos)
                found.append(data[pos + 8 : end].decode())
                pos = end
        except (struct.error, UnicodeDecodeError) as exc:
            raise self.damaged(f"a string of {what} is cut off or not UTF-8", pos) from exc
        self.pos = pos
        return found

    def value(self, value_type: int, what: str) -> Any:
        if value_type == _STRING:
            return self.string(what)
        if value_type == _ARRAY:
            return self._array(what)
        if number := _NUMBERS.get(value_type):
            return np.frombuffer(self.take(number.itemsize, what), number)[0].item()
        raise self.damaged(f"{what} has the unknown value type {value_type}", self.pos - 4)

    def _array(self, what: str) -> list[str] | npt.NDArray[Any]:
        start = self.pos
        item_type = self.u32(f"the item type of {what}")
        if item_type == _STRING:
            return self.strings(self.count(f"strings of {what}", 8), what)
        if number := _NUMBERS.get(item_type):
            count = self.count(f"numbers of {what}", number.itemsize)
            return np.frombuffer(self.take(count * number.itemsize, what), number)
        raise self.damaged(f"{what} is an array of the unknown type {item_type}", start)


class GgufFile:
    """An open GGUF file; a `Checkpoint`."""

    def __init__(self, path: Path) -> None:
        """Map the file and read everything but the tensors' bytes.

        Raises:
            ModelFileError: not a GGUF file, damaged, or of a kind we cannot read.
            OSError: the file cannot be opened.
        """
        self._path = path
        with path.open("rb") as file:
            if not file.seek(0, 2):
                raise ModelFileError(f"{path}: wanted a GGUF file, found an empty one")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        cursor = _Cursor(self._map, path)
        num_tensors, num_keys = _read_counts(cursor)
        self._metadata = _read_metadata(cursor, num_keys)
        self._check_whole()
        self._tensors = _read_tensors(cursor, num_tensors, self._metadata)

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self._metadata

    @property
    def names(self) -> Sequence[str]:
        return tuple(self._tensors)

    def info(self, name: str) -> TensorInfo:
        shape, format_, _ = self._find(name)
        return TensorInfo(shape, format_.name, format_.num_bytes(math.prod(shape)))

    def read(self, name: str) -> QuantTensor:
        shape, format_, offset = self._find(name)
        num_bytes = format_.num_bytes(math.prod(shape))
        # Touching a page that the file no longer has would end the process.
        if self._map.size() < offset + num_bytes:
            raise ModelFileError(
                f"{self._path}: {name!r} ends at byte {offset + num_bytes}, the file was cut to "
                f"{self._map.size()} bytes while in use; restore it and load the model again"
            )
        data = np.frombuffer(self._map, np.uint8, num_bytes, offset)
        return QuantTensor(data, format_, shape)

    def _find(self, name: str) -> _Tensor:
        try:
            return self._tensors[name]
        except KeyError:
            problem = f"{self._path}: no tensor is named {name!r}{suggest(name, self._tensors)}"
            raise ModelFileError(problem) from None

    def _check_whole(self) -> None:
        num_parts = self._metadata.get("split.count", 1)
        if not isinstance(num_parts, int) or num_parts != 1:
            raise ModelFileError(
                f"{self._path}: wanted a whole model, found one of {num_parts!r:.40} parts; "
                "join them first with llama-gguf-split --merge"
            )


_Tensor = tuple[tuple[int, ...], QuantFormat, int]
"""Shape, format and the offset of the first byte from the start of the file."""


def _read_counts(cursor: _Cursor) -> tuple[int, int]:
    """The number of tensors and of metadata keys; the cursor is left at the first key."""
    magic = cursor.take(4, "the magic number")
    if magic != MAGIC:
        raise cursor.damaged(f"wanted {MAGIC!r}, found {magic!r}", 0)
    version = cursor.u32("the version")
    if version not in {2, 3}:
        hint = ", it is big-endian" if version and version & 0xFFFF == 0 else ""
        raise cursor.damaged(f"wanted version 2 or 3, found {version}{hint}", 4)
    return cursor.count("tensors", _MIN_TENSOR_BYTES), cursor.count("keys", _MIN_KEY_BYTES)


def _read_metadata(cursor: _Cursor, num_keys: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        start = cursor.pos
        key = cursor.name("a key", _MAX_KEY_BYTES)
        what = repr(key[:80])
        if key in metadata:
            raise cursor.damaged(f"the key {what} appears twice", start)
        value_type = cursor.u32(f"the type of {what}")
        value_at = cursor.pos
        metadata[key] = value = cursor.value(value_type, what)
        if key == _ALIGNMENT_KEY and (value_type != _UINT32 or value.bit_count() != 1):
            problem = f"{key} must be a power of two of type 4 (uint32), not {value!r:.40} of type"
            raise cursor.damaged(f"{problem} {value_type}", value_at)
    return metadata


def _read_tensors(
    cursor: _Cursor, num_tensors: int, metadata: Mapping[str, Any]
) -> dict[str, _Tensor]:
    alignment = metadata.get(_ALIGNMENT_KEY, _DEFAULT_ALIGNMENT)
    found: dict[str, tuple[int, _Tensor]] = {}
    next_offset = 0
    for _ in range(num_tensors):
        start = cursor.pos
        gguf_name = cursor.name("a tensor's name", _MAX_NAME_BYTES)
        name = canonical_name(gguf_name)
        if name in found:
            raise cursor.damaged(f"the tensor {gguf_name!r} appears twice", start)
        shape, format_, offset = _read_tensor(cursor, gguf_name)
        if offset != next_offset:
            problem = f"{gguf_name!r} starts at {offset} of the data, not at {next_offset}"
            raise cursor.damaged(f"{problem} after the tensor before it", cursor.pos - 8)
        next_offset += _align(format_.num_bytes(math.prod(shape)), alignment)
        found[name] = start, (shape, format_, offset)
    data_start = _align(cursor.pos, alignment)
    tensors = {}
    for name, (start, (shape, format_, offset)) in found.items():
        end = data_start + offset + format_.num_bytes(math.prod(shape))
        if end > cursor.size:
            problem = f"the tensor {name!r} ends at byte {end}, the file at byte {cursor.size}"
            raise cursor.damaged(problem, start)
        tensors[name] = shape, format_, data_start + offset
    return tensors


def _align(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _read_tensor(cursor: _Cursor, name: str) -> _Tensor:
    """A tensor's description after its name; the offset counts from the data's start."""
    start = cursor.pos
    num_dims = cursor.u32(f"the rank of {name!r}")
    if not 1 <= num_dims <= _MAX_DIMENSIONS:
        raise cursor.damaged(f"{name!r} has {num_dims} dimensions, not 1 to 4", start)
    # The file lists the innermost dimension first.
    shape = tuple(cursor.u64(f"a dimension of {name!r}") for _ in range(num_dims))[::-1]
    ggml_type = cursor.u32(f"the type of {name!r}")
    format_ = GGML_FORMATS.get(ggml_type)
    if format_ is None:
        raise _unsupported(cursor, name, ggml_type)
    offset = cursor.u64(f"the offset of {name!r}")
    if math.prod(shape) == 0 or shape[-1] % format_.block_size:
        problem = f"{name!r} has the shape {list(shape)}, {format_.name} packs {format_.block_size}"
        raise cursor.damaged(problem + " numbers a block", start)
    return shape, format_, offset


def _unsupported(cursor: _Cursor, name: str, ggml_type: int) -> ModelFileError:
    if ggml_type not in GGML_TYPE_NAMES:
        return cursor.damaged(f"{name!r} has the unknown type {ggml_type}", cursor.pos - 4)
    known = ", ".join(format_.name for format_ in GGML_FORMATS.values())
    return ModelFileError(
        f"{cursor.path}: the tensor {name!r} is packed as {GGML_TYPE_NAMES[ggml_type]}, we read "
        f"{known}; take another quantisation of the model"
    )
