"""Tests of the machine's limits: they are measured, in the right unit, by every variant."""

from __future__ import annotations

import pytest

from runtime.errors import BackendError
from runtime.kernels.cpu.limits import Operations, measure_peak, measure_read_bandwidth
from runtime.kernels.cpu.native import supported_variants

SLOWEST, FASTEST = 1e6, 1e15
"""Per second: nothing that runs this is outside."""


@pytest.mark.parametrize("variant", supported_variants())
@pytest.mark.parametrize("num_threads", [1, 3])
def test_bandwidth_is_measured_as_often_as_asked(variant: str, num_threads: int) -> None:
    rates = measure_read_bandwidth(num_threads, repeats=2, num_bytes=1_000_003, variant=variant)
    assert len(rates) == 2
    assert all(SLOWEST < rate < FASTEST for rate in rates)


@pytest.mark.parametrize("variant", supported_variants())
def test_peaks_are_measured_as_often_as_asked(variant: str) -> None:
    kinds: tuple[Operations, ...] = ("int8", "float32")
    peaks = [measure_peak(kind, 2, repeats=2, variant=variant) for kind in kinds]
    assert [len(rates) for rates in peaks] == [2, 2]
    assert all(SLOWEST < rate < FASTEST for rates in peaks for rate in rates)


def test_what_cannot_be_measured_is_an_error() -> None:
    with pytest.raises(BackendError, match="the system does not give 1 MiB and 2 threads"):
        measure_read_bandwidth(2, repeats=1, num_bytes=1 << 20, variant="abacus")
    with pytest.raises(BackendError, match="the system gives no 2 threads"):
        measure_peak("int8", 2, repeats=1, variant="abacus")
