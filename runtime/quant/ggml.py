"""Decoders of GGML's plain floats and of its small blocks; numpy only.

Bit-equal to the `gguf` package where that decodes the format. As in all decoders of this
folder, `blocks: [num_blocks, block_bytes] uint8` fill `out: [num_blocks, block_size] float32`,
C-contiguous; they know neither rows, shapes nor files.

Source: ggml, `ggml-common.h` (block layouts) and `ggml-quants.c`; `gguf.quants` 0.19.
"""

from __future__ import annotations

import numpy as np

from runtime.quant.unpack import Blocks, Floats, halves, look_up_nibbles, nibbles, scale_groups

# Twice what the 4 bits of an E2M1 number stand for; the scales below are halved in return.
_E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
_CODES = np.arange(256, dtype=np.uint32)
# Half of 2 ** (code - 127), subnormal for the first two.
_HALF_E8M0 = np.where(_CODES < 2, 0x200000 << (_CODES & 1), (_CODES - 1) << 23)
_HALF_E8M0 = _HALF_E8M0.astype(np.uint32).view(np.float32)
# Half of an E4M3 number without its sign; its NaN counts as 0.
_EXPONENTS = (_CODES >> 3 & 15).astype(np.float32)
_MANTISSAS = (_CODES & 7).astype(np.float32) / 8
_HALF_E4M3 = np.where(
    _EXPONENTS == 0, _MANTISSAS / 128, (1 + _MANTISSAS) * np.exp2(_EXPONENTS - 8)
).astype(np.float32)
_HALF_E4M3[[0, 0x7F]] = 0


def decode_f32(blocks: Blocks, out: Floats) -> None:
    """Copy: one float32 a block."""
    out[...] = blocks.view("<f4")


def decode_f16(blocks: Blocks, out: Floats) -> None:
    """Widen one float16 a block."""
    out[...] = blocks.view("<f2")


def decode_bf16(blocks: Blocks, out: Floats) -> None:
    """Widen one bfloat16 a block: the upper half of a float32's bits."""
    bits = out.view(np.uint32)
    bits[...] = blocks.view("<u2")
    bits <<= 16


def decode_q4_0(blocks: Blocks, out: Floats) -> None:
    """`d * (q - 8)`: float16 d, then 16 bytes with elements 0-15 in the low nibbles."""
    nibbles(blocks[:, 2:], out)
    out -= 8
    out *= halves(blocks, 0)


def decode_q4_1(blocks: Blocks, out: Floats) -> None:
    """`d * q + m`: float16 d and m, then nibbles as in Q4_0."""
    nibbles(blocks[:, 4:], out)
    out *= halves(blocks, 0)
    out += halves(blocks, 2)


def decode_q5_0(blocks: Blocks, out: Floats) -> None:
    """`d * (q - 16)`: float16 d, the fifth bits of 32 elements, then nibbles as in Q4_0."""
    _five_bits(blocks[:, 2:6], blocks[:, 6:], out)
    out -= 16
    out *= halves(blocks, 0)


def decode_q5_1(blocks: Blocks, out: Floats) -> None:
    """`d * q + m`: float16 d and m, the fifth bits of 32 elements, then nibbles as in Q4_0."""
    _five_bits(blocks[:, 4:8], blocks[:, 8:], out)
    out *= halves(blocks, 0)
    out += halves(blocks, 2)


def decode_q8_0(blocks: Blocks, out: Floats) -> None:
    """`d * q`: float16 d, then 32 signed bytes."""
    out[...] = blocks[:, 2:].view(np.int8)
    out *= halves(blocks, 0)


def decode_q8_1(blocks: Blocks, out: Floats) -> None:
    """`d * q`: float16 d, a float16 sum that only products need, then 32 signed bytes."""
    out[...] = blocks[:, 4:].view(np.int8)
    out *= halves(blocks, 0)


def decode_mxfp4(blocks: Blocks, out: Floats) -> None:
    """`2 ** (e - 127) * e2m1`: a byte e, then nibbles as in Q4_0.

    Source: Open Compute Project, Microscaling Formats (MX) 1.0.
    """
    look_up_nibbles(_E2M1, blocks[:, 1:], out)
    out *= _HALF_E8M0[blocks[:, :1]]


def decode_nvfp4(blocks: Blocks, out: Floats) -> None:
    """`e4m3 * e2m1` in 4 groups of 16: 4 bytes of scales, then 4 times 8 bytes of nibbles."""
    look_up_nibbles(_E2M1, blocks[:, 4:].reshape(-1, 4, 8), out.reshape(-1, 4, 16))
    scale_groups(out, _HALF_E4M3[blocks[:, :4]])


def _five_bits(fifth: Blocks, packed: Blocks, out: Floats) -> None:
    numbers = np.unpackbits(fifth, axis=1, bitorder="little")
    numbers <<= 4
    width = packed.shape[1]
    numbers[:, :width] |= packed & 0x0F
    numbers[:, width:] |= packed >> 4
    out[...] = numbers
