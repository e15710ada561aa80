"""A checkpoint onto a device: which one, how much of it, and the runner there.

torch takes seconds to import and is not needed on a CPU: nothing here imports it before it is
certain that there is a GPU.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from pathlib import Path
from typing import Protocol

from runtime.config import Config
from runtime.engine.cpu_runner import CpuRunner, kv_bytes_per_token
from runtime.engine.engine import EngineLimits, Runner
from runtime.errors import BackendError
from runtime.kernels.cpu.recorder import Limits
from runtime.kernels.cpu.structs import KvType
from runtime.memory import MemoryPlan, free_memory, plan_memory
from runtime.models.config import ModelConfig
from runtime.weights import Checkpoint

logger = logging.getLogger(__name__)

DEFAULT_CONTEXT_LENGTH = 8192
"""Most tokens of a sequence where the configuration does not say."""

_GPU_NUMBER_BYTES = 2
"""A GPU computes in bfloat16."""

_PACKED_SHARE = 1.03
"""Packed weights take at most so much of what they take in the file."""

_GPU_NODES = ("/dev/nvidiactl", "/dev/dxg")
"""Where Linux, and Windows' subsystem for it, show an NVIDIA driver."""


class LoadedRunner(Runner, Protocol):
    """A runner that says where it runs and what memory it takes, in bytes."""

    @property
    def device(self) -> str: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def kv_bytes(self) -> int: ...


def fit_model(
    checkpoint: Checkpoint, config: Config, *, on_gpu: bool, free_bytes: int | None
) -> MemoryPlan:
    """Plan context and KV memory for a device and what is free there.

    Raises:
        ModelFileError: the file's metadata makes no sense.
        MemoryShortError: the model does not fit.
    """
    model = ModelConfig.from_checkpoint(checkpoint)
    wanted = config.context_length or min(model.context_length, DEFAULT_CONTEXT_LENGTH)
    context_length = min(wanted, model.context_length)
    if context_length < wanted:
        logger.warning("context of %d tokens cut to the model's %d", wanted, context_length)
    infos = [checkpoint.info(name) for name in checkpoint.names]
    if on_gpu:
        weight_bytes = _GPU_NUMBER_BYTES * sum(math.prod(info.shape) for info in infos)
        heads = model.num_layers * model.num_kv_heads * model.head_dim
        token_bytes = 2 * _GPU_NUMBER_BYTES * heads
    else:
        weight_bytes = round(_PACKED_SHARE * sum(info.num_bytes for info in infos))
        token_bytes = kv_bytes_per_token(model, KvType[config.kv_type.upper()])
    return plan_memory(
        weight_bytes=weight_bytes,
        kv_bytes_per_token=token_bytes,
        context_length=context_length,
        kv_bytes=config.kv_cache_mib << 20,
        free_bytes=free_bytes,
    )


def uses_gpu(device: str) -> bool:
    """Whether the setting `device` means a GPU here; torch is only imported where one may be.

    Raises:
        BackendError: a GPU is asked for and there is none, or no torch.
    """
    may_be = device == "cuda" or (
        device == "auto" and any(Path(node).exists() for node in _GPU_NODES)
    )
    if not may_be:
        return False
    has_torch = importlib.util.find_spec("torch") is not None
    if has_torch and free_gpu_memory() is not None:
        return True
    lacks = "finds none" if has_torch else "is not installed: pip install 'zonda[torch]'"
    if device == "cuda":
        raise BackendError(f"device is 'cuda', but torch, which runs models on GPUs, {lacks}")
    logger.info("a GPU driver is here, but torch %s; models run on the CPU", lacks)
    return False


def free_gpu_memory() -> int | None:
    """Free bytes of the first GPU; None where there is none."""
    from runtime.engine.torch_runner import free_cuda_memory

    return free_cuda_memory()


def load_runner(
    checkpoint: Checkpoint, config: Config, *, stamp: str = "", reserved_bytes: int = 0
) -> tuple[LoadedRunner, EngineLimits]:
    """Load a checkpoint's weights onto a device, within the memory that is free there.

    `stamp` changes when the checkpoint's file does; where there is one, a CPU keeps its packed
    weights in the cache folder. `reserved_bytes` of a CPU's memory are promised to others and
    not taken yet.

    Raises:
        ModelFileError: the file is damaged or of a kind we don't run.
        MemoryShortError: it does not fit the memory that is free.
        BackendError: the device or the library for it could not be had.
    """
    on_gpu = uses_gpu(config.device)
    free_bytes = free_gpu_memory() if on_gpu else free_memory()
    if free_bytes is not None and not on_gpu:
        free_bytes = max(0, free_bytes - reserved_bytes)
    plan = fit_model(checkpoint, config, on_gpu=on_gpu, free_bytes=free_bytes)
    runner = (
        _load_on_gpu(checkpoint, plan) if on_gpu else _load_on_cpu(checkpoint, config, plan, stamp)
    )
    limits = EngineLimits(
        plan.context_length,
        config.max_sequences,
        config.max_queue,
        config.max_step_tokens,
        config.max_step_ms / 1000,
        0 if on_gpu else config.max_draft_tokens,
    )
    return runner, limits


def _load_on_gpu(checkpoint: Checkpoint, plan: MemoryPlan) -> LoadedRunner:
    from runtime.engine.torch_runner import TorchRunner

    return TorchRunner(
        checkpoint,
        context_length=plan.context_length,
        kv_cache_bytes=plan.kv_bytes,
        device="cuda",
    )


def _load_on_cpu(
    checkpoint: Checkpoint, config: Config, plan: MemoryPlan, stamp: str
) -> LoadedRunner:
    return CpuRunner(
        checkpoint,
        limits=Limits(config.max_step_tokens, config.max_sequences, plan.context_length),
        kv_cache_bytes=plan.kv_bytes,
        kv_type=KvType[config.kv_type.upper()],
        threads=config.threads,
        packed_folder=config.cache_dir / "packed" if stamp else None,
        stamp=stamp,
    )
