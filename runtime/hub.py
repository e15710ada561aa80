"""Model names to loaded models: each is fetched and loaded once, whoever asks first."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
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
from runtime.engine.loading import load_runner
from runtime.engine.saved_pages import SavedPages
from runtime.engine.tally import EngineState
from runtime.sources import pull_model, resolve_model
from runtime.tokenizer import Tokenizer, load_folder_tokenizer, load_tokenizer
from runtime.weights import Checkpoint, open_checkpoint
from runtime.weights.safetensors import SafetensorsFolder

logger = logging.getLogger(__name__)


class Hub:
    """Owns the loaded models and the engines behind them.

    An async context manager: leaving it stops the engines. Models are known by the name they
    were asked for, an alias or a path.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._models: dict[str, ChatModel] = {}
        self._engines: dict[str, ThreadedEngine] = {}
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
            for engine in self._engines.values():
                await engine.aclose()
        self._tasks.cancel_scope.cancel()
        # The body's own exception goes on as it is, not in a group.
        await self._tasks.__aexit__(None, None, None)

    @property
    def default(self) -> str:
        """The model that is used where a request names none."""
        return self._config.model

    def states(self) -> Mapping[str, EngineState]:
        """What each loaded model's engine does and did, by the model's name."""
        return {name: engine.state() for name, engine in self._engines.items()}

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
        tokenizer, engine, saved = await anyio.to_thread.run_sync(self._open, path)
        threaded = ThreadedEngine(engine)
        await self._tasks.start(threaded.run)
        self._engines[name] = threaded
        self._models[name] = ChatModel(name, tokenizer, threaded, engine.context_length, saved)

    def _fetch(self, name: str) -> Path:
        def report(num_bytes: int, num_total: int) -> None:
            doing = f"fetching {name}: {num_bytes >> 20} of {num_total >> 20} MiB"
            anyio.from_thread.run_sync(self._tell, name, doing)

        return pull_model(name, self._config.cache_dir, report)

    def _tell(self, name: str, doing: str) -> None:
        for report in self._watchers[name]:
            report(doing)

    def _open(self, path: Path) -> tuple[Tokenizer, Engine, SavedPages | None]:
        _, tokenizer, runner, limits = open_model(path, self._config)
        engine = Engine(runner, limits, decoder=tokenizer.decoder, stop_ids=tokenizer.stop_ids)
        return tokenizer, engine, open_saved_pages(runner, self._config)


def open_saved_pages(runner: Runner, config: Config) -> SavedPages | None:
    """The folder of kept catalogues; None where none are kept or a runner's pages cannot be."""
    if not config.keep_catalogues or runner.page_memory is None:
        return None
    return SavedPages(config.cache_dir / "catalogues", runner.page_memory, runner.page_size)


def open_model(path: Path, config: Config) -> tuple[Checkpoint, Tokenizer, Runner, EngineLimits]:
    """Read a model's file or folder and load it onto a device.

    Raises:
        ModelFileError: it is damaged or of a kind we don't run.
        MemoryShortError: it does not fit the memory that is free.
        BackendError: the device or the library for it could not be had.
    """
    checkpoint, tokenizer = open_files(path, config.cache_dir)
    runner, limits = load_runner(checkpoint, config, stamp=_stamp(path))
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
