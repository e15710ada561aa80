"""What benchmarks measure and how it is recorded, one shape for all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tools.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Measurement:
    """One quantity, measured a few times.

    Attributes:
        bench: the area.
        params: what was measured ("measure") and under which conditions.
        values: one per repeat.
        unit: of the values and the limit.
        limit: what the machine could do at most, or what the value must stay within.
        bandwidth_gb_s: what the machine read from memory between the repeats.
        model: what was measured, where it is not the model of the whole run.
    """

    bench: str
    params: Mapping[str, Any]
    values: Sequence[float]
    unit: str
    limit: float | None = None
    bandwidth_gb_s: float | None = None
    model: str | None = None


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
        model=place.model if taken.model is None else shorten_name(taken.model),
        params=taken.params,
        value=value,
        p10=percentile(taken.values, 0.1),
        p90=percentile(taken.values, 0.9),
        repeats=len(taken.values),
        unit=taken.unit,
        limit=None if taken.limit is None else round(taken.limit, 4),
        fraction=None if taken.limit is None else round(value / taken.limit, 4),
        bandwidth_gb_s=None if taken.bandwidth_gb_s is None else round(taken.bandwidth_gb_s, 2),
        device=place.device,
        commit=place.commit,
    )


def shorten_name(model: str) -> str:
    """Of a file or folder the last part: a record says nothing of where it lay."""
    return model if model.startswith("hf:") else Path(model).name


def read_records(path: Path) -> list[Record]:
    """Read what `--json` printed.

    Raises:
        InvalidRequestError: the file cannot be read, or a line is no record.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [_parse(json.loads(line)) for line in lines if line]
    except (OSError, ValueError) as exc:
        raise InvalidRequestError(
            f"{path} holds no records of `zonda bench … --json`: {exc}"
        ) from exc


def _parse(line: object) -> Record:
    names = [field.name for field in fields(Record)]
    if not isinstance(line, dict) or sorted(line) != sorted(names):
        raise ValueError(f"wanted the fields {', '.join(names)}, found {line!r}")
    return Record(**line)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie, linear between neighbours."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return round(ordered[low] + (ordered[high] - ordered[low]) * (position - low), 4)
