"""Tests of the format table and the decoders, against the `gguf` package."""

import subprocess
import sys

import gguf
import numpy as np
import pytest

from runtime.quant.formats import GGML_FORMATS, GGML_TYPE_NAMES, QuantFormat
from runtime.quant.tensor import QuantTensor

# What the `gguf` package sizes but does not decode: their definitions stand below.
WITHOUT_ORACLE = {"Q8_1", "Q8_K"}
ROWS = tuple(GGML_FORMATS.values())
CHECKED = tuple(row for row in ROWS if row.name not in WITHOUT_ORACLE)
# The package packs no K, IQ or NVFP4 blocks, it only decodes them.
PACKED = tuple(row for row in CHECKED if "_K" not in row.name and row.name[:2] not in {"IQ", "NV"})

every = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
every_checked = pytest.mark.parametrize("row", CHECKED, ids=lambda row: row.name)
every_packed = pytest.mark.parametrize("row", PACKED, ids=lambda row: row.name)
every_small = pytest.mark.parametrize(
    "row", [row for row in CHECKED if row.block_size < 256], ids=lambda row: row.name
)


def _oracle(data: np.ndarray, row: QuantFormat, shape: tuple[int, ...]) -> np.ndarray:
    kind = gguf.GGMLQuantizationType(row.ggml_type)
    with np.errstate(all="ignore"):
        decoded = gguf.quants.dequantize(data.reshape(shape[0], -1), kind)
    return decoded.reshape(shape)


def _bits(values: np.ndarray) -> np.ndarray:
    return values.view(np.uint32)


@every
def test_table_agrees_with_ggml(row: QuantFormat) -> None:
    kind = gguf.GGMLQuantizationType[row.name]
    # ggml's Q8_1 has two float16 before its 32 bytes; the package still counts two float32.
    sizes = (32, 36) if row.name == "Q8_1" else gguf.GGML_QUANT_SIZES[kind]
    assert (row.ggml_type, (row.block_size, row.block_bytes)) == (kind.value, sizes)


def test_type_names_are_those_of_the_gguf_package() -> None:
    assert dict(GGML_TYPE_NAMES) == {kind.value: kind.name for kind in gguf.GGMLQuantizationType}


def test_every_format_is_read_except_integers_doubles_and_one_bit() -> None:
    unread = set(GGML_TYPE_NAMES.values()) - {row.name for row in GGML_FORMATS.values()}
    assert unread == {"I8", "I16", "I32", "I64", "F64", "Q1_0"}


@every_checked
@pytest.mark.parametrize("num_rows", [1, 63, 1025])
def test_any_bytes_decode_to_the_same_bits_as_the_gguf_package(
    row: QuantFormat, num_rows: int
) -> None:
    shape = (num_rows, 3 * max(row.block_size, 32))
    num_bytes = row.num_bytes(num_rows * shape[1])
    data = np.random.default_rng(num_rows).integers(0, 256, num_bytes, dtype=np.uint8)
    decoded = QuantTensor(data, row, shape).dequantize()
    # NaN payloads of random scales included: bits, not values, are compared.
    np.testing.assert_array_equal(_bits(decoded), _bits(_oracle(data, row, shape)))


@every_small
def test_every_two_byte_scale_decodes_to_the_same_bits(row: QuantFormat) -> None:
    num_blocks = 1 << 16
    blocks = np.random.default_rng(0).integers(
        0, 256, (num_blocks, row.block_bytes), dtype=np.uint8
    )
    blocks[:, :2] = np.arange(num_blocks, dtype="<u2").view(np.uint8).reshape(-1, 2)
    shape = (num_blocks, row.block_size)
    decoded = QuantTensor(blocks.reshape(-1), row, shape).dequantize()
    np.testing.assert_array_equal(_bits(decoded), _bits(_oracle(blocks, row, shape)))


@pytest.mark.parametrize(
    ("name", "head", "sums"),
    [("Q8_1", np.array([0.5, 7.0], "<f2"), 0), ("Q8_K", np.array([0.5], "<f4"), 32)],
)
def test_format_of_products_decodes_as_scale_times_byte(
    name: str, head: np.ndarray, sums: int
) -> None:
    row = next(row for row in GGML_FORMATS.values() if row.name == name)
    signed = np.random.default_rng(2).integers(-128, 128, row.block_size, dtype=np.int8)
    data = np.concatenate([head.view(np.uint8), signed.view(np.uint8), np.full(sums, 255, "u1")])
    decoded = QuantTensor(data, row, (1, row.block_size)).dequantize()
    np.testing.assert_array_equal(decoded, [signed * np.float32(0.5)])


@every_packed
def test_packed_values_come_back_within_a_step(row: QuantFormat) -> None:
    values = np.random.default_rng(1).standard_normal((7, 256)).astype(np.float32)
    packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType(row.ggml_type))
    decoded = QuantTensor(packed.reshape(-1).view(np.uint8), row, (7, 256)).dequantize()
    step = np.abs(values).max() / (2 if row.name.startswith("TQ") else 4)
    assert np.abs(decoded - values).max() <= step < np.abs(decoded - np.roll(values, 1, 0)).max()


def test_the_gguf_package_is_imported_for_formats_with_grids_only() -> None:
    script = (
        "import sys, numpy as np\n"
        "from runtime.quant.formats import GGML_FORMATS as formats\n"
        "def grids(row):\n"
        "    out = np.empty((1, row.block_size), np.float32)\n"
        "    row.decode(np.zeros((1, row.block_bytes), np.uint8), out)\n"
        "    return 'gguf' in sys.modules\n"
        "order = sorted(formats.values(), key=lambda row: row.name[:3] in {'IQ1', 'IQ2', 'IQ3'})\n"
        "print(*(row.name for row in order if grids(row)))\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ3_S IQ2_S IQ1_M\n"
