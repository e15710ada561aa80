"""Runs a model on the CPU: recorded once over planned buffers, replayed in C++ every step."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime import kernels
from runtime.engine.cpu_pages import CpuPages
from runtime.engine.cpu_weights import CpuWeights
from runtime.engine.engine import DrawnTokens
from runtime.kernels import ForwardBatch, SamplingBatch
from runtime.kernels.cpu.lazy_memory import reserve_memory
from runtime.kernels.cpu.native import Pool, Program, load_library, supported_variants
from runtime.kernels.cpu.recorder import Limits, Recorder, Recording
from runtime.kernels.cpu.structs import MAX_TOP, Batch, KvType, make_batch
from runtime.kernels.cpu.values import KvPages
from runtime.models.config import ModelConfig
from runtime.models.decoder import Decoder
from runtime.weights.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

PAGE_SIZE = 16
"""Tokens of a KV page: as many as the kernels' vectors have lanes."""


def kv_bytes_per_token(config: ModelConfig, kv_type: KvType) -> int:
    """Bytes of keys and values that a token takes in all layers."""
    page_bytes: int = load_library().zonda_kv_page_bytes(
        kv_type, config.num_kv_heads, config.head_dim
    )
    return page_bytes * config.num_layers // PAGE_SIZE


def _num_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class _Step:
    """A step's arrays and where C++ finds them; the next step of the same arrays needs no other.

    The engine reads `drawn` before it runs the next step.
    """

    batch: ForwardBatch
    sampling: SamplingBatch
    drawn: DrawnTokens
    arrays: Batch


@dataclass(frozen=True, slots=True)
class _HiddenProgram:
    """The layers as a program of their own, and where it leaves the states of a step."""

    recording: Recording
    program: Program
    states: npt.NDArray[np.float32]


class CpuRunner:
    """One model, its program and its KV pages.

    A token's numbers are the same to the last bit whatever else is in its step.

    Attributes:
        step_ns: nanoseconds inside C++ of all steps so far.
        device: "cpu".
        weight_bytes: memory of the packed weights; processes may share it.
        kv_bytes: memory of the KV pages; none is taken before a page is used.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        limits: Limits,
        kv_cache_bytes: int,
        kv_type: KvType = KvType.INT8,
        threads: int = 0,
        packed_folder: Path | None = None,
        stamp: str = "",
        variant: str | None = None,
    ) -> None:
        """Pack or map the weights and record the model.

        Args:
            checkpoint: is not needed any more afterwards.
            limits: most tokens and sequences of a step, and positions.
            kv_cache_bytes: memory for KV pages; one page at least.
            kv_type: number format of keys and values.
            threads: CPU threads; 0 takes one per core.
            packed_folder: where packed weights are kept for the next start; None keeps none.
            stamp: changes when the checkpoint's file does.
            variant: instruction set; the best that this machine has where None.

        Raises:
            ModelFileError: the checkpoint is damaged or of a kind we don't run.
            BackendError: the library or the threads could not be had.
        """
        config = ModelConfig.from_checkpoint(checkpoint)
        self._pool = Pool(threads or _num_cores())
        self._limits = limits
        self.vocab_size = config.vocab_size
        self.hidden_size = config.hidden_size
        self.page_size = PAGE_SIZE
        self.num_pages = max(1, kv_cache_bytes // (PAGE_SIZE * kv_bytes_per_token(config, kv_type)))
        self.identity = f"{config} {kv_type.name}"
        self.device = "cpu"
        self.step_ns = 0
        self._last: _Step | None = None
        weights = CpuWeights(checkpoint, self._pool.num_threads)
        model = Decoder(config, weights, limits.context_length)
        self._weights = weights.pack(packed_folder, stamp)
        self.weight_bytes = len(self._weights)
        self._kv_pages = self._make_pages(config, kv_type)
        self.kv_bytes = self.num_pages * PAGE_SIZE * kv_bytes_per_token(config, kv_type)
        self.page_memory = CpuPages(self._kv_pages, self._weights, f"{self.identity} {stamp}")
        recorder = Recorder(limits)
        sampling = recorder.sampling_batch()
        logits = model(recorder.forward_batch(), self._kv_pages, sampling)
        kernels.sample_tokens(logits, sampling)
        self._recording = recorder.finish()
        self._model = model  # its constants are what the program points at
        self._variant = variant
        self._hidden: _HiddenProgram | None = None
        self._program = Program(
            self._recording.ops,
            first_row_op=self._recording.first_row_op,
            row_block=limits.row_block,
            variant=variant,
        )
        logger.info(
            "%s on the CPU (%s, %d threads), %d MiB of packed weights, %d KV pages in %s",
            config.architecture,
            variant or supported_variants()[0],
            self._pool.num_threads,
            len(self._weights) >> 20,
            self.num_pages,
            kv_type.name.lower(),
        )

    def run(self, batch: ForwardBatch, sampling: SamplingBatch) -> DrawnTokens:
        """Run one step and wait for its tokens."""
        step = self._last
        if step is None or step.batch is not batch or step.sampling is not sampling:
            step = self._last = self._prepare(batch, sampling)
        self.step_ns += self._program.run(self._pool, step.arrays)
        return step.drawn

    def hidden_states(self, batch: ForwardBatch) -> npt.NDArray[np.float32]:
        """Run the layers alone; see `embedding.HiddenRunner`. Recorded when first asked for."""
        if self._hidden is None:
            self._hidden = self._record_hidden()
        drawn = np.empty(0, np.int64), np.empty(0, np.float32)
        self.step_ns += self._hidden.program.run(self._pool, make_batch(batch, None, *drawn))
        return self._hidden.states[: len(batch.token_ids)].copy()

    def _record_hidden(self) -> _HiddenProgram:
        recorder = Recorder(self._limits)
        states = self._model.hidden_states(recorder.forward_batch(), self._kv_pages)
        recording = recorder.finish()
        program = Program(
            recording.ops,
            first_row_op=recording.first_row_op,
            row_block=self._limits.row_block,
            variant=self._variant,
        )
        shape = (self._limits.max_tokens, self.hidden_size)
        start = states.address - recording.arena.ctypes.data
        rows = recording.arena[start : start + 4 * shape[0] * shape[1]]
        return _HiddenProgram(recording, program, rows.view(np.float32).reshape(shape))

    def _prepare(self, batch: ForwardBatch, sampling: SamplingBatch) -> _Step:
        num_rows = len(batch.logits_rows)
        drawn = DrawnTokens(np.empty(num_rows, np.int64), np.empty(num_rows, np.float32))
        top = None
        if sampling.num_top is not None:
            shape = num_rows, MAX_TOP
            top = np.empty(shape, np.int64), np.empty(shape, np.float32)
            drawn = DrawnTokens(drawn.token_ids, drawn.logprobs, *top)
        assert len(batch.token_ids) <= self._limits.max_tokens
        assert len(batch.seq_lens) <= self._limits.max_sequences
        arrays = make_batch(batch, sampling, drawn.token_ids, drawn.logprobs, top)
        return _Step(batch, sampling, drawn, arrays)

    def _make_pages(self, config: ModelConfig, kv_type: KvType) -> list[KvPages]:
        shape = (2, self.num_pages, PAGE_SIZE, config.num_kv_heads, config.head_dim)
        page_bytes: int = load_library().zonda_kv_page_bytes(
            kv_type, config.num_kv_heads, config.head_dim
        )
        memory = reserve_memory(config.num_layers * self.num_pages * page_bytes)
        memory = memory.reshape(config.num_layers, -1)
        return [KvPages(shape, kv_type, layer) for layer in memory]
