"""What `zonda bench serve` found, as an SVG that reads on light and dark pages.

Tokens per second against concurrency, or the wait for the first one against arrivals a second.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from mcp_servers.cli.bench_serve import FIRST_P95, RATE
from mcp_servers.cli.records import Record, percentile
from tools.errors import InvalidRequestError

WIDTH, HEIGHT = 800, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 584, 72, 384
"""Edges of the area that the lines are in; labels stand to the right of it."""

LABEL_HEIGHT = 17
NUM_TICKS = 5

Point = tuple[float, float]

# Blue, orange, green, red, purple, brown: told apart with any eyes, on white and on near-black.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#c2386b", "#8d6bc4", "#a0761b")
_STYLE = """
    .page { fill: #ffffff } .text { fill: #24292f } .quiet { fill: #57606a }
    .grid { stroke: #d8dee4 } .limit { stroke: #57606a }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117 } .text { fill: #e6edf3 } .quiet { fill: #9198a1 }
      .grid { stroke: #30363d } .limit { stroke: #9198a1 }
    }"""


@dataclass(frozen=True, slots=True)
class Series:
    """A line: `points` are (load, what is shown)."""

    name: str
    points: Sequence[Point]
    is_limit: bool = False


@dataclass(frozen=True, slots=True)
class _View:
    """What is drawn over what.

    Attributes:
        measure: of the records that are shown.
        load: the parameter along the axis.
        title, axis, how: in words.
    """

    measure: str
    load: str
    title: str
    axis: str
    how: str


_AT_ONCE = _View(
    RATE,
    "concurrency",
    "Generated tokens per second, all requests together",
    "requests at the same time",
    "all sent at once",
)
_ARRIVING = _View(
    FIRST_P95,
    "arrivals_per_s",
    "Milliseconds to the first token, 95th percentile",
    "requests that arrive each second",
    "arriving at random",
)


def draw_plot(records: Sequence[Record]) -> str:
    """Draw one line per server, and the machine's limit where it is known.

    Raises:
        InvalidRequestError: the records hold nothing to show, or some of another load.
    """
    view = _ARRIVING if any(_ARRIVING.load in one.params for one in records) else _AT_ONCE
    rates = [record for record in records if record.params.get("measure") == view.measure]
    if any(view.load not in record.params for record in rates):
        raise InvalidRequestError("a plot shows records of --rate or of --concurrency, not both")
    loads = {(one.params["prompt_tokens"], one.params["new_tokens"]) for one in rates}
    if len(loads) != 1:
        raise InvalidRequestError(
            f"a plot shows `zonda bench serve` of one load, found {len(loads)}: "
            f"{sorted(loads)} tokens of prompt and answer"
        )
    prompt_tokens, new_tokens = loads.pop()
    first = rates[0]
    load = f"{prompt_tokens} tokens in, {new_tokens} out, {view.how}"
    device = f"{first.model}; {first.device}"
    bandwidths = [one.bandwidth_gb_s for one in rates if one.bandwidth_gb_s is not None]
    if bandwidths:
        device += f"; memory read at {percentile(bandwidths, 0.5):.0f} GB/s"
    return _svg(_series(rates, view.load), (view.title, load, device), view.axis)


def _series(rates: Sequence[Record], load: str) -> list[Series]:
    """A line per server, and the limit; several records of a point give their median."""
    lines: defaultdict[str, defaultdict[float, list[float]]]
    lines = defaultdict(lambda: defaultdict(list))
    limits: defaultdict[float, list[float]] = defaultdict(list)
    for record in rates:
        lines[record.params["server"]][record.params[load]].append(record.value)
        if record.limit is not None:
            limits[record.params[load]].append(record.limit)
    series = [Series(name, _medians(points)) for name, points in lines.items()]
    limit = [Series("limit of this machine", _medians(limits), is_limit=True)]
    return series + (limit if limits else [])


def _medians(points: Mapping[float, Sequence[float]]) -> list[Point]:
    return [(x, percentile(values, 0.5)) for x, values in sorted(points.items())]


def _svg(series: Sequence[Series], titles: tuple[str, str, str], axis: str) -> str:
    loads = sorted({x for one in series for x, _ in one.points})
    step = _tick_step(max(y for one in series for _, y in one.points))
    highest = step * math.ceil(max(y for one in series for _, y in one.points) / step)
    to_x = _scale(math.log2(loads[0]), math.log2(loads[-1]), LEFT, RIGHT)
    to_y = _scale(0, highest, BOTTOM, TOP)
    placed = [
        Series(one.name, [(to_x(math.log2(x)), to_y(y)) for x, y in one.points], one.is_limit)
        for one in series
    ]
    parts = [
        *_frame(titles),
        *_grid({to_y(y): y for y in _steps(step, highest)}),
        *_axis({to_x(math.log2(x)): x for x in loads}, axis),
        *_lines(placed),
    ]
    body = "\n".join(f"  {part}" for part in parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="system-ui, sans-serif" font-size="13" '
        f'role="img">\n{body}\n</svg>\n'
    )


def _frame(titles: tuple[str, str, str]) -> Iterator[str]:
    title, load, device = map(escape, titles)
    yield f"<title>{title}: {load}</title>"
    yield f"<style>{_STYLE}\n  </style>"
    yield f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="8"/>'
    yield f'<text class="text" x="24" y="30" font-size="16" font-weight="600">{title}</text>'
    yield f'<text class="quiet" x="24" y="51">{load}; {device}</text>'


def _grid(ticks: Mapping[float, float]) -> Iterator[str]:
    for y, value in ticks.items():
        yield f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield _label(LEFT - 10, y + 4, "end", f"{value:g}")


def _axis(ticks: Mapping[float, float], name: str) -> Iterator[str]:
    for x, value in ticks.items():
        yield _label(x, BOTTOM + 20, "middle", f"{value:g}")
    yield _label((LEFT + RIGHT) / 2, BOTTOM + 42, "middle", name)


def _label(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="quiet" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _lines(series: Sequence[Series]) -> Iterator[str]:
    """Lines with a dot at each point; names stand where the lines end."""
    colours = iter(_COLOURS * len(series))
    label_ys = _spread([one.points[-1][1] for one in series])
    for index, one in enumerate(series):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in one.points)
        name = escape(one.name)
        if one.is_limit:
            yield f'<polyline class="limit" points="{path}" fill="none" stroke-dasharray="5 4"/>'
            look = 'class="quiet"'
        else:
            colour = next(colours)
            width = 3 if index == 0 else 1.8
            yield (
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" '
                'stroke-linejoin="round"/>'
            )
            for x, y in one.points:
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{width + 1}" fill="{colour}"/>'
            look = f'fill="{colour}" font-weight="{600 if index == 0 else 400}"'
        x, y = one.points[-1][0] + 12, label_ys[index] + 4
        yield f'<text {look} x="{x:.1f}" y="{y:.1f}">{name}</text>'


def _spread(ys: Sequence[float]) -> list[float]:
    """Move labels apart that would cover each other, upwards from the lowest."""
    placed = list(ys)
    highest = math.inf
    for index in sorted(range(len(ys)), key=lambda index: -ys[index]):
        placed[index] = min(ys[index], highest)
        highest = placed[index] - LABEL_HEIGHT
    return placed


def _scale(start: float, end: float, to_start: float, to_end: float) -> Callable[[float], float]:
    span = (end - start) or 1.0
    return lambda value: to_start + (value - start) / span * (to_end - to_start)


def _tick_step(highest: float) -> float:
    """The round number of which about `NUM_TICKS` reach `highest`."""
    rough = max(highest, 1e-9) / NUM_TICKS
    magnitude = 10.0 ** math.floor(math.log10(rough))
    return next(magnitude * factor for factor in (1, 2, 5, 10) if magnitude * factor >= rough)


def _steps(step: float, highest: float) -> list[float]:
    return [step * number for number in range(round(highest / step) + 1)]
