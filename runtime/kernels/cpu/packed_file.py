"""Packed weights on disk: written once, mapped read-only by every process after that.

A file is named by what it was made of and how: the tensors, samples of their bytes, what the
caller knows of their file, and the library that packed them. It is whole when its checksum says
so; anything else is written anew.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from runtime.kernels.cpu import native
from runtime.kernels.cpu.lazy_memory import reserve_memory
from runtime.kernels.cpu.native import load_library
from runtime.kernels.cpu.values import PackedPart
from runtime.quant.tensor import QuantTensor

logger = logging.getLogger(__name__)

Pack = Callable[[int, QuantTensor, npt.NDArray[np.uint8]], None]
"""Packs a tensor in the given format into memory of its packed size."""


class _Fill(Protocol):
    """Packs all parts into memory, which may be that of a mapped file."""

    def __call__(self, memory: npt.NDArray[np.uint8], *, is_file: bool) -> None: ...


_MAGIC = b"ZONDAPK1"
_HEADER = struct.Struct("<8s32sQQ")  # magic, key, bytes of data, their checksum
_DATA_START = mmap.PAGESIZE
_ALIGNMENT = 64
_SAMPLE_BYTES = 64
_TILE_ROWS = 16
_PIECE_BYTES = 16 << 20
_SUFFIX = ".packed"
_KEPT_S = 30 * 24 * 3600
"""What nobody used for so long is deleted when something new is written."""


def load_packed(
    parts: Sequence[PackedPart],
    read: Callable[[str], QuantTensor],
    pack: Pack,
    *,
    folder: Path | None,
    stamp: str,
) -> npt.NDArray[np.uint8]:
    """Give every part its address, from the file of a run before or by packing now.

    Args:
        parts: of one model, in order.
        read: returns a tensor by its name.
        pack: packs some rows of a tensor.
        folder: where packed files are kept; None keeps them in memory alone.
        stamp: whatever changes when the model's file does.

    Returns:
        the memory behind the addresses, which lives as long as this array.

    Raises:
        ModelFileError: `read` does not find a tensor.
    """
    ends = np.cumsum([-(-part.num_bytes // _ALIGNMENT) * _ALIGNMENT for part in parts]).tolist()
    starts = [0, *ends[:-1]]
    size = ends[-1]

    def fill(memory: npt.NDArray[np.uint8], *, is_file: bool) -> None:
        for part, start in zip(parts, starts, strict=True):
            for piece in _pieces(part, read):
                target = memory[start : start + piece.num_bytes]
                pack(part.packed_format, piece.tensor, target)
                _forget(piece.tensor.data)
                if is_file:
                    _forget(target)
                start += piece.num_bytes

    data = None
    if folder is not None:
        source = _source_digest(parts, read, stamp)
        key = _key(source, parts)
        path = folder / f"{source.hex()}-{key.hex()[:16]}{_SUFFIX}"
        data = _map(path, key, size)
        if data is None and _write(path, key, size, fill):
            _remove_stale(path)
            data = _map(path, key, size)
    if data is None:
        data = reserve_memory(size)
        fill(data, is_file=False)
    for part, start in zip(parts, starts, strict=True):
        part.address = data.ctypes.data + start
    return data


class _Piece(NamedTuple):
    """Some rows of a part, and their packed size."""

    tensor: QuantTensor
    num_bytes: int


def _pieces(part: PackedPart, read: Callable[[str], QuantTensor]) -> Iterator[_Piece]:
    """A part's tensors in pieces of whole tiles, so that little is in memory twice."""
    tile_bytes = part.num_bytes // -(-part.shape[0] // _TILE_ROWS)
    for name in part.names:
        tensor = read(name)
        rows, columns = tensor.shape
        row_bytes = len(tensor.data) // rows
        step = max(1, _PIECE_BYTES // row_bytes // _TILE_ROWS) * _TILE_ROWS
        for first in range(0, rows, step):
            last = min(rows, first + step)
            data = tensor.data[first * row_bytes : last * row_bytes]
            num_tiles = -(-(last - first) // _TILE_ROWS)
            piece = QuantTensor(data, tensor.format, (last - first, columns))
            yield _Piece(piece, num_tiles * tile_bytes)


def _source_digest(
    parts: Sequence[PackedPart], read: Callable[[str], QuantTensor], stamp: str
) -> bytes:
    """What was packed."""
    digest = hashlib.blake2b(stamp.encode(), digest_size=8)
    for name in (name for part in parts for name in part.names):
        data = read(name).data
        digest.update(f"{name} {len(data)}".encode())
        for start in (0, len(data) // 2, max(0, len(data) - _SAMPLE_BYTES)):
            digest.update(data[start : start + _SAMPLE_BYTES].tobytes())
    return digest.digest()


def _key(source: bytes, parts: Sequence[PackedPart]) -> bytes:
    """What was packed, and how."""
    layout = [(part.names, part.packed_format, part.shape) for part in parts]
    return hashlib.blake2b(source + digest_of_kernels() + repr(layout).encode()).digest()[:32]


def _remove_stale(path: Path) -> None:
    """Delete what other versions packed of the same model, and what was long not used."""
    source = path.name.partition("-")[0]
    for other in path.parent.glob(f"*{_SUFFIX}"):
        with suppress(OSError):  # others may be at it too
            is_unused = time.time() - other.stat().st_mtime > _KEPT_S
            if other != path and (is_unused or other.name.startswith(f"{source}-")):
                other.unlink()


@functools.cache
def digest_of_kernels() -> bytes:
    """Another library may lay weights and pages out in another way, or compute other bits."""
    return hashlib.blake2b(native.SHARED_OBJECT.read_bytes()).digest()


def _map(path: Path, key: bytes, size: int) -> npt.NDArray[np.uint8] | None:
    """Map a packed file; None where there is none that is whole and of this key."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size or os.fstat(file.fileno()).st_size != _DATA_START + size:
                return None
            magic, found_key, num_bytes, checksum = _HEADER.unpack(header)
            if (magic, found_key, num_bytes) != (_MAGIC, key, size):
                return None
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError:
        return None
    data = np.frombuffer(mapping, np.uint8, size, _DATA_START)
    if load_library().zonda_checksum(data.ctypes.data, size) != checksum:
        logger.warning("%s is damaged; the weights are packed again", path)
        return None
    os.utime(path)  # what is used lately is kept
    return data


def _write(
    path: Path,
    key: bytes,
    size: int,
    fill: _Fill,
) -> bool:
    """Pack into a new file under a name of its own, then give it its name; False if disk fails."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("w+b") as file:
            _reserve(file.fileno(), _DATA_START + size)
            mapping = mmap.mmap(file.fileno(), 0)
            data = np.frombuffer(mapping, np.uint8, size, _DATA_START)
            fill(data, is_file=True)
            checksum = load_library().zonda_checksum(data.ctypes.data, size)
            mapping[: _HEADER.size] = _HEADER.pack(_MAGIC, key, size, checksum)
            del data
            mapping.close()
        fresh.replace(path)
    except OSError as exc:
        logger.warning("packed weights cannot be kept in %s (%s)", path.parent, exc)
        return False
    finally:
        with suppress(OSError):  # it has its name by now, or is of no use
            fresh.unlink()
    return True


def _forget(data: npt.NDArray[np.uint8]) -> None:
    """Leave a mapped file's pages to the disk's cache, so that they don't count as ours."""
    owner: object = data
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        first = data.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data
        last = (first + len(data)) // mmap.PAGESIZE * mmap.PAGESIZE
        first = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
        if first < last:
            owner.madvise(mmap.MADV_DONTNEED, first, last - first)


def _reserve(file: int, num_bytes: int) -> None:
    """Make a file that long, where the system can with all its space: none may be left later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, num_bytes)
    else:
        os.ftruncate(file, num_bytes)
