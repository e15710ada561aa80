"""`zonda bench`: how quick Zonda is here; one record a line with `--json`."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcp_servers.cli.records import (
    Measurement,
    Place,
    Record,
    make_record,
    percentile,
    read_records,
    shorten_name,
)
from runtime.config import Config, load_config
from tools.errors import InvalidRequestError, suggest

if TYPE_CHECKING:
    from mcp_servers.cli.bench_setup import BenchOptions


@dataclass(frozen=True, slots=True)
class Area:
    """What can be measured.

    Attributes:
        module: where the function `measure_<name>` is.
        prompt_tokens: lengths of prompts that it takes by default.
        new_tokens: of each answer, by default.
        takes_url: whether it can measure other servers.
    """

    module: str
    prompt_tokens: tuple[int, ...] = ()
    new_tokens: int = 0
    takes_url: bool = False


AREAS: Mapping[str, Area] = {
    "limits": Area("bench_limits"),
    "prefill": Area("bench_single", (512, 2048)),
    "decode": Area("bench_single", (16, 1024, 2000), 128),
    "guesses": Area("bench_guesses", new_tokens=96),
    "serve": Area("bench_serve", (128,), 128, takes_url=True),
    "prefix": Area("bench_serve", (2000,), takes_url=True),
    "tools": Area("bench_tools", (2000,), new_tokens=200),
    "mcp": Area("bench_mcp"),
    "startup": Area("bench_startup"),
}


def bench(  # noqa: PLR0913 - options of the command line
    area: Annotated[str, typer.Argument(help=f"What to measure: {', '.join(AREAS)}.")],
    *,
    model: Annotated[str | None, typer.Option(help="Name or path of the model.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="How often.")] = 5,
    prompt_tokens: Annotated[
        str | None, typer.Option(help="Lengths of prompts, such as 512,2048.")
    ] = None,
    new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens to generate for each prompt.")
    ] = None,
    concurrency: Annotated[
        str, typer.Option(help="serve: how many requests at the same time.")
    ] = "1,4,16,32",
    rate: Annotated[
        str | None,
        typer.Option(help="serve: requests arriving each second, such as 0.5,2, instead."),
    ] = None,
    seconds: Annotated[int, typer.Option(min=1, help="serve: how long they arrive.")] = 30,
    url: Annotated[
        str | None,
        typer.Option(
            help="serve, prefix: measure the OpenAI-compatible server there instead; URL#MODEL "
            "where it has several models."
        ),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="serve, prefix: measure NAME=URL in turn with it; again for more."),
    ] = None,
    label: Annotated[str, typer.Option(help="What records and plots call the server.")] = "Zonda",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON record a line.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="serve: SVG file to draw what was found into.")
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option("--with", help="File of `serve --json` to draw as well; again for more."),
    ] = None,
) -> None:
    """Measure how quick Zonda is on this machine."""
    if area not in AREAS:
        raise InvalidRequestError(f"no area is named {area!r}{suggest(area, AREAS)}")
    chosen = AREAS[area]
    if (url is not None or peer) and not chosen.takes_url:
        raise InvalidRequestError(
            f"--url and --peer are for serve and prefix, {area} measures our engine"
        )
    if rate is not None and area != "serve":
        raise InvalidRequestError(f"--rate is for serve, not for {area}")
    if (plot is not None or beside) and (area != "serve" or plot is None):
        raise InvalidRequestError("--plot FILE.svg, and --with what to draw too, are for serve")
    from mcp_servers.cli.bench_setup import BenchOptions

    config = load_config(model=model)
    options = BenchOptions(
        config,
        config.model,
        repeats,
        _parse_counts("prompt-tokens", prompt_tokens) or chosen.prompt_tokens,
        new_tokens or chosen.new_tokens,
        _parse_counts("concurrency", concurrency),
        url,
        label,
        _parse_rates(rate),
        seconds,
        _parse_peers(peer or ()),
    )
    drawn = [record for path in beside or () for record in read_records(path)]
    records = _measure(area, options, as_json=as_json)
    if plot is not None:
        from mcp_servers.cli.bench_plot import draw_plot

        plot.write_text(draw_plot([*records, *drawn]), encoding="utf-8")


def _measure(area: str, options: BenchOptions, *, as_json: bool) -> list[Record]:
    """Measure, and print what was found as soon as it is."""
    module = import_module(f"mcp_servers.cli.{AREAS[area].module}")
    measure: Callable[[BenchOptions], Iterable[Measurement]] = getattr(module, f"measure_{area}")
    place = Place(shorten_name(options.model), _describe_device(options.config), _find_commit())
    records = []
    for taken in measure(options):
        records.append(make_record(taken, place))
        if as_json:
            typer.echo(records[-1].to_json())
    if not as_json:
        _print_table(records)
    return records


def _parse_counts(name: str, text: str | None) -> tuple[int, ...]:
    """Numbers from 1 on between commas; none where nothing was given."""
    parts = [] if text is None else text.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise InvalidRequestError(f"--{name} takes numbers like 1,4,16, not {text!r}")
    return tuple(map(int, parts))


def _parse_peers(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Names and URLs.

    Raises:
        InvalidRequestError: one is not NAME=URL.
    """
    found = []
    for text in texts:
        name, _, url = text.partition("=")
        if not name or not re.match(r"https?://.", url):
            raise InvalidRequestError(f"--peer takes NAME=URL, not {text!r}")
        found.append((name, url))
    return tuple(found)


