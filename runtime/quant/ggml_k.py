"""Decoders of GGML's K formats and its ternary ones: 256 numbers a block; numpy only.

A K block has groups of 16 or 32 with scales of 4, 6 or 8 bits under one float16.

Source: ggml, `ggml-common.h` (block layouts) and `ggml-quants.c`; `gguf.quants` 0.19.
"""

from __future__ import annotations

import numpy as np

from runtime.quant.unpack import Blocks, Floats, halves, nibbles, scale_groups, two_bits

_BYTES = np.arange(256, dtype=np.uint8)
# [5, 256]: the base-3 digits of a TQ1_0 byte, which is 256/243 of five digits, less 1.
_TRITS = np.stack([(_BYTES * np.uint8(3**place)).astype(np.uint16) * 3 >> 8 for place in range(5)])
_TRITS = _TRITS.astype(np.float32) - 1


def decode_q2_k(blocks: Blocks, out: Floats) -> None:
    """`d * scale * q - dmin * min` in 16 groups.

    16 bytes with a scale in the low and a min in the high nibble, 64 bytes of 2-bit numbers,
    float16 d and dmin.
    """
    two_bits(blocks[:, 16:80], out)
    groups = scale_groups(out, halves(blocks, 80) * (blocks[:, :16] & 0x0F))
    groups -= (halves(blocks, 82) * (blocks[:, :16] >> 4))[..., None]


def decode_q3_k(blocks: Blocks, out: Floats) -> None:
    """`d * (scale - 32) * (q - 4)` in 16 groups.

    32 bytes of third bits, of which bit i belongs to the i-th 32 numbers, 64 bytes of 2-bit
    numbers, 12 bytes of 6-bit scales, float16 d.
    """
    two_bits(blocks[:, 32:96], out)
    third = blocks[:, None, :32] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    third <<= 2
    numbers = out.reshape(-1, 8, 32)
    numbers += third
    numbers -= 4
    # Low nibbles of 8 bytes, their high nibbles; above them 2 bits of each of 4 bytes.
    scales = np.empty((len(blocks), 16), np.float32)
    nibbles(blocks[:, 96:104], scales)
    upper = blocks[:, None, 104:108] >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    scales += (upper << 4).reshape(-1, 16)
    scales -= 32
    scale_groups(out, halves(blocks, 108) * scales)


def decode_q4_k(blocks: Blocks, out: Floats) -> None:
    """`d * scale * q - dmin * min` in 8 groups.

    float16 d and dmin, 12 bytes of 6-bit scales and mins, then 4 times 32 bytes of nibbles.
    """
    nibbles(blocks[:, 16:].reshape(-1, 4, 32), out.reshape(-1, 4, 64))
    _scale_and_shift(blocks, out)


def decode_q5_k(blocks: Blocks, out: Floats) -> None:
    """As Q4_K with 32 bytes of fifth bits before the nibbles: bit i is of group i."""
    packed = blocks[:, 48:].reshape(-1, 4, 32)
    numbers = blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    numbers <<= 4
    numbers[:, 0::2] |= packed & 0x0F
    numbers[:, 1::2] |= packed >> 4
    out.reshape(-1, 8, 32)[...] = numbers
    _scale_and_shift(blocks, out)


def decode_q6_k(blocks: Blocks, out: Floats) -> None:
    """`d * scale * (q - 32)` in 16 groups.

    2 times 64 bytes of low nibbles, 2 times 32 bytes with the upper 2 bits, 16 signed bytes
    of scales, float16 d.
    """
    lower = blocks[:, :128].reshape(-1, 2, 64)
    upper = blocks[:, 128:192].reshape(-1, 2, 1, 32)
    numbers = upper >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    numbers <<= 4
    fields = numbers.reshape(-1, 2, 128)
    fields[..., :64] |= lower & 0x0F
    fields[..., 64:] |= lower >> 4
    out[...] = fields.reshape(-1, 256)
    out -= 32
    scale_groups(out, halves(blocks, 208) * blocks[:, 192:208].view(np.int8))


def decode_q8_k(blocks: Blocks, out: Floats) -> None:
    """`d * q`: float32 d, 256 signed bytes, then sums that only products need."""
    out[...] = blocks[:, 4:260].view(np.int8)
    out *= blocks[:, :4].view("<f4")


def decode_tq1_0(blocks: Blocks, out: Floats) -> None:
    """`d * trit`: 32 and 16 bytes of five base-3 digits, 4 bytes of four, float16 d."""
    for first, width, start, end in ((0, 32, 0, 160), (32, 16, 160, 240), (48, 4, 240, 256)):
        packed = blocks[:, first : first + width]
        for place in range((end - start) // width):
            column = start + place * width
            out[:, column : column + width] = _TRITS[place][packed]
    out *= halves(blocks, 52)


def decode_tq2_0(blocks: Blocks, out: Floats) -> None:
    """`d * (q - 1)`: 64 bytes of 2-bit numbers, float16 d."""
    two_bits(blocks[:, :64], out)
    out -= 1
    out *= halves(blocks, 64)


def _scale_and_shift(blocks: Blocks, out: Floats) -> None:
    """Apply the head that Q4_K and Q5_K share to 8 groups."""
    low, high, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([low & 0x3F, rest & 0x0F | low >> 2 & 0x30], axis=1)
    mins = np.concatenate([high & 0x3F, rest >> 4 | high >> 2 & 0x30], axis=1)
    groups = scale_groups(out, halves(blocks, 0) * scales)
    groups -= (halves(blocks, 2) * mins)[..., None]
