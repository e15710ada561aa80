"""The benchmark of catalogues, on a tiny model."""

from __future__ import annotations

from pathlib import Path

from mcp_servers.cli.bench_catalogue import make_tools, measure_catalogue
from mcp_servers.cli.bench_setup import BenchOptions
from runtime.config import Config
from tests.helpers.tiny_gguf import write_tiny_llama


def test_first_tokens_are_measured_cold_shared_and_after_a_restart(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", context_length=2048)
    config = Config(model=str(path), cache_dir=tmp_path, device="cpu", threads=1, kv_cache_mib=16)
    taken = measure_catalogue(BenchOptions(config, "tiny", repeats=2), num_tools=2)
    assert [(one.params["measure"], one.unit) for one in taken] == [
        ("first token, first session", "ms"),
        ("first token, second session", "ms"),
        ("preparation by computing", "ms"),
        ("first token, first session prepared by computing", "ms"),
        ("preparation by reading", "ms"),
        ("first token, first session prepared by reading", "ms"),
        ("first session over second", "ratio"),
    ]
    for one in taken:
        assert one.bench == "tools"
        assert one.params["tools"] == 2
        assert 200 < one.params["prompt_tokens"] < 2048
        assert len(one.values) == 2
        assert all(value > 0 for value in one.values)


def test_made_up_tools_are_all_different() -> None:
    assert len({tool.name for tool in make_tools(32)}) == 32
