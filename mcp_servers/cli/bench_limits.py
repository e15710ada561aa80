"""What this machine can do at most: memory, and the multipliers of one and of all threads."""

from __future__ import annotations

from mcp_servers.cli.bench_machine import GIGA, count_threads
from mcp_servers.cli.bench_setup import BenchOptions
from mcp_servers.cli.records import Measurement, percentile


def measure_limits(options: BenchOptions) -> list[Measurement]:
    """Measure bandwidth and peaks with one thread and with as many as the engine uses."""
    from runtime.kernels.cpu.limits import Operations, measure_peak, measure_read_bandwidth

    units: dict[Operations, str] = {"int8": "GOP/s", "float32": "GFLOP/s"}
    taken = []
    for num_threads in dict.fromkeys((1, count_threads(options.config))):
        rates = measure_read_bandwidth(num_threads, repeats=options.repeats)
        bandwidth_gb_s = percentile(rates, 0.5) / GIGA

        def record(
            measure: str,
            rates: list[float],
            unit: str,
            num_threads: int = num_threads,
            beside: float = bandwidth_gb_s,
        ) -> None:
            params = {"measure": measure, "threads": num_threads}
            values = [rate / GIGA for rate in rates]
            taken.append(Measurement("limits", params, values, unit, bandwidth_gb_s=beside))

        record("memory read", rates, "GB/s")
        for operations, unit in units.items():
            peaks = measure_peak(operations, num_threads, repeats=options.repeats)
            record(f"{operations} multiply and add", peaks, unit)
    return taken
