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
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.kernels.cpu.build import FOLDER, LIBRARY_NAME
from runtime.kernels.cpu.lazy_memory import reserve_memory
from runtime.kernels.cpu.native import load_library
from runtime.kernels.cpu.values import PackedPart
from runtime.quant.tensor import QuantTensor

logger = logging.getLogger(__name__)

Pack = Callable[[PackedPart, Sequence[QuantTensor], npt.NDArray[np.uint8]], None]
"""Packs the tensors of a part, one below the other, into `num_bytes` of memory."""

_MAGIC = b"ZONDAPK1"
_HEADER = struct.Struct("<8s32sQQ")  # magic, key, bytes of data, their checksum
_DATA_START = mmap.PAGESIZE
_ALIGNMENT = 64
_SAMPLE_BYTES = 64
_SUFFIX = ".packed"


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
        pack: packs a part.
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

    def fill(memory: npt.NDArray[np.uint8], forget: Callable[[int, int], None]) -> None:
        for part, start in zip(parts, starts, strict=True):
            tensors = [read(name) for name in part.names]
            pack(part, tensors, memory[start : start + part.num_bytes])
            forget(start, part.num_bytes)

    data = None
    if folder is not None:
        key = _key(parts, read, stamp)
        path = folder / f"{key.hex()[:32]}{_SUFFIX}"
        data = _map(path, key, size)
        if data is None and _write(path, key, size, fill):
            data = _map(path, key, size)
    if data is None:
        data = reserve_memory(size)
        fill(data, lambda start, num_bytes: None)
    for part, start in zip(parts, starts, strict=True):
        part.address = data.ctypes.data + start
    return data


def _key(parts: Sequence[PackedPart], read: Callable[[str], QuantTensor], stamp: str) -> bytes:
    digest = hashlib.blake2b(stamp.encode(), digest_size=32)
    digest.update(_library_digest())
    for part in parts:
        digest.update(f"{part.names} {part.packed_format} {part.shape}".encode())
        for name in part.names:
            data = read(name).data
            for start in (0, len(data) // 2, max(0, len(data) - _SAMPLE_BYTES)):
                digest.update(data[start : start + _SAMPLE_BYTES].tobytes())
    return digest.digest()


@functools.cache
def _library_digest() -> bytes:
    """Another library may lay weights out in another way."""
    return hashlib.blake2b((FOLDER / LIBRARY_NAME).read_bytes()).digest()


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
    fill: Callable[[npt.NDArray[np.uint8], Callable[[int, int], None]], None],
) -> bool:
    """Pack into a new file under a name of its own, then give it its name; False if disk fails."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("w+b") as file:
            _reserve(file.fileno(), _DATA_START + size)
            mapping = mmap.mmap(file.fileno(), 0)
            data = np.frombuffer(mapping, np.uint8, size, _DATA_START)

            def forget(start: int, num_bytes: int) -> None:
                """Leave pages to the disk's cache, so that they don't count as this process's."""
                first = -(-(_DATA_START + start) // mmap.PAGESIZE) * mmap.PAGESIZE
                last = (_DATA_START + start + num_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
                if first < last and hasattr(mmap, "MADV_DONTNEED"):
                    mapping.madvise(mmap.MADV_DONTNEED, first, last - first)

            fill(data, forget)
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


def _reserve(file: int, num_bytes: int) -> None:
    """Make a file that long, where the system can with all its space: none may be left later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, num_bytes)
    else:
        os.ftruncate(file, num_bytes)
