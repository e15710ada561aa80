"""Matrix products: against numpy in float64, over all variants, and bit for bit in any company."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from runtime.kernels import SamplingBatch
from runtime.kernels.cpu.native import load_library
from runtime.kernels.cpu.packing import find_format
from runtime.kernels.cpu.structs import Domain, OpKind
from runtime.quant.tensor import QuantTensor
from tests.helpers.cpu_ops import (
    Floats,
    batch_of_tokens,
    nans,
    op,
    randn,
    run_ops,
    supported_variants,
)
from tests.helpers.packed_weights import DENSE, QUANTIZED, aligned_bytes, pack, random_tensor
from tests.kernels.cpu.test_sampling import mask_of, sampling_of

EVERY = DENSE + QUANTIZED
BEST = supported_variants()[0]
# Odd numbers of rows and outputs, below and above what is held in registers or done at a time.
SHAPES = [(1, 1), (3, 17), (6, 33), (65, 49)]

Bytes = npt.NDArray[np.uint8]


def quantize(x: Floats, variant: str = BEST) -> Bytes:
    """Rows of `x: [T, K]` as products read them: [T, row bytes]."""
    num_rows, K = x.shape
    row_bytes = load_library().zonda_quantized_row_bytes(K)
    rows = aligned_bytes(num_rows * row_bytes)
    run_ops([op(OpKind.QUANTIZE, x, rows, n=(K,))], batch_of_tokens(num_rows), variant=variant)
    return rows.reshape(num_rows, row_bytes)


def sections(rows: Bytes, K: int) -> list[np.ndarray]:
    """Codes, scales, minus sums, sums, and the last two for halves: [T, ...] each."""
    parts, start = [], 0
    for dtype, count in (
        *((np.int8, K), (np.float32, K // 32), (np.int32, K // 32), (np.float32, K // 32)),
        *((np.int32, K // 16), (np.float32, K // 16)),
    ):
        size = count * np.dtype(dtype).itemsize
        parts.append(np.ascontiguousarray(rows[:, start : start + size]).view(dtype))
        start += -(-size // 64) * 64
    return parts


def prepare(x: Floats, name: str) -> np.ndarray:
    """Rows as products of the format take them."""
    return x if name in DENSE else quantize(x)


def multiply(
    x: np.ndarray,
    tensor: QuantTensor,
    bias: Floats | None = None,
    *,
    variant: str = BEST,
    num_threads: int = 1,
    stride: int = 0,
    domain: Domain = Domain.TOKENS,
    looked_at_by: SamplingBatch | None = None,
) -> Floats:
    """The product of prepared rows and a matrix that is packed first."""
    rows, columns = tensor.shape
    stride = stride or rows
    packed, out = pack(tensor), nans(len(x), stride)
    n = (columns, rows, find_format(tensor.format.name), domain, stride)
    kind = OpKind.LINEAR if looked_at_by is None else OpKind.OUTPUT_LOGITS
    linear = op(kind, x, packed, bias, out, domain=Domain.TASKS, n=n)
    num_tokens = len(x) if domain == Domain.TOKENS else 1
    batch = batch_of_tokens(num_tokens, logits_rows=[0] * len(x))
    run_ops([linear], batch, looked_at_by, variant=variant, num_threads=num_threads)
    return out


def assert_sums(actual: Floats, x: np.ndarray, weight: np.ndarray, tolerance: float) -> None:
    """Compare with x @ weight.T; sums may differ by `tolerance` of their terms' magnitudes.

    Proves that zeros and the products of a neighbouring row would have failed.
    """
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    wanted, bound = x @ weight.T, tolerance * (np.abs(x) @ np.abs(weight).T)
    assert np.all(np.abs(actual - wanted) <= bound)
    assert not np.all(np.abs(wanted) <= bound)
    for axis in (0, 1):
        if wanted.shape[axis] > 1:
            assert not np.all(np.abs(np.roll(wanted, 1, axis) - wanted) <= bound)


@pytest.mark.parametrize(("num_rows", "num_outputs"), SHAPES)
@pytest.mark.parametrize("name", EVERY)
def test_products_are_those_of_float64(name: str, num_rows: int, num_outputs: int) -> None:
    x, tensor = randn(num_rows, 768, seed=9), random_tensor(name, num_outputs, 768)
    weight = tensor.dequantize()
    actual = multiply(prepare(x, name), tensor)
    if name in DENSE:
        assert_sums(actual, x, weight, 1e-6)
        return
    codes, scales = sections(quantize(x), 768)[:2]
    assert_sums(actual, codes * np.repeat(scales.astype(np.float64), 32, 1), weight, 1e-6)
    assert_sums(actual, x, weight, 4e-3)


@pytest.mark.parametrize("name", EVERY)
def test_all_variants_give_the_same_bits(name: str) -> None:
    tensor, bias = random_tensor(name, 35, 512), randn(35, seed=1)
    for num_rows in (1, 2, 3, 7):
        x = prepare(randn(num_rows, 512), name)
        wanted = multiply(x, tensor, bias, variant="scalar")
        assert np.isfinite(wanted).all()
        for variant in supported_variants():
            assert np.array_equal(multiply(x, tensor, bias, variant=variant), wanted)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("variant", [v for v in supported_variants() if v != "scalar"])
def test_a_row_does_not_depend_on_the_rows_beside_it(name: str, variant: str) -> None:
    x, tensor = prepare(randn(130, 512), name), random_tensor(name, 49, 512)
    wanted = multiply(x, tensor, variant=variant, num_threads=3)
    for first, last in ((0, 1), (1, 3), (3, 6), (6, 10), (10, 15), (15, 23), (64, 128), (129, 130)):
        part = multiply(x[first:last], tensor, variant=variant)
        assert np.array_equal(part, wanted[first:last])


@pytest.mark.parametrize("K", [1, 7, 100])
@pytest.mark.parametrize("name", DENSE)
def test_dense_matrices_may_have_any_number_of_columns(name: str, K: int) -> None:
    x, tensor = randn(9, K, seed=9), random_tensor(name, 21, K)
    actual = multiply(x, tensor)
    assert_sums(actual, x, tensor.dequantize(), 1e-6)
    assert np.array_equal(actual, multiply(x, tensor, variant="scalar"))


@pytest.mark.parametrize("name", ["Q8_0", "F32"])
@pytest.mark.parametrize("num_rows", [1, 5])
def test_bias_comes_on_top_and_other_columns_stay(name: str, num_rows: int) -> None:
    x, tensor, bias = randn(num_rows, 64), random_tensor(name, 17, 64), randn(17, seed=2)
    plain = multiply(prepare(x, name), tensor)
    for domain in (Domain.TOKENS, Domain.ROWS):
        out = multiply(prepare(x, name), tensor, bias, stride=20, domain=domain)
        assert np.array_equal(out[:, :17], plain + bias)
        assert np.isnan(out[:, 17:]).all()


@pytest.mark.parametrize("variant", supported_variants())
@pytest.mark.parametrize("name", ["F16", "Q8_0", "Q4_1", "Q6_K"])
@pytest.mark.parametrize("num_rows", [1, 3, 6, 64, 130])
def test_logits_are_those_of_the_whole_product_where_a_row_looks_at_them(
    name: str, variant: str, num_rows: int
) -> None:
    vocab_size, rng = 1090, np.random.default_rng(num_rows)
    x, tensor = prepare(randn(num_rows, 256), name), random_tensor(name, vocab_size, 256)
    wanted = multiply(x, tensor, variant=variant)
    targets = np.where(rng.random(num_rows) < 0.03, 4, -1)
    for shares in ([0.0], [0.002], [0, 0.002, 0.05, 1]):
        legal = rng.random(wanted.shape) < rng.choice(shares, (num_rows, 1))
        sampling = sampling_of(num_rows, token_bitmask=mask_of(legal), targets=targets)
        found = multiply(
            x, tensor, variant=variant, num_threads=2, domain=Domain.ROWS, looked_at_by=sampling
        )
        is_looked_at = legal | (targets >= 0)[:, None]
        assert np.array_equal(found[is_looked_at], wanted[is_looked_at])
        is_needed = np.logical_or.reduceat(is_looked_at.any(0), range(0, vocab_size, 32))
        assert np.isnan(found[:, ~is_needed.repeat(32)[:vocab_size]]).all()


@pytest.mark.parametrize("num_rows", [1, 6])
def test_all_logits_are_computed_where_there_is_no_mask(num_rows: int) -> None:
    x, tensor = quantize(randn(num_rows, 64)), random_tensor("Q8_0", 70, 64)
    found = multiply(x, tensor, domain=Domain.ROWS, looked_at_by=sampling_of(num_rows))
    assert np.array_equal(found, multiply(x, tensor))


def test_quantised_rows_are_scales_times_codes_with_their_sums() -> None:
    x = randn(3, 96)
    x[1, 32:64] = 0
    x[2, :5] = [127, 0.5, 1.5, 2.5, -127]
    x[2, 5:32] = -3.5
    codes, scales, minus_sums, sums, half_minus_sums, half_sums = sections(quantize(x), 96)
    groups = x.reshape(3, 3, 32)
    largest = np.abs(groups).max(2)
    assert np.array_equal(scales, largest / np.float32(127))
    with np.errstate(invalid="ignore", divide="ignore"):
        wanted = np.nan_to_num(np.rint(groups * (np.float32(127) / largest)[..., None]))
    assert np.array_equal(codes, wanted.reshape(3, 96))
    assert codes[2, :6].tolist() == [127, 0, 2, 2, -127, -4]
    for width, minus, plus in ((32, minus_sums, sums), (16, half_minus_sums, half_sums)):
        total = codes.reshape(3, -1, width).sum(2, dtype=np.int32)
        assert np.array_equal(minus, -total)
        assert np.array_equal(plus, np.repeat(scales, 32 // width, 1) * total.astype(np.float32))


def test_quantised_rows_are_the_same_for_all_variants() -> None:
    x = randn(5, 96) * np.logspace(-38, 37, 5, dtype=np.float32)[:, None]
    x[0, :3] = [1e-45, -1e-40, 0]
    wanted = quantize(x, "scalar")
    for variant in supported_variants():
        assert np.array_equal(quantize(x, variant), wanted)


@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("variant", supported_variants())
def test_a_row_that_is_not_finite_spoils_itself_alone(variant: str, damage: float) -> None:
    x, tensor = randn(3, 64), random_tensor("Q4_1", 17, 64)
    wanted = multiply(quantize(x), tensor)
    x[1, 40] = damage
    actual = multiply(quantize(x, variant), tensor, variant=variant)
    assert np.isnan(actual[1]).all()
    assert np.array_equal(actual[[0, 2]], wanted[[0, 2]])
