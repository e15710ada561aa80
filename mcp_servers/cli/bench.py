"""`zonda bench`: how quick Zonda is here; one record a line with `--json`."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from mcp_servers.cli.records import Measurement, Place, Record, make_record
from runtime.config import Config, load_config
from tools.errors import InvalidRequestError, suggest


def bench(
    area: Annotated[str, typer.Argument(help="What to measure: startup.")],
    *,
    model: Annotated[str | None, typer.Option(help="Name or path of the model.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="How often.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON record a line.")] = False,
) -> None:
    """Measure how quick Zonda is on this machine."""
    from mcp_servers.cli.bench_startup import measure_startup

    areas: dict[str, Callable[[Config, int], list[Measurement]]] = {"startup": measure_startup}
    if area not in areas:
        raise InvalidRequestError(f"no area is named {area!r}{suggest(area, areas)}")
    config = load_config(model=model)
    place = Place(config.model, _describe_device(config), _find_commit())
    records = [make_record(taken, place) for taken in areas[area](config, repeats)]
    if as_json:
        for record in records:
            typer.echo(record.to_json())
    else:
        _print_table(records)


def _describe_device(config: Config) -> str:
    return f"{config.device}, {platform.machine()}, {os.cpu_count()} cores"


def _find_commit() -> str | None:
    """The commit of the checkout this runs from; None when it is none or git is missing."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(  # noqa: S603 - a fixed command
            command, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return found.stdout.strip() or None


def _print_table(records: Sequence[Record]) -> None:
    from rich.console import Console
    from rich.table import Table

    first = records[0]
    table = Table(title=f"{first.bench}, {first.model}, {first.device}, {first.repeats} runs")
    for name in ("", "median", "p10", "p90", "unit", "limit"):
        table.add_column(name, justify="left" if name in {"", "unit"} else "right")
    for record in records:
        numbers = [f"{number:.3g}" for number in (record.value, record.p10, record.p90)]
        limit = "" if record.limit is None else f"{record.limit:g}"
        table.add_row(str(record.params["measure"]), *numbers, record.unit, limit)
    Console().print(table)
