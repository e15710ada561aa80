"""Model names to loaded models: each is fetched and loaded once, whoever asks first.

All share one memory budget: what a model's KV pages may still take counts as taken when the
next one is loaded.
"""

from __future__ import annotations

import gc
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import anyio.from_thread
import anyio.to_thread

from runtime.chat.model import ChatModel
from runtime.chat.support import TemplateFeatures
from runtime.config import Config
from runtime.engine.async_engine import ThreadedEngine
from runtime.engine.embedding import HiddenRunner
from runtime.engine.engine import Engine, EngineLimits, Runner
from runtime.engine.loading import LoadedRunner, load_runner
from runtime.engine.saved_pages import SavedPages
from runtime.engine.tally import EngineState
from runtime.errors import UnknownModelError
from runtime.models.config import ModelConfig
from runtime.sources import pull_model, resolve_model
from runtime.tokenizer import Tokenizer, load_folder_tokenizer, load_tokenizer
from runtime.weights import Checkpoint, open_checkpoint
from runtime.weights.safetensors import SafetensorsFolder
from tools.errors import suggest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A loaded model in facts.

    Attributes:
        name: by which it was asked for.
        architecture: as its file names it.
        context_length: most tokens of a conversation here.
        trained_context_length: most that the model was made for.
        num_parameters: numbers of all its tensors.
        quantisation: bytes in the file by format, the largest share first.
        device: "cpu" or "cuda".
        weight_bytes: memory of the weights.
        kv_bytes: memory that KV pages may take.
        can_embed: whether it gives vectors of texts.
        template: what its chat template supports.
    """

    name: str
    architecture: str
    context_length: int
    trained_context_length: int
    num_layers: int
    hidden_size: int
    vocab_size: int
    num_parameters: int
    quantisation: Mapping[str, int]
    device: str
    weight_bytes: int
    kv_bytes: int
    can_embed: bool
    template: TemplateFeatures


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model and what is behind it."""

    model: ChatModel
    engine: Engine
    threaded: ThreadedEngine
    info: ModelInfo


class Hub:
    """Owns the loaded models and the engines behind them.

    An async context manager: leaving it stops the engines. Models are known by the name they
    were asked for, an alias or a path.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._loaded: dict[str, _Loaded] = {}
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
            for loaded in self._loaded.values():
                await loaded.threaded.aclose()
        self._tasks.cancel_scope.cancel()
        # The body's own exception goes on as it is, not in a group.
        await self._tasks.__aexit__(None, None, None)

    @property
    def default(self) -> str:
        """The model that is used where a request names none."""
        return self._config.model

    @property
    def names(self) -> tuple[str, ...]:
        """The loaded models, in the order in which they were loaded."""
        return tuple(self._loaded)

    def find(self, name: str) -> ChatModel | None:
        """A model that is loaded; None where it is not."""
        return None if name not in self._loaded else self._loaded[name].model

    def info(self, name: str) -> ModelInfo:
        """The facts of a loaded model.

        Raises:
            UnknownModelError: it is not loaded.
        """
        return self._find(name).info

    def states(self) -> Mapping[str, EngineState]:
        """What each loaded model's engine does and did, by the model's name."""
        return {name: loaded.engine.state() for name, loaded in self._loaded.items()}

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
                if name not in self._loaded:
                    # Who asked first may leave; the load that others wait for goes on.
                    with anyio.CancelScope(shield=True):
                        await self._load(name)
                return self._loaded[name].model
        finally:
            self._watchers[name].remove(report)

    async def unload(self, name: str) -> ModelInfo:
        """Stop a model's engine and give back its memory; what it still does ends in an error.

        Raises:
            UnknownModelError: it is not loaded.
        """
        async with self._locks[name]:
            loaded = self._find(name)
            del self._loaded[name]
            with anyio.CancelScope(shield=True):
                await loaded.threaded.aclose()
            info = loaded.info
        del loaded
        gc.collect()  # engine and constraints refer to each other; the memory is wanted now
        logger.info("unloaded %s", name)
        return info

    def _find(self, name: str) -> _Loaded:
        if name not in self._loaded:
            hint = suggest(name, self._loaded)
            raise UnknownModelError(f"no model that is loaded is named {name!r}{hint}")
        return self._loaded[name]

    async def _load(self, name: str) -> None:
        path = resolve_model(name, self._config.cache_dir)
        if path is None:
            path = await anyio.to_thread.run_sync(self._fetch, name)
        self._tell(name, f"loading {name}")
        opened = await anyio.to_thread.run_sync(self._open, path)
        threaded = ThreadedEngine(opened.engine)
        length = opened.engine.context_length
        model = ChatModel(name, opened.tokenizer, threaded, length, opened.saved)
        await self._tasks.start(threaded.run)
        info = describe_model(model, opened.checkpoint, opened.runner)
        self._loaded[name] = _Loaded(model, opened.engine, threaded, info)

    def _fetch(self, name: str) -> Path:
        def report(num_bytes: int, num_total: int) -> None:
            doing = f"fetching {name}: {num_bytes >> 20} of {num_total >> 20} MiB"
            anyio.from_thread.run_sync(self._tell, name, doing)

        return pull_model(name, self._config.cache_dir, report)

    def _tell(self, name: str, doing: str) -> None:
        for report in self._watchers[name]:
            report(doing)

    def _open(self, path: Path) -> _Opened:
        # Pages that were used already are not free any more and count twice: rather too much.
        reserved = sum(one.info.kv_bytes for one in self._loaded.values())
        checkpoint, tokenizer, runner, limits = open_model(
            path, self._config, reserved_bytes=reserved
        )
        engine = Engine(runner, limits, decoder=tokenizer.decoder, stop_ids=tokenizer.stop_ids)
        saved = open_saved_pages(runner, self._config)
        return _Opened(checkpoint, tokenizer, runner, engine, saved)


@dataclass(frozen=True, slots=True)
class _Opened:
    """What was made of a model's file."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    runner: LoadedRunner
    engine: Engine
    saved: SavedPages | None


