"""Runs a model with torch: owns its weights and its KV pages, on a CPU or a GPU."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from runtime import kernels
from runtime.engine.decode_graphs import DecodeGraphs, capture_cuda, is_decode
from runtime.engine.engine import DrawnTokens
from runtime.kernels import ForwardBatch, SamplingBatch
from runtime.models.config import ModelConfig
from runtime.models.decoder import Decoder
from runtime.weights.checkpoint import Checkpoint
from runtime.weights.fused import read_tensors

logger = logging.getLogger(__name__)

PAGE_SIZE = 16
"""Tokens of a KV page."""

SMALL_STEP = 16
"""Steps of so few tokens run on one thread: torch's others spin between its short operators,
and where another process is busy too, every one of those waits for its turn."""

_Batch = TypeVar("_Batch", ForwardBatch, SamplingBatch)


class TorchWeights:
    """Dequantises a checkpoint's tensors to `dtype` on `device`."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        self._checkpoint = checkpoint
        self._names = frozenset(checkpoint.names)
        self._device = device
        self._dtype = dtype
        self.num_bytes = 0

    def has(self, name: str) -> bool:
        return name in self._names

    def load(self, *names: str, shape: tuple[int, ...]) -> torch.Tensor:
        fused = read_tensors(self._checkpoint, names, shape)
        tensor = torch.from_numpy(fused).to(self._device, self._dtype)
        self.num_bytes += tensor.nbytes
        return tensor

    def read(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        return read_tensors(self._checkpoint, (name,), shape)

    def constant(self, values: npt.NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(values).to(self._device)


def free_cuda_memory() -> int | None:
    """Free bytes of the first GPU; None where there is none."""
    if not torch.cuda.is_available():
        return None
    free_bytes: int = torch.cuda.mem_get_info()[0]
    return free_bytes


class TorchRunner:
    """One model and its KV pages.

    float32 on a CPU, so that greedy tokens do not depend on the shape of the batch but for
    exact ties; bfloat16 on a GPU. Its pages are not copied: sums depend on the shape, so pages
    of another process could differ from those that this one would compute.
    """

    page_memory = None

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        context_length: int,
        kv_cache_bytes: int,
        device: str = "auto",
        threads: int = 0,
    ) -> None:
        """Load the weights; positions reach to `context_length`.

        Raises:
            ModelFileError: the checkpoint is damaged or of a kind we don't run.
        """
        self._threads = threads or torch.get_num_threads()
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(device)
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        config = ModelConfig.from_checkpoint(checkpoint)
        self.vocab_size = config.vocab_size
        self.hidden_size = config.hidden_size
        self.page_size = PAGE_SIZE
        page_bytes = 2 * PAGE_SIZE * config.num_kv_heads * config.head_dim * dtype.itemsize
        self.num_pages = max(1, kv_cache_bytes // (page_bytes * config.num_layers))
        self.identity = f"{config} {dtype}"
        weights = TorchWeights(checkpoint, self._device, dtype)
        with torch.inference_mode():
            self._model = Decoder(config, weights, context_length)
            # One page more than the engine knows of, for the padding of captured steps.
            shape = (2, self.num_pages + 1, PAGE_SIZE, config.num_kv_heads, config.head_dim)
            self._kv_pages = [self._zeros(shape, dtype) for _ in range(config.num_layers)]
        self.device = device
        self.weight_bytes = weights.num_bytes
        self.kv_bytes = sum(pages.nbytes for pages in self._kv_pages)
        self._graphs: DecodeGraphs | None = None
        if self._device.type == "cuda":
            self._graphs = DecodeGraphs(
                self._forward, capture_cuda, page_size=PAGE_SIZE, spare_page=self.num_pages
            )
        logger.info(
            "%s on %s in %s, %d KV pages of %d tokens",
            config.architecture,
            self._device,
            dtype,
            self.num_pages,
            PAGE_SIZE,
        )

    def run(self, batch: ForwardBatch, sampling: SamplingBatch) -> DrawnTokens:
        """Run one step and wait for its tokens."""
        torch.set_num_threads(self._threads if len(batch.token_ids) > SMALL_STEP else 1)
        with torch.inference_mode():
            logits = self._run_model(self._to_device(batch))
            results = kernels.sample_tokens(logits, self._to_device(sampling))
            arrays: list[Any] = [None if one is None else one.cpu().numpy() for one in results]
            return DrawnTokens(*arrays)

    def hidden_states(self, batch: ForwardBatch) -> npt.NDArray[np.float32]:
        """Run the layers alone; see `embedding.HiddenRunner`."""
        torch.set_num_threads(self._threads if len(batch.token_ids) > SMALL_STEP else 1)
        with torch.inference_mode():
            hidden = self._model.hidden_states(self._to_device(batch), self._kv_pages)
            states: npt.NDArray[np.float32] = hidden.float().cpu().numpy()
            return states

    def _forward(self, batch: ForwardBatch) -> torch.Tensor:
        logits: torch.Tensor = self._model(batch, self._kv_pages)
        return logits

    def _run_model(self, batch: ForwardBatch) -> torch.Tensor:
        if self._graphs is not None and is_decode(batch):
            try:
                return self._graphs.run(batch)
            except RuntimeError:
                logger.exception("decode steps cannot be captured; they are launched one by one")
                self._graphs = None
        return self._forward(batch)

    def _zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if self._device.type == "cpu":  # calloc: pages cost memory only once they are used
            return torch.from_numpy(np.zeros(shape, np.float32))
        return torch.zeros(shape, dtype=dtype, device=self._device)

    def _to_device(self, batch: _Batch) -> _Batch:
        arrays = {item.name: getattr(batch, item.name) for item in fields(batch)}
        return replace(
            batch,
            **{
                name: torch.from_numpy(array).to(self._device)
                for name, array in arrays.items()
                if array is not None
            },
        )
