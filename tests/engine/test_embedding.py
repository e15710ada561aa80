"""Vectors of texts: against transformers, however the work is cut, and beside other work."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import numpy as np
import pytest
import torch

from runtime.config import Config
from runtime.engine.async_engine import ThreadedEngine
from runtime.engine.cpu_runner import CpuRunner
from runtime.engine.embedding import Vectors
from runtime.engine.engine import Engine, EngineLimits, Runner
from runtime.engine.loading import load_runner
from runtime.engine.torch_runner import TorchRunner
from runtime.errors import PromptTooLongError
from runtime.kernels.cpu.recorder import Limits
from runtime.kernels.cpu.structs import KvType
from runtime.request import GenerateRequest, SamplingParams
from runtime.tokenizer import load_tokenizer
from runtime.weights import open_checkpoint
from tests.engine.test_engine import generate
from tests.helpers.page_runner import LetterDecoder, PageRunner
from tests.helpers.tiny_gguf import write_tiny_llama
from tools.errors import InvalidRequestError

LENGTHS = (1, 3, 15, 16, 17, 40, 2, 33, 100, 5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def make_texts(lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    numbers = np.random.default_rng(7)
    return [numbers.integers(3, 500, length).tolist() for length in lengths]


def make_engine(runner: Runner, **limits: int) -> Engine:
    settings = EngineLimits(**{"context_length": 128, **limits})
    return Engine(runner, settings, decoder=LetterDecoder, stop_ids=frozenset({2}))


def cpu_engine(
    path: Path, *, kv_type: KvType = KvType.BF16, num_pages: int = 64, **limits: int
) -> Engine:
    most = limits.get("max_step_tokens", 512)
    runner = CpuRunner(
        open_checkpoint(path),
        limits=Limits(most, limits.get("max_sequences", 64), 128),
        kv_cache_bytes=1 << 20,
        kv_type=kv_type,
        threads=1,
    )
    runner.num_pages = min(num_pages, runner.num_pages)
    return make_engine(runner, **limits)


def torch_engine(path: Path) -> Engine:
    checkpoint = open_checkpoint(path)
    return make_engine(
        TorchRunner(checkpoint, context_length=128, kv_cache_bytes=1 << 20, device="cpu")
    )


def embed(engine: Engine, texts: Sequence[Sequence[int]]) -> Vectors:
    """Take all turns; no page is kept."""
    turns = engine.embed(texts)
    while True:
        try:
            next(turns)
        except StopIteration as stop:
            assert engine.pool.num_free == engine.pool.num_pages
            vectors: Vectors = stop.value
            return vectors


def cosines(ours: Vectors, theirs: Any) -> Any:
    return (np.asarray(ours, np.float64) * np.asarray(theirs, np.float64)).sum(axis=1)


def test_cpu_kernels_agree_with_the_torch_reference(tiny: Path) -> None:
    texts = make_texts()
    wanted = embed(torch_engine(tiny), texts)
    for kv_type in (KvType.BF16, KvType.INT8):
        vectors = embed(cpu_engine(tiny, kv_type=kv_type), texts)
        assert cosines(vectors, wanted).min() > 0.999
    assert cosines(wanted[1:], wanted[:-1]).max() < 0.99  # neighbours would have failed


@pytest.mark.slow
def test_vectors_are_the_mean_last_hidden_states_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path = write_tiny_llama(tmp_path / "tiny.gguf", seed=5, num_kv_heads=1)
    peer = transformers.AutoModel.from_pretrained(
        tmp_path,
        gguf_file=path.name,
        dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    texts = make_texts()
    with torch.inference_mode():
        means = [peer(torch.tensor([text])).last_hidden_state[0].mean(0) for text in texts]
    wanted = torch.nn.functional.normalize(torch.stack(means)).numpy()
    assert np.abs(embed(torch_engine(path), texts) - wanted).max() < 1e-5
    assert cosines(embed(cpu_engine(path), texts), wanted).min() > 0.999


def test_vectors_do_not_depend_on_how_the_work_is_cut(tiny: Path) -> None:
    texts = make_texts()
    wanted = embed(cpu_engine(tiny), texts)
    for engine in (
        cpu_engine(tiny, max_step_tokens=7),
        cpu_engine(tiny, max_sequences=1),
        cpu_engine(tiny, num_pages=8),
    ):
        assert np.abs(embed(engine, texts) - wanted).max() < 1e-6
    alone = np.concatenate([embed(cpu_engine(tiny), [text]) for text in texts])
    assert (alone == wanted).all()


def test_vectors_are_computed_between_the_steps_of_others(tiny: Path) -> None:
    texts = make_texts()
    engine = cpu_engine(tiny)
    request = GenerateRequest(tuple(texts[4]), SamplingParams(max_tokens=24))
    engine.add(request)
    tokens = []
    while engine.has_work:
        tokens += [token for chunk in engine.step().values() for token in chunk.token_ids]
    wanted = embed(engine, texts)
    engine.add(request)
    again: list[int] = []
    turns = engine.embed(texts)
    found: list[Vectors] = []
    while engine.scheduler.has_work or not found:
        again += [token for chunk in engine.step().values() for token in chunk.token_ids]
        try:
            if not found:
                next(turns)
        except StopIteration as stop:
            found.append(stop.value)
    assert again == tokens
    assert np.abs(found[0] - wanted).max() < 1e-6
    assert engine.pool.num_free == engine.pool.num_pages


def test_a_closed_computation_gives_its_pages_back(tiny: Path) -> None:
    engine = cpu_engine(tiny, max_step_tokens=7)
    for num_turns in range(12):
        turns = engine.embed(make_texts())
        for _ in itertools.islice(turns, num_turns):
            pass
        turns.close()
        assert engine.pool.num_free == engine.pool.num_pages


@pytest.mark.parametrize("texts", [[[]], [[5], [-1]], [[501]]])
def test_a_text_of_no_tokens_or_foreign_ones_is_refused(tiny: Path, texts: list[list[int]]) -> None:
    with pytest.raises(InvalidRequestError, match="must be one or more token ids"):
        cpu_engine(tiny).embed(texts)


def test_a_text_beyond_the_context_is_refused(tiny: Path) -> None:
    with pytest.raises(PromptTooLongError, match="text 1 has 129 tokens, the context holds 128"):
        cpu_engine(tiny).embed([[5], [5] * 129])


def test_a_runner_without_hidden_states_gives_no_vectors() -> None:
    engine = make_engine(PageRunner(num_pages=8))
    assert not engine.can_embed
    with pytest.raises(InvalidRequestError, match="this model gives no vectors"):
        engine.embed([[5]])


@pytest.mark.anyio
async def test_a_cancelled_caller_stops_the_work_and_others_go_on(tiny: Path) -> None:
    checkpoint = open_checkpoint(tiny)
    tokenizer = load_tokenizer(checkpoint.metadata)
    config = Config(kv_cache_mib=1, threads=1, device="cpu", max_step_tokens=8)
    runner, limits = load_runner(checkpoint, config)
    engine = Engine(runner, limits, decoder=tokenizer.decoder, stop_ids=tokenizer.stop_ids)
    threaded = ThreadedEngine(engine)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            await tasks.start(threaded.run)
            async with anyio.create_task_group() as group:
                group.start_soon(threaded.embed, make_texts([100] * 200))
                while engine.pool.num_free == engine.pool.num_pages:
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            vectors = await threaded.embed([[5, 6, 7]])
            assert engine.pool.num_free == engine.pool.num_pages
            await threaded.aclose()
    assert vectors.shape == (1, 64)


def test_texts_and_sequences_get_on_where_pages_are_few(tiny: Path) -> None:
    """Seven pages a text, nine a sequence, twelve in all: they have to wait for one another."""
    texts = make_texts([100, 90, 3, 100, 64])
    requests = [
        GenerateRequest(tuple(text), SamplingParams(max_tokens=24))
        for text in make_texts([100, 80])
    ]
    roomy = cpu_engine(tiny)
    alone = [result.token_ids for result in generate(roomy, *requests)]
    wanted = embed(roomy, texts)
    engine = cpu_engine(tiny, num_pages=12)
    ids = [engine.add(request) for request in requests]
    tokens: dict[int, list[int]] = {sequence_id: [] for sequence_id in ids}
    turns, found = engine.embed(texts), list[Vectors]()
    for _ in range(1000):
        for sequence_id, chunk in engine.step().items():
            tokens[sequence_id] += chunk.token_ids
        try:
            if not found:
                next(turns)
        except StopIteration as stop:
            found.append(stop.value)
        if found and not engine.scheduler.has_work:
            break
    assert list(tokens.values()) == alone
    assert np.abs(found[0] - wanted).max() < 1e-6
    assert engine.pool.num_free == engine.pool.num_pages
