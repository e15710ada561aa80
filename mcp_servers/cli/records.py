"""What benchmarks measure and how it is recorded; shapes of design section 11."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Measurement:
    """One quantity, measured a few times; `limit` is what it must stay within, if anything."""

    bench: str
    params: Mapping[str, Any]
    values: Sequence[float]
    unit: str
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """What `--json` prints: `value` is the median, `fraction` its share of `limit`."""

    bench: str
    model: str
    params: Mapping[str, Any]
    value: float
    p10: float
    p90: float
    repeats: int
    unit: str
    limit: float | None
    fraction: float | None
    bandwidth_gb_s: float | None
    device: str
    commit: str | None

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a measurement was taken."""

    model: str
    device: str
    commit: str | None = None


def make_record(taken: Measurement, place: Place) -> Record:
    """Summarise one measurement."""
    value = percentile(taken.values, 0.5)
    return Record(
        bench=taken.bench,
        model=place.model,
        params=taken.params,
        value=value,
        p10=percentile(taken.values, 0.1),
        p90=percentile(taken.values, 0.9),
        repeats=len(taken.values),
        unit=taken.unit,
        limit=taken.limit,
        fraction=None if taken.limit is None else round(value / taken.limit, 4),
        bandwidth_gb_s=None,
        device=place.device,
        commit=place.commit,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie, linear between neighbours."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return round(ordered[low] + (ordered[high] - ordered[low]) * (position - low), 4)
