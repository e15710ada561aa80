"""The time anywhere, and days between dates."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated

from pydantic import Field

from tools.errors import InvalidArgumentsError, suggest
from tools.function import FunctionToolset, function_tool
from tools.spec import ToolAnnotations

_TimeZone = Annotated[str, Field(description="IANA name, such as Europe/Paris.", max_length=64)]
_Date = Annotated[date, Field(description="Date as YYYY-MM-DD.")]


@dataclass(frozen=True, slots=True)
class LocalTime:
    """A moment in a time zone; `datetime` is ISO 8601 with its offset."""

    timezone: str
    datetime: str
    weekday: str


@dataclass(frozen=True, slots=True)
class DayCount:
    """Days from one date to another."""

    days: int


def _utc_now() -> datetime:
    return datetime.now(UTC)


def clock_toolset(now: Callable[[], datetime] = _utc_now) -> FunctionToolset:
    """Build the tools; `now` returns the present moment with its zone."""

    def get_time(timezone: _TimeZone = "UTC") -> LocalTime:
        """Get the current date and time in a time zone."""
        local = now().astimezone(_zone(timezone))
        return LocalTime(timezone, local.isoformat(timespec="seconds"), f"{local:%A}")

    def days_between(start: _Date, end: _Date) -> DayCount:
        """Count the days from one date to another; negative when `end` is earlier."""
        return DayCount((end - start).days)

    return FunctionToolset(
        function_tool(get_time, annotations=ToolAnnotations(read_only=True, open_world=False)),
        function_tool(
            days_between,
            annotations=ToolAnnotations(read_only=True, idempotent=True, open_world=False),
        ),
    )


def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as exc:
        near = suggest(name, zoneinfo.available_timezones())
        raise InvalidArgumentsError(f"no time zone is named {name!r}{near}") from exc
