"""The bytes of the CPU's KV pages, and what they depend on."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from runtime.engine.prefix_pages import PageBytes
from runtime.kernels.cpu.native import load_library
from runtime.kernels.cpu.packed_file import digest_of_kernels
from runtime.kernels.cpu.values import KvPages


class CpuPages:
    """Copies pages of all layers; `runtime.engine.prefix_pages.PageMemory`."""

    def __init__(
        self, layers: Sequence[KvPages], weights: npt.NDArray[np.uint8], model: str
    ) -> None:
        """`weights` are all packed weights, `model` names the model, its file and the KV type."""
        # [P, page bytes of a layer] each
        self._layers = [layer.memory.reshape(layer.shape[1], -1) for layer in layers]
        self._weights = weights
        self._model = model
        self.page_bytes = sum(layer.shape[1] for layer in self._layers)

    @functools.cached_property
    def identity(self) -> str:
        """Names model, file, weights, KV type and kernels; reads all weights once."""
        checksum = load_library().zonda_checksum(self._weights.ctypes.data, len(self._weights))
        facts = f"{self._model} {checksum:016x} {digest_of_kernels().hex()}"
        return hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()

    def read(self, page_ids: Sequence[int], out: PageBytes) -> None:
        """Copy pages to `out`, `[len(page_ids), page_bytes]`, one layer after the other."""
        for layer, part in zip(self._layers, self._parts(out), strict=True):
            part[:] = layer[page_ids]

    def write(self, page_ids: Sequence[int], data: PageBytes) -> None:
        """Copy `data` to pages."""
        for layer, part in zip(self._layers, self._parts(data), strict=True):
            layer[page_ids] = part

    def _parts(self, data: PageBytes) -> list[PageBytes]:
        """Each layer's columns of `[num_pages, page_bytes]`."""
        ends = np.cumsum([layer.shape[1] for layer in self._layers])
        return np.split(data, ends[:-1], axis=1)
