"""Tests of the plot: every series is there, and can be told from the others."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from mcp_servers.cli.bench_plot import LABEL_HEIGHT, draw_plot
from mcp_servers.cli.bench_serve import FIRST_P95, RATE
from mcp_servers.cli.records import Record, read_records
from tools.errors import InvalidRequestError

SVG = "{http://www.w3.org/2000/svg}"


def make_records(
    rates: Mapping[str, Sequence[float]], limit: float | None = None, new_tokens: int = 128
) -> list[Record]:
    """Rates at 1, 4, 16 … requests."""
    return [
        Record(
            bench="serve",
            model="tiny",
            params={
                "measure": RATE,
                "server": server,
                "concurrency": 4**power,
                "prompt_tokens": 128,
                "new_tokens": new_tokens,
            },
            value=rate,
            p10=rate,
            p90=rate,
            repeats=1,
            unit="tokens/s",
            limit=limit,
            fraction=None,
            bandwidth_gb_s=33.0,
            device="cpu",
            commit=None,
        )
        for server, series in rates.items()
        for power, rate in enumerate(series)
    ]


def test_each_server_is_a_line_with_its_name_at_the_end() -> None:
    image = ET.fromstring(
        draw_plot(make_records({"A & <B>": [10, 20, 30], "C": [1, 2, 3]}, limit=100.0))
    )
    texts = [element.text for element in image.iter(f"{SVG}text")]
    assert {"A & <B>", "C", "limit of this machine", "1", "4", "16", "0", "100"} <= set(texts)
    lines = [line.attrib["points"].split() for line in image.iter(f"{SVG}polyline")]
    assert [len(points) for points in lines] == [3, 3, 3]
    heights = [[float(point.partition(",")[2]) for point in points] for points in lines]
    assert heights[0] == sorted(heights[0], reverse=True)  # down is up
    assert all(above < below for above, below in zip(heights[0], heights[1], strict=True))


def test_names_do_not_cover_each_other() -> None:
    same = {f"server {number}": [10.0, 20.0] for number in range(6)}
    image = ET.fromstring(draw_plot(make_records(same)))
    named = [one for one in image.iter(f"{SVG}text") if (one.text or "").startswith("server")]
    heights = sorted(float(one.attrib["y"]) for one in named)
    gaps = [below - above for above, below in pairwise(heights)]
    assert len(gaps) == 5
    assert min(gaps) >= LABEL_HEIGHT - 0.1


def test_one_concurrency_is_enough() -> None:
    image = ET.fromstring(draw_plot(make_records({"A": [10]})))
    assert len(list(image.iter(f"{SVG}circle"))) == 1


def test_rates_of_different_loads_are_not_drawn_together() -> None:
    records = [*make_records({"A": [1]}), *make_records({"B": [1]}, new_tokens=64)]
    with pytest.raises(InvalidRequestError, match="one load, found 2"):
        draw_plot(records)
    with pytest.raises(InvalidRequestError, match="one load, found 0"):
        draw_plot([])


def test_colours_are_chosen_for_light_and_dark() -> None:
    plot = draw_plot(make_records({"A": [1, 2]}))
    assert re.search(r"@media \(prefers-color-scheme: dark\)", plot)


def test_records_are_read_back_as_they_were_printed(tmp_path: Path) -> None:
    records = make_records({"A": [1, 2]})
    path = tmp_path / "serve.jsonl"
    path.write_text("\n".join(record.to_json() for record in records) + "\n", encoding="utf-8")
    assert read_records(path) == records


@pytest.mark.parametrize("text", ["{", "[]", '{"bench": "serve"}', None])
def test_what_is_no_record_is_refused(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "serve.jsonl"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidRequestError, match=r"serve\.jsonl holds no records"):
        read_records(path)


def test_arrivals_have_a_plot_of_the_wait_and_do_not_mix_with_concurrency() -> None:
    at_once = make_records({"Zonda": [1, 2]})
    arriving = [
        replace(
            one,
            params={
                **{name: one.params[name] for name in ("server", "prompt_tokens", "new_tokens")},
                "measure": FIRST_P95,
                "arrivals_per_s": rate,
            },
        )
        for one, rate in zip(at_once, (0.5, 2.0), strict=True)
    ]
    texts = [element.text for element in ET.fromstring(draw_plot(arriving)).iter(f"{SVG}text")]
    assert "Milliseconds to the first token, 95th percentile" in texts
    assert "128 tokens in, 128 out, arriving at random; tiny; cpu; memory read at 33 GB/s" in texts
    assert {"0.5", "2", "requests that arrive each second", "Zonda"} <= set(texts)
    waits = [replace(one, params={**one.params, "measure": FIRST_P95}) for one in at_once]
    with pytest.raises(InvalidRequestError, match="of --rate or of --concurrency, not both"):
        draw_plot([*arriving, *waits])
