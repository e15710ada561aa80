"""A whole recorded model: the same bits from every instruction set and number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from runtime import kernels
from runtime.engine.cpu_weights import CpuWeights
from runtime.kernels import ForwardBatch, SamplingBatch
from runtime.kernels.cpu.native import load_library
from runtime.kernels.cpu.recorder import Buffer, Limits, Recorder, Recording
from runtime.kernels.cpu.structs import KvType, OpKind, make_batch
from runtime.kernels.cpu.values import Constant, KvPages
from runtime.models.config import ModelConfig
from runtime.models.decoder import Decoder
from runtime.weights import open_checkpoint
from tests.helpers.cpu_ops import Ints, Results, arrays_of, nans, run_program, supported_variants
from tests.helpers.tiny_gguf import write_tiny_llama
from tests.kernels.cpu.test_sampling import mask_of

PAGE_SIZE, NUM_PAGES = 16, 40
LIMITS = Limits(max_tokens=320, max_sequences=4, context_length=320, row_block=2)
TABLES: Ints = np.random.default_rng(0).permutation(NUM_PAGES).reshape(2, 20)

Part = tuple[int, int, int]
"""A sequence and its first and last token (exclusive) that a step computes."""


class ConstantsRecorder(Recorder):
    """Keeps the constants that operators point at."""

    def __init__(self) -> None:
        super().__init__(LIMITS)
        self.constants: list[npt.NDArray[np.float32]] = []

    def record(self, kind: Any, domain: Any, operands: Any, *rest: Any, **numbers: Any) -> None:
        super().record(kind, domain, operands, *rest, **numbers)
        self.constants += [item.values for item in operands if isinstance(item, Constant)]


class Model(NamedTuple):
    """A recorded model with empty pages, and everything that it points at."""

    recording: Recording
    kv_memory: npt.NDArray[np.uint8]
    memory: Sequence[npt.NDArray[Any]]


def record_model(path: Path, kv_type: KvType, *, has_whole_head: bool = False) -> Model:
    checkpoint = open_checkpoint(path)
    config = ModelConfig.from_checkpoint(checkpoint)
    weights = CpuWeights(checkpoint, 1)
    decoder = Decoder(config, weights, LIMITS.context_length)
    packed = weights.pack(None, "")
    heads = (config.num_kv_heads, config.head_dim)
    page_bytes = load_library().zonda_kv_page_bytes(kv_type, *heads)
    kv_memory = np.zeros((config.num_layers, NUM_PAGES * page_bytes), np.uint8)
    shape = (2, NUM_PAGES, PAGE_SIZE, *heads)
    recorder = ConstantsRecorder()
    pages = [KvPages(shape, kv_type, layer) for layer in kv_memory]
    sampling = recorder.sampling_batch()
    looked_at_by = None if has_whole_head else sampling
    logits: Buffer = decoder(recorder.forward_batch(), pages, looked_at_by)
    kernels.sample_tokens(logits, sampling)
    recording = recorder.finish()
    memory = [recording.arena, packed, kv_memory, *recorder.constants]
    return Model(recording, kv_memory, memory)


def batch_of(parts: Sequence[Part]) -> ForwardBatch:
    """Any tokens; a logits row for each part's last ones."""
    positions = np.concatenate([np.arange(start, end) for _, start, end in parts])
    pages = [TABLES[sequence, np.arange(start, end) // 16] for sequence, start, end in parts]
    ends = np.cumsum([end - start for _, start, end in parts])
    return ForwardBatch(
        positions * 7 % 500,
        positions,
        np.concatenate(pages) * PAGE_SIZE + positions % PAGE_SIZE,
        np.r_[0, ends],
        np.array([end for _, _, end in parts]),
        TABLES[[sequence for sequence, _, _ in parts]],
        np.unique(np.r_[ends - 1, np.maximum(ends - 3, 0)]),
    )


def sampling_of(num_rows: int) -> SamplingBatch:
    """Greedy, scored and drawn rows."""
    row = np.arange(num_rows)
    return SamplingBatch(
        targets=np.where(row % 3 == 1, 5, -1),
        temperature=np.where(row % 3, 1, 0).astype(np.float32),
        top_k=np.full(num_rows, 50),
        top_p=np.full(num_rows, 0.9, np.float32),
        min_p=np.zeros(num_rows, np.float32),
        uniform=np.random.default_rng(1).random(num_rows, np.float32),
        token_bitmask=None,
    )


def run_step(
    model: Model,
    parts: Sequence[Part],
    variant: str,
    num_threads: int,
    *,
    legal_share: float | None = None,
) -> Results:
    """Run a step; `legal_share` of the tokens are legal, all where None."""
    batch = batch_of(parts)
    sampling = sampling_of(len(batch.logits_rows))
    if legal_share is not None:
        legal = np.random.default_rng(2).random((len(batch.logits_rows), 501)) < legal_share
        sampling = replace(sampling, token_bitmask=mask_of(legal))
    drawn, logprobs = np.full(len(batch.logits_rows), -1), nans(len(batch.logits_rows))
    run_program(
        model.recording.ops,
        make_batch(batch, sampling, drawn, logprobs),
        [*model.memory, *arrays_of(batch), *arrays_of(sampling), drawn, logprobs],
        first_row_op=model.recording.first_row_op,
        row_block=LIMITS.row_block,
        variant=variant,
        num_threads=num_threads,
    )
    return drawn, logprobs


@pytest.mark.parametrize("kv_type", KvType)
def test_tokens_logprobs_and_pages_are_the_same_bits_from_all(
    tmp_path: Path, kv_type: KvType
) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", num_kv_heads=2)
    steps: list[list[Part]] = [
        [(0, 0, 290)],
        [(0, 290, 291), (1, 0, 37)],
        [(0, 291, 292), (1, 37, 38)],
    ]

    def run_all(variant: str, num_threads: int) -> list[npt.NDArray[Any]]:
        model = record_model(path, kv_type)
        results = [run_step(model, parts, variant, num_threads) for parts in steps]
        assert model.kv_memory.any(1).all()
        return [*(array for result in results for array in result), model.kv_memory]

    wanted = run_all("scalar", 1)
    for variant in supported_variants():
        for num_threads in (1, 2):
            found = run_all(variant, num_threads)
            assert all(map(np.array_equal, found, wanted))


@pytest.mark.parametrize("tied", [True, False])
def test_masked_steps_are_the_same_bits_from_the_reduced_and_the_whole_head(
    tmp_path: Path, tied: bool
) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", tied=tied)
    reduced = record_model(path, KvType.INT8)
    whole = record_model(path, KvType.INT8, has_whole_head=True)
    assert reduced.recording.ops[-2].kind == OpKind.OUTPUT_LOGITS
    assert whole.recording.ops[-2].kind == OpKind.LINEAR
    parts = [(0, 0, 90), (1, 0, 37)]
    for variant in supported_variants():
        for legal_share in (0.005, 0.3, 1.0):
            reduced.recording.arena[:] = 0xFF  # NaN wherever nothing is written
            found = run_step(reduced, parts, variant, 2, legal_share=legal_share)
            wanted = run_step(whole, parts, variant, 2, legal_share=legal_share)
            assert np.array_equal(found[0], wanted[0])
            assert np.array_equal(found[1], wanted[1])
