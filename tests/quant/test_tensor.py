"""Tests of packed tensors."""

import numpy as np

from runtime.quant import tensor
from runtime.quant.formats import GGML_FORMATS
from runtime.quant.tensor import QuantTensor

Q8_0 = GGML_FORMATS[8]


def _random(shape: tuple[int, ...]) -> QuantTensor:
    size = Q8_0.num_bytes(int(np.prod(shape)))
    data = np.random.default_rng(0).integers(0, 120, size, dtype=np.uint8)
    data.flags.writeable = False
    return QuantTensor(data, Q8_0, shape)


def test_given_output_is_filled_and_returned() -> None:
    packed = _random((2, 3, 64))
    out = np.full((2, 3, 64), np.nan, np.float32)
    assert packed.dequantize(out) is out
    np.testing.assert_array_equal(out, packed.dequantize())
    assert np.isfinite(out).all()


def test_rows_decode_alike_alone_and_across_chunks() -> None:
    num_rows = tensor._CHUNK_ELEMENTS // 64 + 3
    packed = _random((num_rows, 64))
    whole = packed.dequantize()
    row_bytes = Q8_0.num_bytes(64)
    for row in (0, num_rows - 4, num_rows - 3, num_rows - 1):
        data = packed.data[row * row_bytes : (row + 1) * row_bytes]
        np.testing.assert_array_equal(QuantTensor(data, Q8_0, (64,)).dequantize(), whole[row])


def test_tensor_without_rows_decodes_to_nothing() -> None:
    packed = QuantTensor(np.empty(0, np.uint8), Q8_0, (0, 32))
    assert packed.dequantize().shape == (0, 32)
