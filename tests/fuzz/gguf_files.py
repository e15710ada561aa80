"""GGUF target: small whole files, and what reading one may do."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import gguf.quants  # noqa: F401  # what decoding imports late is not the time of a file

from runtime.errors import ModelFileError
from runtime.quant.formats import GGML_FORMATS
from runtime.weights.gguf import GgufFile
from tests.fuzz.mutations import Fields

# Python's objects take 8 times the bytes of the shortest texts and 12 times those of the
# shortest descriptions of tensors; the slack is what a file of any size takes.
MAX_MEMORY_FACTOR = 12
MEMORY_SLACK_BYTES = 64 << 10


def _u32(value: int) -> bytes:
    return struct.pack("<I", value)


def _u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def _text(content: bytes) -> Fields:
    return [_u64(len(content)), content]


def _file(keys: list[Fields], types: list[int], alignment: int = 32) -> Fields:
    """A whole file with a tensor of two rows for each of `types`."""
    fields = [b"GGUF", _u32(3), _u64(len(types)), _u64(len(keys))]
    for key in keys:
        fields += key
    offset = 0
    for index, ggml_type in enumerate(types):
        row = GGML_FORMATS[ggml_type]
        fields += [*_text(b"blk.%d.attn_q.weight" % index), _u32(2)]
        fields += [_u64(row.block_size), _u64(2), _u32(ggml_type), _u64(offset)]
        offset += -(-2 * row.block_bytes // alignment) * alignment
    padding = bytes(-len(b"".join(fields)) % alignment)
    return [*fields, padding, bytes(range(256)) * (offset // 256), bytes(offset % 256)]


def _key(name: bytes, value_type: int, *value: bytes) -> Fields:
    return [*_text(name), _u32(value_type), *value]


_NUMBERS = [
    (0, 1),
    (1, 1),
    (2, 2),
    (3, 2),
    (4, 4),
    (5, 4),
    (6, 4),
    (7, 1),
    (10, 8),
    (11, 8),
    (12, 8),
]
_KEYS = [
    *(_key(b"number.%d" % value_type, value_type, bytes(size)) for value_type, size in _NUMBERS),
    *(
        _key(b"numbers.%d" % value_type, 9, _u32(value_type), _u64(2), bytes(2 * size))
        for value_type, size in _NUMBERS
    ),
    _key(b"general.architecture", 8, *_text(b"llama")),
    _key(b"texts", 9, _u32(8), _u64(3), *_text(b""), *_text("▁x".encode()), *_text(b"<s>")),
    _key(b"split.count", 2, b"\1\0"),
]
_ALIGNMENT = _key(b"general.alignment", 4, _u32(1))
SEEDS: tuple[Fields, ...] = (
    _file([], []),
    _file(_KEYS, []),
    _file(_KEYS[-3:], [0, 8, 12, 14, 19]),
    _file([_ALIGNMENT], list(GGML_FORMATS), alignment=1),
)


def execute(path: Path) -> bool:
    """Open the file and decode its tensors; whether it was accepted.

    Anything but success or a `ModelFileError` is a finding. Memory is that of opening: what
    decoded tensors take follows from their shapes, which the file's size bounds.
    """
    size = path.stat().st_size
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    try:
        file = GgufFile(path)
    except ModelFileError:
        _check_memory(size, before)
        return False
    _check_memory(size, before)
    for name in file.names:
        tensor = file.read(name)
        assert tensor.dequantize().size == tensor.num_elements
        assert tensor.data.nbytes <= size
    return True


def _check_memory(size: int, before: int) -> None:
    taken = tracemalloc.get_traced_memory()[1] - before
    limit = MAX_MEMORY_FACTOR * size + MEMORY_SLACK_BYTES
    if taken > limit:
        raise MemoryError(f"opening {size} bytes took {taken}, more than {limit}")