def _parse_rates(text: str | None) -> tuple[float, ...]:
    """Numbers over 0 between commas; none where nothing was given."""
    parts = [] if text is None else text.split(",")
    if not all(re.fullmatch(r"\d{1,6}(\.\d{1,6})?", part) and float(part) for part in parts):
        raise InvalidRequestError(f"--rate takes numbers like 0.5,2,8, not {text!r}")
    return tuple(map(float, parts))


def _describe_device(config: Config) -> str:
    from runtime.engine.loading import uses_gpu
    from runtime.kernels.cpu.native import supported_variants

    device = "cuda" if uses_gpu(config.device) else f"cpu {supported_variants()[0]}"
    return f"{device}, {platform.machine()}, {os.cpu_count()} cores"


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
    """A row for each quantity; where several servers were measured, a column for each of them.

    What all records share stands in the title; the spread is that of p10 to p90.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    servers = list(dict.fromkeys(map(_place, records)))
    shared = [one for one in _conditions(records[0]) if all(one in _conditions(r) for r in records)]
    bandwidths = [one.bandwidth_gb_s for one in records if one.bandwidth_gb_s is not None]
    if bandwidths:
        shared.append(f"memory read at {percentile(bandwidths, 0.5):.0f} GB/s")
    is_alone = len(servers) == 1
    title = ", ".join(
        [records[0].bench, *(servers if is_alone else ()), records[0].device, *shared]
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.add_column("")
    columns = ("median", "spread", "of limit") if is_alone else servers
    for name in columns:
        table.add_column(name, justify="right", no_wrap=is_alone)
    if not is_alone:
        table.caption = "medians, and in brackets the spread from p10 to p90"
    rows: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        conditions = [one for one in _conditions(record) if one not in shared]
        rows[", ".join([record.params["measure"], *conditions])].append(record)
    for name, found in rows.items():
        if is_alone:
            for record in found:
                table.add_row(name, *_cells(record))
        else:
            cells = {_place(record): _cells(record) for record in found}
            told = [cells.get(server, ("", "", "")) for server in servers]
            table.add_row(
                name, *(f"{value} ({spread})" if value else "" for value, spread, _ in told)
            )
    Console().print(table)


def _cells(record: Record) -> tuple[str, str, str]:
    spread = (record.p90 - record.p10) / record.value if record.value else 0.0
    share = "" if record.fraction is None else f"{100 * record.fraction:.0f} %"
    return f"{_shorten(record.value)} {record.unit}", f"{100 * spread:.0f} %", share


def _place(record: Record) -> str:
    """Whose record it is: a server's, where it says so, and a model's."""
    return ", ".join(filter(None, (record.params.get("server"), record.model)))


def _shorten(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _conditions(record: Record) -> list[str]:
    """What of the parameters is not the quantity itself, such as "prompt tokens 16"."""
    params = {
        name: value for name, value in record.params.items() if name not in {"measure", "server"}
    }
    return [f"{name.replace('_', ' ')} {value}" for name, value in params.items()]
