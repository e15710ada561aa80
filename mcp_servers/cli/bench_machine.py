"""What this machine can do at most, measured beside every result."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_servers.cli.records import percentile

if TYPE_CHECKING:
    from runtime.config import Config

GIGA = 1e9


@dataclass(frozen=True, slots=True)
class Machine:
    """What the CPU did at most: bytes read and int8 operations per second."""

    bandwidth: float
    int8_peak: float


class MachineProbe:
    """Looks at the machine between the repeats of a measurement; blind where that is a GPU's.

    Both are shared with whoever else uses the machine, so the figures of one minute say little
    about those of the next.
    """

    def __init__(self, config: Config) -> None:
        """Find out whether models run on the CPU."""
        from runtime.engine.loading import uses_gpu

        self._is_blind = uses_gpu(config.device)
        self._num_threads = count_threads(config)
        self._bandwidths: list[float] = []
        self._int8_peaks: list[float] = []

    def look(self) -> None:
        """Measure the machine now: a quarter of a second.

        Raises:
            BackendError: the kernels' library is not there, or memory or threads are short.
        """
        from runtime.kernels.cpu.limits import measure_peak, measure_read_bandwidth

        if not self._is_blind:
            self._bandwidths += measure_read_bandwidth(self._num_threads, repeats=2)
            self._int8_peaks += measure_peak("int8", self._num_threads, repeats=2)

    @property
    def machine(self) -> Machine | None:
        """Medians of what was seen; None when nothing was."""
        if not self._bandwidths:
            return None
        return Machine(percentile(self._bandwidths, 0.5), percentile(self._int8_peaks, 0.5))

    @property
    def bandwidth_gb_s(self) -> float | None:
        return None if self.machine is None else self.machine.bandwidth / GIGA


def count_threads(config: Config) -> int:
    """Threads that the engine computes with."""
    if config.threads:
        return config.threads
    if hasattr(os, "sched_getaffinity"):  # macOS has none
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