def describe_model(model: ChatModel, checkpoint: Checkpoint, runner: LoadedRunner) -> ModelInfo:
    """Collect the facts of a model."""
    config = ModelConfig.from_checkpoint(checkpoint)
    infos = [checkpoint.info(name) for name in checkpoint.names]
    formats: Counter[str] = Counter()
    for info in infos:
        formats[info.format_name] += info.num_bytes
    return ModelInfo(
        name=model.name,
        architecture=config.architecture,
        context_length=model.context_length,
        trained_context_length=config.context_length,
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        num_parameters=sum(math.prod(info.shape) for info in infos),
        quantisation=dict(formats.most_common()),
        device=runner.device,
        weight_bytes=runner.weight_bytes,
        kv_bytes=runner.kv_bytes,
        can_embed=isinstance(runner, HiddenRunner),
        template=model.features,
    )


def open_saved_pages(runner: Runner, config: Config) -> SavedPages | None:
    """The folder of kept catalogues; None where none are kept or a runner's pages cannot be."""
    if not config.keep_catalogues or runner.page_memory is None:
        return None
    return SavedPages(config.cache_dir / "catalogues", runner.page_memory, runner.page_size)


def open_model(
    path: Path, config: Config, *, reserved_bytes: int = 0
) -> tuple[Checkpoint, Tokenizer, LoadedRunner, EngineLimits]:
    """Read a model's file or folder and load it onto a device; see `load_runner`.

    Raises:
        ModelFileError: it is damaged or of a kind we don't run.
        MemoryShortError: it does not fit the memory that is free.
        BackendError: the device or the library for it could not be had.
    """
    checkpoint, tokenizer = open_files(path, config.cache_dir)
    runner, limits = load_runner(
        checkpoint, config, stamp=_stamp(path), reserved_bytes=reserved_bytes
    )
    return checkpoint, tokenizer, runner, limits


def open_files(path: Path, cache_dir: Path) -> tuple[Checkpoint, Tokenizer]:
    """Read a model's file or folder; no weight is touched.

    Raises:
        ModelFileError: it is damaged or of a kind we don't run.
    """
    checkpoint = open_checkpoint(path)
    if isinstance(checkpoint, SafetensorsFolder):
        return checkpoint, load_folder_tokenizer(path if path.is_dir() else path.parent)
    return checkpoint, load_tokenizer(checkpoint.metadata, cache_dir)


def _stamp(path: Path) -> str:
    """Size and time of a model's file or files: what changes when they do."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    return " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats)
