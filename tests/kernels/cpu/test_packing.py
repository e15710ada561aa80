"""Packed weights stand for exactly the numbers of the file."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import ModelFileError
from runtime.kernels.cpu.packing import find_format, is_quantized, packed_bytes
from runtime.kernels.cpu.structs import OpKind
from runtime.quant.tensor import QuantTensor
from tests.helpers.cpu_ops import batch_of_tokens, nans, op, run_ops, supported_variants
from tests.helpers.packed_weights import DENSE, FORMATS, QUANTIZED, pack, random_tensor

EVERY = DENSE + QUANTIZED
COMPACT = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
COMPACT += ["IQ4_NL", "IQ4_XS", "MXFP4", "TQ2_0", *DENSE]


def read_rows(tensor: QuantTensor, variant: str, factor: float = 1.0) -> np.ndarray:
    """All rows of a packed matrix, by the operator for embeddings."""
    rows, columns = tensor.shape
    packed, out = pack(tensor), nans(rows, columns)
    n = (columns, find_format(tensor.format.name))
    run_ops(
        [op(OpKind.EMBED, packed, out, n=n, f=(factor,))], batch_of_tokens(rows), variant=variant
    )
    return out


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.uint32)


@pytest.mark.parametrize("variant", supported_variants())
@pytest.mark.parametrize("name", EVERY)
def test_packed_rows_are_bit_for_bit_those_of_the_file(name: str, variant: str) -> None:
    for rows, columns in ((1, 256), (15, 256), (17, 768)):
        tensor = random_tensor(name, rows, columns, seed=rows)
        assert np.array_equal(bits(read_rows(tensor, variant)), bits(tensor.dequantize()))


@pytest.mark.parametrize("name", EVERY)
def test_rows_are_multiplied_by_the_factor(name: str) -> None:
    tensor = random_tensor(name, 3, 512)
    wanted = tensor.dequantize() * np.float32(22.627417)
    assert np.array_equal(read_rows(tensor, "scalar", 22.627417), wanted)


def test_every_power_of_two_scale_is_exact() -> None:
    tensor = random_tensor("MXFP4", 255, 32)
    tensor.data.reshape(255, 17)[:, 0] = np.arange(255)
    for variant in supported_variants():
        assert np.array_equal(bits(read_rows(tensor, variant)), bits(tensor.dequantize()))


@pytest.mark.parametrize("name", COMPACT)
def test_packed_weights_take_what_the_file_takes(name: str) -> None:
    in_file = FORMATS[name].num_bytes(64 * 1024)
    assert in_file <= packed_bytes(find_format(name), 64, 1024) <= 1.03 * in_file


@pytest.mark.parametrize("name", ["F16", "Q4_1", "Q3_K", "IQ2_XS"])
def test_any_number_of_threads_packs_the_same_bytes(name: str) -> None:
    tensor = random_tensor(name, 90, 512)
    assert np.array_equal(pack(tensor, num_threads=5), pack(tensor))


def test_tensors_of_whole_tiles_pack_alike_alone_and_joined() -> None:
    upper, lower = random_tensor("Q4_K", 32, 512, seed=1), random_tensor("Q4_K", 9, 512, seed=2)
    both = QuantTensor(np.concatenate([upper.data, lower.data]), upper.format, (41, 512))
    assert np.array_equal(pack(both), np.concatenate([pack(upper), pack(lower)]))


def test_formats_that_cannot_be_packed_are_named() -> None:
    with pytest.raises(ModelFileError, match="matrices in Q8_K cannot be multiplied here"):
        find_format("Q8_K")
    assert not any(is_quantized(find_format(name)) for name in DENSE)
    assert all(is_quantized(find_format(name)) for name in QUANTIZED)
