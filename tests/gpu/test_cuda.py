"""The torch runner on a CUDA device: equal tokens however the work is cut, and how fast.

`make test-gpu` runs this where there is a GPU, and fails where there is none.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import torch

from runtime.engine.engine import Engine, EngineLimits
from runtime.engine.torch_runner import TorchRunner
from runtime.grammar.compile import compile_grammar, from_json_schema
from runtime.request import GenerateRequest, SamplingParams, TokenChunk
from runtime.tokenizer import load_tokenizer
from runtime.weights import open_checkpoint
from tests.engine.test_embedding import embed
from tests.engine.test_engine import Collected, drain, generate
from tests.engine.test_torch_runner import prompts
from tests.helpers.page_runner import LetterDecoder
from tests.helpers.tiny_gguf import write_tiny_llama
from tests.helpers.vocabularies import vocabulary_of
from tools.spec import JsonObject
from tools.validation import first_problem

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


ORDER: JsonObject = {
    "type": "object",
    "properties": {
        "item": {"type": "string", "maxLength": 12},
        "quantity": {"type": "integer", "minimum": 1, "maximum": 99},
        "delivery": {"enum": ["standard", "express", "pickup"]},
    },
    "required": ["item", "quantity", "delivery"],
    "additionalProperties": False,
}


def make_engine(path: Path, stop_ids: frozenset[int] = frozenset(), **limits: int) -> Engine:
    runner = TorchRunner(
        open_checkpoint(path), context_length=2048, kv_cache_bytes=1 << 28, device="cuda"
    )
    return Engine(
        runner,
        EngineLimits(context_length=2048, **limits),
        decoder=LetterDecoder,
        stop_ids=stop_ids,
    )


def test_captured_steps_give_the_tokens_of_launched_ones(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", context_length=2048)
    requests = [GenerateRequest(prompt, SamplingParams(max_tokens=24)) for prompt in prompts(16)]
    captured = make_engine(path)
    launched = make_engine(path)
    runner = launched._runner
    assert isinstance(runner, TorchRunner)
    runner._graphs = None
    found = [result.token_ids for result in generate(captured, *requests)]
    wanted = [result.token_ids for result in generate(launched, *requests)]
    same = sum(a == b for a, b in zip(found, wanted, strict=True))
    assert same >= 15  # bfloat16 sums depend on the padding: a tie may fall the other way


def test_vectors_are_those_of_float32_but_for_rounding(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", context_length=2048)
    texts = [list(prompt) for prompt in prompts(8)]
    reference = Engine(
        TorchRunner(
            open_checkpoint(path), context_length=2048, kv_cache_bytes=1 << 26, device="cpu"
        ),
        EngineLimits(context_length=2048),
        decoder=LetterDecoder,
        stop_ids=frozenset(),
    )
    wanted = embed(reference, texts)
    for max_step_tokens in (512, 7):
        vectors = embed(make_engine(path, max_step_tokens=max_step_tokens), texts)
        assert (vectors * wanted).sum(axis=1).min() > 0.995


def test_each_token_comes_with_its_score_and_those_of_the_likeliest(tmp_path: Path) -> None:
    engine = make_engine(write_tiny_llama(tmp_path / "tiny.gguf", context_length=2048))
    sampling = SamplingParams(max_tokens=24, top_logprobs=3)
    for prompt in prompts(8):
        engine.add(GenerateRequest(prompt, sampling))
    chunks: list[TokenChunk] = []
    while engine.has_work:
        chunks += engine.step().values()
    for chunk in chunks:
        assert [score.token_id for score in chunk.scores] == list(chunk.token_ids)
        for score in chunk.scores:  # greedy: the first of the likeliest is the token itself
            assert (score.top[0][0], len(score.top)) == (score.token_id, 3)
            assert score.logprob == score.top[0][1] <= 0
    num_tokens = [len(chunk.token_ids) for chunk in chunks]
    assert sum(num_tokens) == 8 * 24


@pytest.mark.real
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_of_one_batch_satisfy_their_schema(smollm2: Path, temperature: float) -> None:
    tokenizer = load_tokenizer(open_checkpoint(smollm2).metadata)
    vocabulary = vocabulary_of(tokenizer)
    grammar = compile_grammar(from_json_schema(ORDER), vocabulary)
    engine = make_engine(smollm2, vocabulary.stop_ids)
    sampling = SamplingParams(max_tokens=96, temperature=temperature, seed=5)
    for number in range(16):
        prompt = tokenizer.encode(f"Order {number} lamps from shop {number * 31}: ")
        engine.add(GenerateRequest(tuple(prompt), sampling), grammar.constraint())
    results: dict[int, Collected] = {}
    drain(engine, results)
    assert len(results) == 16
    for result in results.values():
        assert result.last is not None
        assert result.last.finish_reason == "stop"
        assert first_problem(ORDER, json.loads(tokenizer.decode(result.token_ids[:-1]))) is None


@pytest.mark.real
def test_decode_and_prefill_beside_the_bandwidth(
    smollm2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = make_engine(smollm2)
    prompt = tuple(range(1000, 1512))
    figures = {"bandwidth": f"{_bandwidth() / 1e9:.0f} GB/s"}
    for name, length, new in (("warm-up", 512, 8), ("prefill", 512, 1), ("decode", 16, 128)):
        request = GenerateRequest(prompt[:length][::-1], SamplingParams(max_tokens=new))
        began = time.perf_counter()
        (result,) = generate(engine, request)
        took = time.perf_counter() - began
        assert len(result.token_ids) == new
        figures[name] = f"{(length if new == 1 else new) / took:.0f} tokens/s"
    with capsys.disabled():
        sys.stdout.write(f"\n{torch.cuda.get_device_name()}: {figures}\n")


def _bandwidth() -> float:
    """Bytes per second that a copy within the device's memory reads and writes."""
    source = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(10):
        target.copy_(source)
    torch.cuda.synchronize()
    return 10 * 2 * source.numel() / (time.perf_counter() - began)
