"""Model names to loaded models: each is fetched and loaded once, whoever asks first."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import anyio.from_thread
import anyio.to_thread

from runtime.chat.model import ChatModel
from runtime.config import Config
from runtime.engine.async_engine import ThreadedEngine
from runtime.engine.engine import Engine, EngineLimits, Runner
from runtime.memory import (
    CPU_WEIGHT_BYTES,
    GPU_WEIGHT_BYTES,
    MemoryPlan,
    free_memory,
    plan_memory,
)
from runtime.models.config import ModelConfig
from runtime.sources import pull_model, resolve_model
from runtime.tokenizer import Tokenizer, load_folder_tokenizer, load_tokenizer
from runtime.weights import Checkpoint, open_checkpoint
from runtime.weights.safetensors import SafetensorsFolder

logger = logging.getLogger(__name__)

DEFAULT_CONTEXT_LENGTH = 8192
"""Most tokens of a sequence where the configuration does not say."""


class Hub:
    """Owns the loaded models and the engines behind them.

    An async context manager: leaving it stops the engines. Models are known by the name they
    were asked for, an alias or a path.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._models: dict[str, ChatModel] = {}
        self._engines: list[ThreadedEngine] = []
        self._watchers: defaultdict[str, list[Callable[[str], None]]] = defaultdict(list)
        self._locks: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)
        self._tasks = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):  # at most the step that runs
            for engine in self._engines:
                await engine.aclose()
        self._tasks.cancel_scope.cancel()
        # The body's own exception goes on as it is, not in a group.
        await self._tasks.__aexit__(None, None, None)

    @property
    def default(self) -> str:
        """The model that is used where a request names none."""
        return self._config.model

    async def get(
        self, name: str | None = None, report: Callable[[str], None] = lambda doing: None
    ) -> ChatModel:
        """Return a model, fetching and loading it first where that is needed.

        `report` is told what is being done meanwhile, in words for a person.

        Raises:
            UnknownModelError: no alias and no file of that name.
            DownloadError: it could not be fetched.
            ModelFileError: the file is damaged or of a kind we don't run.
            MemoryShortError: it does not fit the memory that is free.
        """
        name = name or self.default
        self._watchers[name].append(report)
        try:
            async with self._locks[name]:
                if name not in self._models:
                    # Who asked first may leave; the load that others wait for goes on.
                    with anyio.CancelScope(shield=True):
                        await self._load(name)
        finally:
            self._watchers[name].remove(report)
        return self._models[name]

    async def _load(self, name: str) -> None:
        path = resolve_model(name, self._config.cache_dir)
        if path is None:
            path = await anyio.to_thread.run_sync(self._fetch, name)
        self._tell(name, f"loading {name}")
        tokenizer, engine = await anyio.to_thread.run_sync(self._open, path)
        threaded = ThreadedEngine(engine)
        await self._tasks.start(threaded.run)
        self._engines.append(threaded)
        self._models[name] = ChatModel(name, tokenizer, threaded, engine.context_length)

    def _fetch(self, name: str) -> Path:
        def report(num_bytes: int, num_total: int) -> None:
            doing = f"fetching {name}: {num_bytes >> 20} of {num_total >> 20} MiB"
            anyio.from_thread.run_sync(self._tell, name, doing)

        return pull_model(name, self._config.cache_dir, report)

    def _tell(self, name: str, doing: str) -> None:
        for report in self._watchers[name]:
            report(doing)

    def _open(self, path: Path) -> tuple[Tokenizer, Engine]:
        checkpoint = open_checkpoint(path)
        if isinstance(checkpoint, SafetensorsFolder):
            tokenizer = load_folder_tokenizer(path if path.is_dir() else path.parent)
        else:
            tokenizer = load_tokenizer(checkpoint.metadata, self._config.cache_dir)
        runner, limits = load_runner(checkpoint, self._config)
        engine = Engine(runner, limits, decoder=tokenizer.decoder, stop_ids=tokenizer.stop_ids)
        return tokenizer, engine


def fit_model(
    checkpoint: Checkpoint, config: Config, *, number_bytes: int, free_bytes: int | None
) -> MemoryPlan:
    """Plan context and KV memory for numbers of `number_bytes` and the memory that is free.

    Raises:
        ModelFileError: the file's metadata makes no sense.
        MemoryShortError: the model does not fit.
    """
    model = ModelConfig.from_checkpoint(checkpoint)
    wanted = config.context_length or min(model.context_length, DEFAULT_CONTEXT_LENGTH)
    context_length = min(wanted, model.context_length)
    if context_length < wanted:
        logger.warning("context of %d tokens cut to the model's %d", wanted, context_length)
    num_weights = sum(math.prod(checkpoint.info(name).shape) for name in checkpoint.names)
    return plan_memory(
        weight_bytes=number_bytes * num_weights,
        kv_bytes_per_token=(
            2 * number_bytes * model.num_layers * model.num_kv_heads * model.head_dim
        ),
        context_length=context_length,
        kv_bytes=config.kv_cache_mib << 20,
        free_bytes=free_bytes,
    )


def load_runner(checkpoint: Checkpoint, config: Config) -> tuple[Runner, EngineLimits]:
    """Load a checkpoint's weights onto a device, within the memory that is free there.

    Raises:
        ModelFileError: the file is damaged or of a kind we don't run.
        MemoryShortError: it does not fit the memory that is free.
    """
    # torch takes seconds to import; whoever only lists or fetches models does without.
    from runtime.engine.runner import TorchRunner, free_gpu_memory  # noqa: PLC0415

    free_on_gpu = free_gpu_memory(config.device)
    plan = fit_model(
        checkpoint,
        config,
        number_bytes=CPU_WEIGHT_BYTES if free_on_gpu is None else GPU_WEIGHT_BYTES,
        free_bytes=free_memory() if free_on_gpu is None else free_on_gpu,
    )
    runner = TorchRunner(
        checkpoint,
        context_length=plan.context_length,
        kv_cache_bytes=plan.kv_bytes,
        device=config.device,
        threads=config.threads,
    )
    limits = EngineLimits(
        plan.context_length, config.max_sequences, config.max_queue, config.max_step_tokens
    )
    return runner, limits
