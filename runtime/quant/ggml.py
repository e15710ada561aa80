"""Decoders of GGML's packed number formats; numpy only, bit-equal to the `gguf` package.

Every function takes `blocks: [num_blocks, block_bytes] uint8` and fills
`out: [num_blocks, block_size] float32`. Neither knows rows, shapes or files.

Source: ggml, `ggml-common.h` (block layouts) and `ggml-quants.c`; `gguf.quants` 0.19.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Blocks = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


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
    _unpack_nibbles(blocks[:, 2:], out)
    out -= 8
    out *= _halves(blocks, 0)


def decode_q4_1(blocks: Blocks, out: Floats) -> None:
    """`d * q + m`: float16 d and m, then 16 bytes with elements 0-15 in the low nibbles."""
    _unpack_nibbles(blocks[:, 4:], out)
    out *= _halves(blocks, 0)
    out += _halves(blocks, 2)


def decode_q8_0(blocks: Blocks, out: Floats) -> None:
    """`d * q`: float16 d, then 32 signed bytes."""
    out[...] = blocks[:, 2:].view(np.int8)
    out *= _halves(blocks, 0)


def _unpack_nibbles(packed: Blocks, out: Floats) -> None:
    width = packed.shape[1]
    out[:, :width] = packed & 0x0F
    out[:, width:] = packed >> 4


def _halves(blocks: Blocks, start: int) -> Floats:
    """The float16 at byte `start` of every block, widened: [num_blocks, 1]."""
    return blocks[:, start : start + 2].view("<f2").astype(np.float32)
