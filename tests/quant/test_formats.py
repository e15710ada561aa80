"""Tests of the format table and the decoders, against the `gguf` package."""

import gguf
import numpy as np
import pytest

from runtime.quant.formats import GGML_FORMATS, GGML_TYPE_NAMES, QuantFormat
from runtime.quant.tensor import QuantTensor

ROWS = [pytest.param(row, id=row.name) for row in GGML_FORMATS.values()]


def _oracle(data: np.ndarray, row: QuantFormat, shape: tuple[int, ...]) -> np.ndarray:
    kind = gguf.GGMLQuantizationType(row.ggml_type)
    with np.errstate(all="ignore"):
        decoded = gguf.quants.dequantize(data.reshape(shape[0], -1), kind)
    return decoded.reshape(shape)


def _bits(values: np.ndarray) -> np.ndarray:
    return values.view(np.uint32)


@pytest.mark.parametrize("row", ROWS)
def test_table_agrees_with_ggml(row: QuantFormat) -> None:
    kind = gguf.GGMLQuantizationType[row.name]
    assert (row.ggml_type, (row.block_size, row.block_bytes)) == (
        kind.value,
        gguf.GGML_QUANT_SIZES[kind],
    )


def test_type_names_are_those_of_the_gguf_package() -> None:
    assert dict(GGML_TYPE_NAMES) == {kind.value: kind.name for kind in gguf.GGMLQuantizationType}


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("num_rows", [1, 63, 65])
def test_any_bytes_decode_to_the_same_bits_as_the_gguf_package(
    row: QuantFormat, num_rows: int
) -> None:
    shape = (num_rows, 96)
    num_bytes = row.num_bytes(num_rows * 96)
    data = np.random.default_rng(num_rows).integers(0, 256, num_bytes, dtype=np.uint8)
    decoded = QuantTensor(data, row, shape).dequantize()
    # NaN payloads of random scales included: bits, not values, are compared.
    np.testing.assert_array_equal(_bits(decoded), _bits(_oracle(data, row, shape)))


@pytest.mark.parametrize("row", ROWS)
def test_every_two_byte_scale_decodes_to_the_same_bits(row: QuantFormat) -> None:
    num_blocks = 1 << 16
    blocks = np.random.default_rng(0).integers(
        0, 256, (num_blocks, row.block_bytes), dtype=np.uint8
    )
    blocks[:, :2] = np.arange(num_blocks, dtype="<u2").view(np.uint8).reshape(-1, 2)
    shape = (num_blocks, row.block_size)
    decoded = QuantTensor(blocks.reshape(-1), row, shape).dequantize()
    np.testing.assert_array_equal(_bits(decoded), _bits(_oracle(blocks, row, shape)))


@pytest.mark.parametrize("row", ROWS)
def test_packed_values_come_back_within_a_step(row: QuantFormat) -> None:
    values = np.random.default_rng(1).standard_normal((7, 64)).astype(np.float32)
    packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType(row.ggml_type))
    decoded = QuantTensor(packed.reshape(-1).view(np.uint8), row, (7, 64)).dequantize()
    step = np.abs(values).max() / 7
    assert np.abs(decoded - values).max() <= step < np.abs(decoded - np.roll(values, 1, 0)).max()
