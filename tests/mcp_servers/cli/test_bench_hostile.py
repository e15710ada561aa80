"""The benchmark of costly schemas, on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_servers.cli.bench_hostile import costly_schemas, measure_hostile
from mcp_servers.cli.bench_setup import BenchOptions
from runtime.config import Config
from runtime.grammar.suspicion import find_suspicion
from tests.helpers.tiny_gguf import write_tiny_llama


def test_waits_are_measured_alone_and_beside_costly_schemas(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", context_length=512)
    config = Config(model=str(path), cache_dir=tmp_path, device="cpu", threads=2, kv_cache_mib=16)
    options = BenchOptions(config, "tiny", repeats=2, new_tokens=60)
    *times, ratios = measure_hostile(options)
    assert [one.params["measure"] for one in times] == [
        f"between tokens, {when}, {name}"
        for when in ("alone", "beside costly schemas")
        for name in ("p50", "p99")
    ]
    assert all(len(one.values) == 2 and min(one.values) > 0 for one in times)
    alone, beside = times[1].values, times[3].values
    assert ratios.values == pytest.approx([b / a for a, b in zip(alone, beside, strict=True)])


def test_costly_schemas_are_tried_out_first() -> None:
    assert all(find_suspicion(schema) for schema in costly_schemas())
