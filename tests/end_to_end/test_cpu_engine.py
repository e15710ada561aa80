"""Both real models on the C++ kernels: the same bits however the work is cut, and close enough.

Perplexity is of `tests/data/prose.txt` and the licence; the reference computes with the
dequantised weights in float32. What it says of each token is kept in `tests/data`, as
`tests/data/make_reference_logprobs.py` wrote it: computing it takes a minute a model.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from runtime.engine.cpu_runner import CpuRunner
from runtime.engine.engine import Engine, EngineLimits, Runner
from runtime.engine.torch_runner import TorchRunner
from runtime.kernels.cpu.recorder import Limits
from runtime.kernels.cpu.structs import KvType
from runtime.request import GenerateRequest, SamplingParams
from runtime.tokenizer import load_tokenizer
from runtime.weights import open_checkpoint
from tests.engine.test_engine import generate
from tests.helpers.constrained_tokens import HastyPace, check_greedy_tokens
from tests.helpers.page_runner import LetterDecoder

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

TESTS = Path(__file__).parents[1]
PROSE = (TESTS / "data" / "prose.txt").read_text("utf-8")
LICENSE = (TESTS.parent / "LICENSE").read_text("utf-8")
MAX_TOKENS = 512
MAX_LOSS = 1.005
"""Perplexity may grow by so much with each step away from float32."""


@pytest.fixture(scope="module", params=["smollm2", "gemma3"])
def model_path(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


def open_runner(path: Path, kv_type: KvType, *, threads: int = 2, num_mib: int = 128) -> CpuRunner:
    return CpuRunner(
        open_checkpoint(path),
        limits=Limits(MAX_TOKENS, 64, 2048),
        kv_cache_bytes=num_mib << 20,
        kv_type=kv_type,
        threads=threads,
    )


def make_engine(
    runner: Runner, max_step_tokens: int = MAX_TOKENS, max_draft_tokens: int = 0
) -> Engine:
    limits = EngineLimits(
        context_length=2048, max_step_tokens=max_step_tokens, max_draft_tokens=max_draft_tokens
    )
    engine = Engine(runner, limits, decoder=LetterDecoder, stop_ids=frozenset())
    engine.scheduler._pace = HastyPace(limits.max_step_s)
    return engine


def tokenize(path: Path, text: str) -> tuple[int, ...]:
    return tuple(load_tokenizer(open_checkpoint(path).metadata).encode(text))


def run(engine: Engine, requests: list[GenerateRequest]) -> list[tuple[object, object]]:
    results = generate(engine, *requests)
    return [(result.token_ids, result.last and result.last.logprobs) for result in results]


@pytest.mark.parametrize("kv_type", KvType)
def test_tokens_and_logprobs_are_bit_equal_however_the_work_is_cut(
    model_path: Path, kv_type: KvType
) -> None:
    token_ids = tokenize(model_path, PROSE)
    shared = token_ids[:70]
    prompts = [
        (*(shared if n % 2 else ()), *token_ids[start : start + length])
        for n, (start, length) in enumerate(
            ((3, 1), (90, 17), (200, 63), (300, 16), (400, 129), (150, 240), (600, 5), (700, 33))
        )
    ]
    requests = [
        GenerateRequest(
            prompt,
            SamplingParams(max_tokens=12, temperature=n % 3 * 0.5, top_p=0.9, seed=n),
            num_scored_tokens=len(prompt) // 3,
        )
        for n, prompt in enumerate(prompts)
    ]
    single = open_runner(model_path, kv_type, threads=1)
    alone = [run(make_engine(single), [request])[0] for request in requests]
    runner = open_runner(model_path, kv_type, threads=3)
    engine = make_engine(runner)
    assert run(engine, requests) == alone
    assert run(engine, requests) == alone  # from the prefix cache
    assert run(make_engine(runner, max_step_tokens=37), requests) == alone
    guessing = make_engine(runner, max_draft_tokens=16)
    assert run(guessing, requests) == alone
    assert guessing.state().tally.accepted_tokens > 0
    num_mib = math.ceil(runner.num_pages and 128 * 42 / runner.num_pages)
    few = make_engine(open_runner(model_path, kv_type, num_mib=num_mib))
    unscored = [replace(request, num_scored_tokens=0) for request in requests]
    assert [ids for ids, _ in run(few, unscored)] == [ids for ids, _ in alone]


def test_greedy_tool_calls_are_the_same_whatever_is_computed_or_forced(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_greedy_tokens(model_path, tmp_path, monkeypatch)


def score(runner: Runner, pieces: list[tuple[int, ...]]) -> npt.NDArray[np.float64]:
    """Log-probabilities of all tokens of the pieces but the first of each."""
    requests = [
        GenerateRequest(piece, SamplingParams(max_tokens=0), len(piece) - 1) for piece in pieces
    ]
    engine = make_engine(runner, max_step_tokens=128)
    scored = [run(engine, [request])[0][1] for request in requests]
    return np.concatenate([np.array(logprobs, np.float64) for logprobs in scored])


def cut(path: Path) -> list[tuple[int, ...]]:
    """The text whose perplexity counts, in pieces that fit the context."""
    token_ids = tokenize(path, PROSE + LICENSE)
    return [token_ids[start : start + 900] for start in range(0, len(token_ids), 900)]


def score_by_reference(path: Path, pieces: list[tuple[int, ...]]) -> npt.NDArray[np.float64]:
    """The same in float32, by torch."""
    runner = TorchRunner(
        open_checkpoint(path),
        context_length=2048,
        kv_cache_bytes=256 << 20,
        device="cpu",
        threads=os.cpu_count() or 1,
    )
    return score(runner, pieces)


def test_int8_costs_little_perplexity(
    model_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces = cut(model_path)
    name = request.node.callspec.params["model_path"]
    reference = np.load(TESTS / "data" / f"{name}_logprobs.npy").astype(np.float64)
    beginning = score_by_reference(model_path, [pieces[0][:129]])
    assert np.allclose(reference[:128], beginning, rtol=0, atol=2e-3), "kept for another model"
    found = {kv_type: score(open_runner(model_path, kv_type), pieces) for kv_type in KvType}
    with capsys.disabled():  # the figures of the README
        for kv_type, logprobs in found.items():
            difference = reference - logprobs
            error = difference.std() / len(difference) ** 0.5
            sys.stdout.write(
                f"\n{model_path.name}, {kv_type.name}: perplexity {np.exp(-logprobs.mean()):.3f}, "
                f"x {np.exp(difference.mean()):.4f} +- {error:.4f}, {len(logprobs)} tokens"
            )
    assert len(reference) == sum(map(len, pieces)) - len(pieces)
    losses = {kv_type: np.exp(-logprobs.mean()) for kv_type, logprobs in found.items()}
    assert losses[KvType.BF16] < MAX_LOSS * np.exp(-reference.mean())
    assert losses[KvType.INT8] < MAX_LOSS * losses[KvType.BF16]
