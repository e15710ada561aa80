"""Number formats of files to packed formats, and packing with several threads.

The formats themselves are `formats.h`'s, whose numbers are mirrored here.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from runtime.errors import ModelFileError
from runtime.kernels.cpu.native import load_library
from runtime.kernels.cpu.transcode import transcoder
from runtime.quant.tensor import QuantTensor

_TILE_ROWS = 16
# Numbers that are transcoded at a time: what that takes in memory stays small.
_TRANSCODED_NUMBERS = 1 << 20

# fmt: off
_NUMBERS: Mapping[str, int] = {
    "F32": 0, "F16": 1, "BF16": 2,
    "Q4_0": 3, "Q4_1": 4, "Q5_0": 5, "Q5_1": 6, "Q8_0": 7, "Q8_1": 7,
    "Q2_K": 8, "Q3_K": 9, "Q4_K": 10, "Q5_K": 11, "Q6_K": 12,
    "IQ4_NL": 13, "IQ4_XS": 14, "MXFP4": 15, "NVFP4": 16, "TQ1_0": 17, "TQ2_0": 17,
    "IQ1_S": 18, "IQ1_M": 18, "IQ2_XXS": 19, "IQ2_XS": 19, "IQ2_S": 19, "IQ3_XXS": 20, "IQ3_S": 21,
}
# fmt: on
_NUM_DENSE = 3


def find_format(name: str) -> int:
    """The packed format of a file's number format.

    Raises:
        ModelFileError: there is none.
    """
    if name not in _NUMBERS:
        known = ", ".join(_NUMBERS)
        raise ModelFileError(f"matrices in {name} cannot be multiplied here, only in {known}")
    return _NUMBERS[name]


def is_quantized(packed_format: int) -> bool:
    """Whether matrices of the format are multiplied by quantised rows."""
    return packed_format >= _NUM_DENSE


def packed_bytes(packed_format: int, rows: int, columns: int) -> int:
    """Size of a packed matrix."""
    num_bytes: int = load_library().zonda_packed_bytes(packed_format, rows, columns)
    return num_bytes


def pack_tensor(
    packed_format: int, tensor: QuantTensor, out: npt.NDArray[np.uint8], num_threads: int
) -> None:
    """Pack a matrix into `out`, which has its packed size and is 64-byte aligned."""
    rows, columns = tensor.shape
    assert len(out) == packed_bytes(packed_format, rows, columns)
    transcode = transcoder(tensor.format.name)
    row_bytes = tensor.format.num_bytes(columns)
    tile_bytes = packed_bytes(packed_format, _TILE_ROWS, columns)
    pack = load_library().zonda_pack

    def pack_range(first: int, last: int) -> None:
        """Pack tiles, each of 16 rows."""
        first_row, last_row = first * _TILE_ROWS, min(last * _TILE_ROWS, rows)
        source = tensor.data[first_row * row_bytes : last_row * row_bytes]
        if transcode is not None:
            source = transcode(source.reshape(-1, tensor.format.block_bytes)).reshape(-1)
        target = out[first * tile_bytes : last * tile_bytes]
        num_rows = last_row - first_row
        source_at, target_at = source.ctypes.data, target.ctypes.data
        pack(packed_format, source_at, target_at, num_rows, columns, 0, last - first)

    num_tiles = -(-rows // _TILE_ROWS)
    num_ranges = num_threads
    if transcode is not None:
        num_ranges = max(num_threads, rows * columns // _TRANSCODED_NUMBERS)
    bounds = [num_tiles * index // num_ranges for index in range(num_ranges + 1)]
    with ThreadPoolExecutor(num_threads) as workers:
        list(workers.map(pack_range, bounds[:-1], bounds[1:]))
