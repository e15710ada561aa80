"""Decoders of GGML's IQ formats: numbers from tables, 32 or 256 a block; numpy only.

IQ1, IQ2 and IQ3 index grids of 4 or 8 numbers; IQ4 a curve of 16. The grids are those of the
`gguf` package, which is imported when the first of such blocks is decoded.

Source: ggml, `ggml-common.h` (block layouts) and `ggml-quants.c`; `gguf.quants` 0.19.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from runtime.quant.unpack import (
    Blocks,
    Floats,
    halves,
    look_up_nibbles,
    nibble_pairs,
    scale_groups,
)

_Indices = npt.NDArray[np.integer]

_CURVE = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
# [256, 8]: -1 where a byte has a bit set. With 7 bits stored the eighth makes their number even.
_SIGNS = 1 - 2 * _BITS.astype(np.float32)
_EVEN_SIGNS = _SIGNS[:128] * np.prod(_SIGNS[:128], axis=1, keepdims=True) ** ([0] * 7 + [1])
_EVEN_SIGNS = _EVEN_SIGNS.astype(np.float32)
# Where the four 7-bit sign fields stand in the word below a 4-bit scale.
_SIGN_SHIFTS = np.arange(0, 28, 7, dtype=np.uint32)
_THREES = np.arange(0, 12, 3, dtype=np.uint16)


@cache
def _grid(name: str) -> Floats:
    """The numbers that an index of the format `name` stands for: [num_indices, 4 or 8]."""
    import gguf.quants  # noqa: PLC0415  # 0.13 s that only these formats' files pay

    quant = getattr(gguf.quants, name)
    quant.init_grid()
    grid: Floats = quant.grid[0, 0]
    return grid


def decode_iq1_s(blocks: Blocks, out: Floats) -> None:
    """`d * (2 * scale + 1) * (grid ± 1/8)` in 8 groups.

    float16 d, 32 bytes of indices, 8 words: 4 times 3 upper bits of an index, 3 bits of scale,
    1 bit that chooses minus.
    """
    words = blocks[:, 34:].view("<u2")
    upper = words[..., None] >> _THREES & 7
    _take(_grid("IQ1_S"), blocks[:, 2:34] | upper.reshape(-1, 32) << 8, out)
    groups = out.reshape(-1, 8, 32)
    groups += np.where(words >> 15, np.float32(-0.125), np.float32(0.125))[..., None]
    scale_groups(out, halves(blocks, 0) * (2 * (words >> 12 & 7) + 1))


def decode_iq1_m(blocks: Blocks, out: Floats) -> None:
    """As IQ1_S, with a scale for every 16 numbers and a sign of 1/8 for every 8.

    32 bytes of indices, 16 bytes with a nibble for each index (3 upper bits, 1 bit that chooses
    minus), 4 words of four 3-bit scales with a quarter of the float16 d on top of each.
    """
    fields = nibble_pairs(blocks[:, 32:48])
    words = blocks[:, 48:].view("<u2")
    _take(_grid("IQ1_S"), blocks[:, :32] | (fields & 7).astype(np.uint16) << 8, out)
    eights = out.reshape(-1, 32, 8)
    eights += np.where(fields & 8, np.float32(-0.125), np.float32(0.125))[..., None]
    quarters = (words & 0xF000) >> np.array([12, 8, 4, 0], np.uint16)
    d = np.bitwise_or.reduce(quarters, axis=1, keepdims=True).view("<f2").astype(np.float32)
    scales = (words[..., None] >> _THREES & 7).reshape(-1, 16)
    scale_groups(out, d * (2 * scales + 1))


def decode_iq2_xxs(blocks: Blocks, out: Floats) -> None:
    """`d * (scale + 1/2) / 4 * ±grid` in 8 groups.

    float16 d, then 8 times 4 bytes of indices and a word: 4 times 7 signs and 4 bits of scale.
    """
    groups = blocks[:, 2:].reshape(-1, 8, 8)
    words = np.ascontiguousarray(groups[..., 4:]).view("<u4")
    _take(_grid("IQ2_XXS"), groups[..., :4], out)
    _apply_even_signs(words, out)
    scales = (words[..., 0] >> 28).astype(np.float32)
    scale_groups(out, halves(blocks, 0) * (np.float32(0.5) + scales) * np.float32(0.25))


def decode_iq2_xs(blocks: Blocks, out: Floats) -> None:
    """`d * (scale + 1/2) / 4 * ±grid` in 16 groups.

    float16 d, 32 words of a 9-bit index and 7 signs, 16 nibbles of scales.
    """
    words = blocks[:, 2:66].view("<u2")
    _take(_grid("IQ2_XS"), words & 511, out)
    out *= _EVEN_SIGNS[words >> 9].reshape(-1, 256)
    _scale_by_half_steps(blocks, 66, out)


def decode_iq2_s(blocks: Blocks, out: Floats) -> None:
    """`d * (scale + 1/2) / 4 * ±grid` in 16 groups.

    float16 d, 32 bytes of indices, 32 bytes of signs, 8 bytes with 2 upper bits of 4 indices,
    16 nibbles of scales.
    """
    upper = blocks[:, 66:74, None] >> np.arange(0, 8, 2, dtype=np.uint8) & 3
    indices = blocks[:, 2:34] | upper.reshape(-1, 32).astype(np.uint16) << 8
    _take(_grid("IQ2_S"), indices, out)
    out *= _SIGNS[blocks[:, 34:66]].reshape(-1, 256)
    _scale_by_half_steps(blocks, 74, out)


def decode_iq3_xxs(blocks: Blocks, out: Floats) -> None:
    """`d * (scale + 1/2) / 2 * ±grid` in 8 groups.

    float16 d, 64 bytes of indices, 8 words: 4 times 7 signs and 4 bits of scale.
    """
    words = blocks[:, 66:].view("<u4")
    _take(_grid("IQ3_XXS"), blocks[:, 2:66], out)
    _apply_even_signs(words[..., None], out)
    scales = (words >> 28).astype(np.float32)
    scale_groups(out, halves(blocks, 0) * (np.float32(0.5) + scales) * np.float32(0.5))


def decode_iq3_s(blocks: Blocks, out: Floats) -> None:
    """`d * (2 * scale + 1) * ±grid` in 8 groups.

    float16 d, 64 bytes of indices, 64 ninth bits of them, 32 bytes of signs, 8 nibbles of scales.
    """
    ninth = np.unpackbits(blocks[:, 66:74], axis=1, bitorder="little").astype(np.uint16)
    _take(_grid("IQ3_S"), blocks[:, 2:66] | ninth << 8, out)
    out *= _SIGNS[blocks[:, 74:106]].reshape(-1, 256)
    scale_groups(out, halves(blocks, 0) * (2 * nibble_pairs(blocks[:, 106:]) + 1))


def decode_iq4_nl(blocks: Blocks, out: Floats) -> None:
    """`d * curve[q]`: float16 d, then 16 bytes with elements 0-15 in the low nibbles."""
    look_up_nibbles(_CURVE, blocks[:, 2:], out)
    out *= halves(blocks, 0)


def decode_iq4_xs(blocks: Blocks, out: Floats) -> None:
    """`d * (scale - 32) * curve[q]` in 8 groups.

    float16 d, a word with the upper 2 bits of each scale, 4 bytes with their nibbles, then
    8 times 16 bytes of nibbles.
    """
    look_up_nibbles(_CURVE, blocks[:, 8:].reshape(-1, 8, 16), out.reshape(-1, 8, 32))
    upper = blocks[:, 2:4].view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    scales = (nibble_pairs(blocks[:, 4:8]) | upper << 4).astype(np.float32) - 32
    scale_groups(out, halves(blocks, 0) * scales)


def _take(grid: Floats, indices: _Indices, out: Floats) -> None:
    """Fill `out` with the grid's rows; no index is beyond its end."""
    rows = out.reshape(*indices.shape, grid.shape[1])
    # "clip" writes straight into `out`; the default buffers it.
    np.take(grid, indices, axis=0, out=rows, mode="clip")


def _apply_even_signs(words: _Indices, out: Floats) -> None:
    """Four fields of 7 signs in each of `words: [num_blocks, num_words, 1]`."""
    out *= _EVEN_SIGNS[words >> _SIGN_SHIFTS & 127].reshape(-1, 256)


def _scale_by_half_steps(blocks: Blocks, start: int, out: Floats) -> None:
    scales = nibble_pairs(blocks[:, start:]).astype(np.float32)
    scale_groups(out, halves(blocks, 0) * (np.float32(0.5) + scales) * np.float32(0.25))
