"""Measures what this machine can do at most, for benchmarks to hold results against."""

from __future__ import annotations

import ctypes
from typing import Literal

from runtime.errors import BackendError
from runtime.kernels.cpu.native import load_library, supported_variants

BUFFER_BYTES = 512 << 20
"""More than any cache holds."""

Operations = Literal["int8", "float32"]


def measure_read_bandwidth(
    num_threads: int,
    *,
    repeats: int,
    num_bytes: int = BUFFER_BYTES,
    variant: str | None = None,
) -> list[float]:
    """Read `num_bytes` of memory `repeats` times; return the bytes per second of each.

    `variant` is the instruction set; the best that this machine has where None.

    Raises:
        BackendError: memory or threads are short, or the library is not there.
    """
    measure = load_library().zonda_measure_read_bandwidth
    rates = (ctypes.c_double * repeats)()
    size = ctypes.c_int64(num_bytes)
    if measure(_spell(variant), num_threads, size, repeats, rates):
        raise BackendError(
            "the bandwidth was not measured: the system does not give "
            f"{num_bytes >> 20} MiB and {num_threads} threads"
        )
    return list(rates)


def measure_peak(
    operations: Operations, num_threads: int, *, repeats: int, variant: str | None = None
) -> list[float]:
    """Multiply and add in registers; return operations per second, two to a multiplication.

    Raises:
        BackendError: threads are short, or the library is not there.
    """
    measure = load_library().zonda_measure_peak
    rates = (ctypes.c_double * repeats)()
    if measure(_spell(variant), operations == "float32", num_threads, repeats, rates):
        raise BackendError(f"the peak was not measured: the system gives no {num_threads} threads")
    return list(rates)


def _spell(variant: str | None) -> bytes:
    return (variant or supported_variants()[0]).encode()
