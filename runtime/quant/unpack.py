"""Bit fields of packed blocks to numbers: what the decoders of several families share.

Every function takes columns of `blocks: [num_blocks, block_bytes] uint8`, little-endian.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Blocks = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def halves(blocks: Blocks, start: int) -> Floats:
    """The float16 at byte `start` of every block, widened: [num_blocks, 1]."""
    return blocks[:, start : start + 2].view("<f2").astype(np.float32)


def nibbles(packed: Blocks, out: Floats) -> None:
    """Fill `out: [..., 2 * n]` from `packed: [..., n]`: the low nibbles, then the high ones."""
    width = packed.shape[-1]
    out[..., :width] = packed & 0x0F
    out[..., width:] = packed >> 4


def look_up_nibbles(values: Floats, packed: Blocks, out: Floats) -> None:
    """As `nibbles`, with `values: [16]` in the place of their indices."""
    width = packed.shape[-1]
    out[..., :width] = np.tile(values, 16)[packed]
    out[..., width:] = np.repeat(values, 16)[packed]


def nibble_pairs(packed: Blocks) -> Blocks:
    """Every byte's low and high nibble side by side: [num_blocks, n] to [num_blocks, 2 * n]."""
    pairs = np.empty((*packed.shape, 2), np.uint8)
    pairs[..., 0] = packed & 0x0F
    pairs[..., 1] = packed >> 4
    return pairs.reshape(len(packed), -1)


def two_bits(packed: Blocks, out: Floats) -> None:
    """Every 32 of `packed: [num_blocks, n]` hold 128 numbers: first the lowest bits of all."""
    planes = packed.reshape(len(packed), -1, 32)
    numbers = out.reshape(len(packed), -1, 4, 32)
    for plane in range(4):
        numbers[:, :, plane] = planes >> 2 * plane & 3


def scale_groups(out: Floats, scales: Floats) -> Floats:
    """Multiply a block's equal groups by `scales: [num_blocks, num_groups]`.

    Returns:
        `out` seen as `[num_blocks, num_groups, group_size]`.
    """
    groups = out.reshape(*scales.shape, -1)
    groups *= scales[..., None]
    return groups
