"""Random matrices in every number format, and their packed memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from runtime.kernels.cpu.packing import find_format, pack_tensor, packed_bytes
from runtime.quant.formats import GGML_FORMATS
from runtime.quant.tensor import QuantTensor

Bytes = npt.NDArray[np.uint8]

FORMATS = {row.name: row for row in GGML_FORMATS.values()}
DENSE = ["F32", "F16", "BF16"]
# Where float16 scales stand in a block.
# fmt: off
_SCALES: Mapping[str, Sequence[int]] = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q8_1": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "IQ4_NL": (0,), "IQ4_XS": (0,), "MXFP4": (), "NVFP4": (), "TQ1_0": (52,), "TQ2_0": (64,),
    "IQ1_S": (0,), "IQ1_M": (), "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ2_S": (0,),
    "IQ3_XXS": (0,), "IQ3_S": (0,),
}
# fmt: on
QUANTIZED = list(_SCALES)


def random_tensor(name: str, rows: int, columns: int, seed: int = 0) -> QuantTensor:
    """Any bytes, but finite numbers of either sign."""
    random, row = np.random.default_rng(seed), FORMATS[name]
    if name in DENSE:
        numbers = random.standard_normal((rows, columns)).astype(np.float32)
        if name == "F16":
            data = numbers.astype(np.float16).view(np.uint8)
        elif name == "BF16":
            data = np.ascontiguousarray(numbers.view(np.uint16)[:, 1::2]).view(np.uint8)
        else:
            data = numbers.view(np.uint8)
        return QuantTensor(data.reshape(-1), row, (rows, columns))
    num_blocks = rows * columns // row.block_size
    blocks = random.integers(0, 256, (num_blocks, row.block_bytes), dtype=np.uint8)
    for start in _SCALES[name]:
        scales = 0.02 * random.standard_normal((num_blocks, 1))
        blocks[:, start : start + 2] = scales.astype("<f2").view(np.uint8)
    if name == "MXFP4":
        blocks[:, 0] = random.integers(118, 124, num_blocks)
    if name == "IQ1_M":
        blocks[:, 55] = blocks[:, 55] & 0x8F | 0x20
    return QuantTensor(blocks.reshape(-1), row, (rows, columns))


def aligned_bytes(size: int) -> Bytes:
    """Memory as packed weights and quantised rows have it: aligned to 64 bytes.

    Ends where its allocation ends, if it can be had like that: a sanitizer sees a byte too many.
    """
    attempts = []
    start = 0
    for room in (0, 16, 32, 48, 64):
        attempts.append(np.zeros(size + room, np.uint8))
        start = -attempts[-1].ctypes.data % 64
        if start == room:
            break
    return attempts[-1][start : start + size]


def pack(tensor: QuantTensor, num_threads: int = 1) -> Bytes:
    """Packed as the engine packs."""
    packed_format = find_format(tensor.format.name)
    out = aligned_bytes(packed_bytes(packed_format, *tensor.shape))
    pack_tensor(packed_format, tensor, out, num_threads)
    return out
