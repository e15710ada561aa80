"""Memory that is taken from the system page by page, when it is first touched."""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt


def reserve_memory(num_bytes: int) -> npt.NDArray[np.uint8]:
    """Return zeros that start at a page boundary and cost nothing until they are written.

    numpy asks for huge pages, of which a single byte takes 2 MiB: KV pages of many layers would
    take all they might ever need with the first token. Small pages are also no slower here.
    """
    if not hasattr(mmap, "MAP_PRIVATE"):
        return np.zeros(num_bytes, np.uint8)
    mapping = mmap.mmap(-1, max(1, num_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        mapping.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(mapping, np.uint8, num_bytes)
