"""The torch runner on a tiny checkpoint: equal tokens however the work is cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.engine.engine import Engine, EngineLimits
from runtime.engine.torch_runner import TorchRunner, TorchWeights
from runtime.errors import ModelFileError
from runtime.request import GenerateRequest, SamplingParams
from runtime.weights import open_checkpoint
from tests.engine.test_engine import generate
from tests.helpers.logits import forward
from tests.helpers.page_runner import LetterDecoder
from tests.helpers.tiny_gguf import write_tiny_llama


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def make_runner(path: Path, *, num_pages: int = 200) -> TorchRunner:
    page_bytes = 2 * 16 * 2 * 16 * 4 * 2  # both of K and V, slots, heads, dimension, float, layers
    return TorchRunner(
        open_checkpoint(path),
        context_length=512,
        kv_cache_bytes=num_pages * page_bytes,
        threads=1,
        device="cpu",
    )


def make_engine(path: Path, num_pages: int = 200, **limits: int) -> Engine:
    runner = make_runner(path, num_pages=num_pages)
    assert runner.num_pages == num_pages
    return Engine(
        runner,
        EngineLimits(context_length=512, **limits),
        decoder=LetterDecoder,
        stop_ids=frozenset(),
    )


def prompts(count: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(3)
    shared = rng.integers(0, 500, 37).tolist()
    return [
        (*(shared if n % 2 else ()), *rng.integers(0, 500, int(rng.integers(1, 60))).tolist())
        for n in range(count)
    ]


def test_greedy_tokens_are_equal_alone_batched_chunked_preempted_and_prefix_cached(
    tiny: Path,
) -> None:
    sampling = SamplingParams(max_tokens=24)
    requests = [GenerateRequest(prompt, sampling) for prompt in prompts(32)]
    alone_engine = make_engine(tiny)
    alone = [generate(alone_engine, one)[0].token_ids for one in requests]
    for engine in (
        make_engine(tiny),
        make_engine(tiny, max_step_tokens=7),
        make_engine(tiny, num_pages=32),
        alone_engine,
    ):
        assert [result.token_ids for result in generate(engine, *requests)] == alone
    preempting = make_engine(tiny, num_pages=24)
    assert [result.token_ids for result in generate(preempting, *requests)] == alone
    assert preempting.scheduler.num_preemptions > 0


def test_seeded_draws_are_equal_alone_and_in_a_batch(tiny: Path) -> None:
    requests = [
        GenerateRequest(prompt, SamplingParams(max_tokens=16, temperature=0.9, seed=n))
        for n, prompt in enumerate(prompts(8))
    ]
    alone = [generate(make_engine(tiny), one)[0].token_ids for one in requests]
    together = [result.token_ids for result in generate(make_engine(tiny), *requests)]
    assert together == alone
    assert len({tuple(token_ids) for token_ids in alone}) == 8


def test_penalised_tokens_are_fewer_and_equal_alone_and_in_a_batch(tiny: Path) -> None:
    def texts(engine: Engine, *requests: GenerateRequest) -> list[list[int]]:
        return [result.token_ids for result in generate(engine, *requests)]

    plain = SamplingParams(max_tokens=40)
    penalised = SamplingParams(
        max_tokens=40, repetition_penalty=1.3, presence_penalty=1.0, frequency_penalty=0.5
    )
    requests = [
        GenerateRequest(prompt, penalised if n % 2 else plain)
        for n, prompt in enumerate(prompts(8))
    ]
    alone = [texts(make_engine(tiny), one)[0] for one in requests]
    assert texts(make_engine(tiny), *requests) == alone
    preempting = make_engine(tiny, num_pages=12)
    assert texts(preempting, *requests) == alone
    assert preempting.scheduler.num_preemptions > 0
    num_distinct = [len(set(token_ids)) for token_ids in alone]
    assert sum(num_distinct[1::2]) > sum(num_distinct[::2])


def test_scores_are_the_log_probabilities_of_a_dense_forward_pass(tiny: Path) -> None:
    prompt = prompts(2)[1]
    logits = forward(make_runner(tiny), prompt)
    wanted = logits.log_softmax(-1)[torch.arange(len(prompt) - 1), torch.tensor(prompt[1:])]
    request = GenerateRequest(prompt, SamplingParams(max_tokens=0), len(prompt) - 1)
    for engine in (make_engine(tiny), make_engine(tiny, max_step_tokens=5)):
        (result,) = generate(engine, request)
        assert result.last is not None
        assert result.last.logprobs == pytest.approx(wanted.tolist(), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_logits_agree_with_transformers(tmp_path: Path, tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    path = write_tiny_llama(tmp_path / "tiny.gguf", seed=5, tied=tied, num_kv_heads=1)
    peer = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path,
        gguf_file=path.name,
        dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    (token_ids,) = prompts(1)
    with torch.inference_mode():
        wanted = peer(torch.tensor([token_ids])).logits[0]
    runner = TorchRunner(
        open_checkpoint(path), context_length=512, kv_cache_bytes=1 << 20, device="cpu"
    )
    assert (forward(runner, token_ids) - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_missing_and_misfit_tensors_are_named(tiny: Path) -> None:
    weights = TorchWeights(open_checkpoint(tiny), torch.device("cpu"), torch.float32)
    with pytest.raises(ModelFileError, match=r"has no tensor 'layers\.9\.q_proj\.weight'"):
        weights.load("layers.9.q_proj.weight", shape=(64, 64))
    names = ("layers.0.q_proj.weight", "layers.0.down_proj.weight")
    with pytest.raises(
        ModelFileError,
        match=r"wanted the shape \(128, 64\) in all, found \[\(64, 64\), \(64, 128\)",
    ):
        weights.load(*names, shape=(128, 64))
    with pytest.raises(ModelFileError, match=r"wanted the shape \(65,\) in all, found \[\(64,\)"):
        weights.read("norm.weight", (65,))
