"""Tests of what a model's work costs, and of one request run alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_servers.cli.bench_machine import Machine
from mcp_servers.cli.bench_setup import (
    Generation,
    ModelCost,
    cost_of,
    find_model,
    generate,
    load_model,
    random_prompt,
)
from runtime.config import Config
from runtime.weights import open_checkpoint
from tests.helpers.tiny_gguf import tiny_vocabulary, write_tiny_llama
from tools.errors import UnavailableError

MACHINE = Machine(bandwidth=1e9, int8_peak=1e9)
COST = ModelCost(
    weight_bytes=1_000_000,
    body_weights=50_000,
    head_weights=10_000,
    layer_kv_bytes=100,
    windows=(0, 8),
    context_length=512,
)


def test_keys_and_values_are_read_as_far_as_each_layer_sees() -> None:
    assert [COST.kv_bytes(context) for context in (0, 4, 8, 20)] == [0, 800, 1600, 2800]


def test_limits_follow_from_bytes_and_multiplications() -> None:
    assert COST.prefill_limit(MACHINE) == 1e9 / 100_000
    assert COST.decode_limit(MACHINE, 20) == pytest.approx(1e9 / 1_002_800)
    # Ten prompts of 100 tokens take 0.1 s. Each of ten steps reads 1.1 MB for ten sequences, but
    # does 1.2 million operations.
    assert COST.serve_limit(MACHINE, 10, 100, 10) == pytest.approx(100 / (0.1 + 10 * 1.2e-3))
    # A step for one sequence is bound by its bytes.
    step_s = (1_000_000 + 100 * (101 + 8)) / 1e9
    assert COST.serve_limit(MACHINE, 1, 100, 2) == pytest.approx(2 / (0.01 + 2 * step_s))


@pytest.mark.parametrize("tied", [True, False])
def test_the_embedding_table_is_read_only_where_it_is_the_head(
    *, tied: bool, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(write_tiny_llama(tmp_path / "tiny.gguf", tied=tied))
    cost = cost_of(checkpoint, Config(kv_type="bf16"))
    vocab_size = len(tiny_vocabulary()["tokenizer.ggml.tokens"])
    sizes = {name: checkpoint.info(name).num_bytes for name in checkpoint.names}
    table = sizes["embed_tokens.weight"]
    # Per layer: q and o 64 x 64, k and v 32 x 64, gate, up and down 128 x 64.
    assert cost == ModelCost(
        weight_bytes=sum(sizes.values()) - (0 if tied else table),
        body_weights=2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64),
        head_weights=vocab_size * 64,
        layer_kv_bytes=2 * 2 * 2 * 16,
        windows=(0, 0),
        context_length=512,
    )


def test_a_request_goes_on_past_the_end_of_the_text_and_is_timed(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    model = load_model(Config(model=str(path), cache_dir=tmp_path, threads=1))
    run = generate(model, random_prompt(40, model.tokenizer.vocab_size), 100)
    assert len(run.token_ids) == len(run.times) == 100
    assert run.started < run.times[0]
    assert list(run.times) == sorted(run.times)
    assert 0 < run.kernel_s < run.decode_s


def test_tokens_of_the_first_step_are_not_counted_as_later_ones() -> None:
    run = Generation(1.0, (1.5, 1.5, 2.0, 2.5), (1, 2, 3, 4), 0.0)
    assert (run.first_token_s, run.decode_s, run.num_later) == (0.5, 1.0, 2)


def test_a_model_that_was_not_fetched_says_how_to(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="zonda pull smollm2-135m"):
        find_model(Config(cache_dir=tmp_path))


@pytest.mark.parametrize("vocab_size", [2, 501, 49_152])
def test_random_prompts_stay_inside_the_vocabulary(vocab_size: int) -> None:
    prompt = random_prompt(200, vocab_size)
    assert len(prompt) == 200
    assert 0 <= min(prompt) <= max(prompt) < vocab_size
