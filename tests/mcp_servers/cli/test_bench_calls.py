"""The benchmarks of calls and of grammars, on a tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mcp_servers.cli.bench_calls import BATCHES, measure_calls
from mcp_servers.cli.bench_grammars import NUM_TOOLS, make_tools, measure_grammars
from mcp_servers.cli.bench_guesses import measure_guesses
from mcp_servers.cli.bench_setup import BenchOptions, LoadedModel, load_model
from mcp_servers.cli.records import Measurement
from runtime.config import Config
from tests.helpers.tiny_gguf import write_tiny_llama


@pytest.fixture
def options(tmp_path: Path) -> BenchOptions:
    path = write_tiny_llama(tmp_path / "tiny.gguf", context_length=2048)
    config = Config(model=str(path), cache_dir=tmp_path, device="cpu", threads=1, kv_cache_mib=64)
    return BenchOptions(config, "tiny", repeats=2)


@pytest.fixture
def model(options: BenchOptions) -> LoadedModel:
    return load_model(options.config)


def describe(taken: list[Measurement]) -> list[tuple[str, str, bool]]:
    return [(one.params["measure"], one.unit, one.limit is not None) for one in taken]


@pytest.mark.slow
def test_calls_are_valid_and_take_fewer_passes_where_tokens_are_forced(
    options: BenchOptions, model: LoadedModel
) -> None:
    taken = list(measure_calls(options, model))
    assert describe(taken) == [
        ("tokens per turn", "tokens", False),
        ("forward passes per turn", "passes", False),
        ("… nothing guessed", "passes", False),
        ("… nor forced", "passes", False),
        ("tokens per forward pass", "tokens", True),
        ("turns whose calls are valid", "%", True),
        ("turns that say the same, nothing guessed or forced", "%", True),
        *[
            ("mask, p50", "us", False),
            ("mask, p99", "us", False),
            ("step", "ms", False),
            ("constraints' share of a step", "%", True),
        ]
        * len(BATCHES),
    ]
    tokens, guessed, forced, drawn, rates, valid, same = (one.values for one in taken[:7])
    assert rates == [all_of / some for all_of, some in zip(tokens, guessed, strict=True)]
    assert valid == same == [100.0, 100.0]
    assert sum(guessed) <= sum(forced) < sum(drawn)
    assert [one.params["sequences"] for one in taken[7:]] == [1] * 4 + [32] * 4
    for one in taken[7:]:
        assert one.bench == "tools"
        assert len(one.values) == 2
        assert all(value > 0 for value in one.values)
    assert all(0 < share < 100 for share in (*taken[10].values, *taken[14].values))


def test_answers_are_the_same_with_guesses_and_without(
    options: BenchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_servers.cli.bench_guesses.BATCHES", (1, 2))
    taken = list(measure_guesses(replace(options, new_tokens=8)))
    assert (
        describe(taken)
        == [
            ("answers, nothing guessed", "tokens/s", False),
            ("answers, guessed", "tokens/s", False),
            ("answers, guessed over not", "ratio", False),
        ]
        * 2
    )
    assert all(len(one.values) == 2 and min(one.values) > 0 for one in taken)


@pytest.mark.slow
def test_grammars_are_compiled_and_found_again(options: BenchOptions, model: LoadedModel) -> None:
    taken = list(measure_grammars(options, model))
    expected = [("first grammar of a model, vocabulary included", "ms", False)]
    for num_tools in NUM_TOOLS:
        is_limited = num_tools == 300
        expected += [
            ("grammar, calls may be made", "ms", is_limited),
            ("grammar, a call must be made", "ms", is_limited),
            ("grammar, tools sent again", "ms", False),
            ("grammar, same tools", "ms", False),
        ]
    assert describe(taken) == expected
    assert all(value > 0 for one in taken for value in one.values)


def test_made_up_tools_are_all_different() -> None:
    assert len({tool.name for tool in make_tools(300, "a")}) == 300
