"""Blocks of rare number formats as blocks that `pack.cpp` reads; exact, numpy only.

Formats of grids (IQ1, IQ2, IQ3) become 4-bit codes of their few values: that is fast to multiply,
but takes 1.3 to 2.9 times the bits of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.quant.formats import GGML_FORMATS, QuantFormat

Blocks = npt.NDArray[np.uint8]

_FORMATS: Mapping[str, QuantFormat] = {row.name: row for row in GGML_FORMATS.values()}

# Values of codes, in the order of TABLES in `formats.h`.
_IQ1 = (-9, -1, 7, -7, 1, 9)
_IQ2 = (8, 25, 43, 0, 0, 0, 0, 0, -8, -25, -43)
_IQ3_XXS = (4, 12, 20, 28, 36, 44, 52, 62, -4, -12, -20, -28, -36, -44, -52, -62)
_IQ3_S = (1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15)


@dataclass(frozen=True, slots=True)
class _Grid:
    """How a format of grids is taken apart: a number is d * scale * unit * value.

    Attributes:
        values: of codes.
        first: the value of index 0 with no sign or shift bit set.
        unit: a power of two.
        num_scales: groups of the packed block that have a scale each.
        scale_bits: bytes with bits of scales, and which bits these are.
    """

    values: tuple[int, ...]
    first: int
    unit: float
    num_scales: int
    scale_bits: tuple[tuple[slice, int], ...]


_GRIDS: Mapping[str, _Grid] = {
    "IQ1_S": _Grid(_IQ1, -7, 1 / 8, 16, ((slice(35, 50, 2), 0x70),)),
    "IQ1_M": _Grid(_IQ1, -7, 1 / 8, 16, ((slice(48, 56, 2), 0xFF), (slice(49, 56, 2), 0x0F))),
    "IQ2_XXS": _Grid(_IQ2, 8, 1 / 8, 16, ((slice(9, 66, 8), 0xF0),)),
    "IQ2_XS": _Grid(_IQ2, 8, 1 / 8, 16, ((slice(66, 74), 0xFF),)),
    "IQ2_S": _Grid(_IQ2, 8, 1 / 8, 16, ((slice(74, 82), 0xFF),)),
    "IQ3_XXS": _Grid(_IQ3_XXS, 4, 1 / 4, 8, ((slice(69, 98, 4), 0xF0),)),
    "IQ3_S": _Grid(_IQ3_S, 1, 1.0, 8, ((slice(106, 110), 0xFF),)),
}


def transcoder(name: str) -> Callable[[Blocks], Blocks] | None:
    """What turns blocks `[num_blocks, block_bytes]` of a file's format into those that are packed.

    None where they are packed as they are.
    """
    if name in _GRIDS:
        return lambda blocks: _from_grid(name, blocks)
    return {"Q8_1": _from_q8_1, "TQ1_0": _from_tq1_0, "NVFP4": _from_nvfp4}.get(name)


def _decode(name: str, blocks: Blocks) -> npt.NDArray[np.float32]:
    row = _FORMATS[name]
    out = np.empty((len(blocks), row.block_size), np.float32)
    row.decode(blocks, out)
    return out


def _from_q8_1(blocks: Blocks) -> Blocks:
    """To Q8_0: without the sum."""
    return np.concatenate([blocks[:, :2], blocks[:, 4:]], axis=1)


def _from_tq1_0(blocks: Blocks) -> Blocks:
    """To TQ2_0: 64 bytes of 2-bit numbers, float16 d."""
    unscaled = blocks.copy()
    unscaled[:, 52:] = (0x00, 0x3C)
    codes = (_decode("TQ1_0", unscaled) + 1).astype(np.uint8).reshape(-1, 2, 4, 32)
    fields = codes << np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    packed = np.bitwise_or.reduce(fields, axis=2).reshape(-1, 64)
    return np.concatenate([packed, blocks[:, 52:]], axis=1)


def _from_nvfp4(blocks: Blocks) -> Blocks:
    """To 32 numbers a block: two float16 scales, 16 bytes of nibbles."""
    ones = blocks.copy()
    ones[:, 4:] = 0x11
    scales = np.ascontiguousarray(_decode("NVFP4", ones)[:, ::16]).astype("<f2")
    parts = [scales.view(np.uint8).reshape(-1, 4), blocks[:, 4:].reshape(-1, 16)]
    return np.concatenate(parts, axis=1)


def _from_grid(name: str, blocks: Blocks) -> Blocks:
    """To float16 d, bytes of scales, 128 bytes of nibbles.

    Nothing here knows where the indices stand: with d = 1 and all bits 0 but those of scales, the
    decoder gives the scales, and with these and d = 1 the values.
    """
    grid = _GRIDS[name]
    d, unscaled = _take_d(name, blocks)
    kept = np.zeros_like(unscaled)
    for columns, bits in grid.scale_bits:
        kept[:, columns] = unscaled[:, columns] & bits
    _, kept = _take_d(name, kept)
    scales = _decode(name, kept)[:, :: 256 // grid.num_scales] / (grid.unit * grid.first)
    groups = _decode(name, unscaled).reshape(*scales.shape, -1)
    values = np.rint(groups / (scales[..., None] * grid.unit)).astype(np.int8)
    code_of = np.zeros(256, np.uint8)
    for code, value in enumerate(grid.values):
        if value:
            code_of[value] = code
    halves = code_of[values].reshape(-1, 2, 128)
    return np.concatenate([d, scales.astype(np.uint8), halves[:, 0] | halves[:, 1] << 4], axis=1)


def _take_d(name: str, blocks: Blocks) -> tuple[Blocks, Blocks]:
    """The bytes of d, and a copy of the blocks with 1.0 in its place."""
    rest = blocks.copy()
    if name != "IQ1_M":
        rest[:, :2] = (0x00, 0x3C)
        return blocks[:, :2], rest
    # A nibble on top of each of four words, the lowest first.
    nibbles: Blocks = blocks[:, 49:56:2] >> np.uint8(4)
    rest[:, 49:56:2] = rest[:, 49:56:2] & 0x0F | np.array([0x00, 0x00, 0xC0, 0x30], np.uint8)
    d: Blocks = nibbles[:, 0::2] | nibbles[:, 1::2] << np.uint8(4)
    return d, rest
