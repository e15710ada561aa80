"""Which models a caller may name, who uses them, and the tools that load and unload them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import anyio

from mcp_servers.model_server.background import Background
from mcp_servers.model_server.calls import Model
from mcp_servers.model_server.schemas import (
    MAX_WAIT_S,
    WAIT,
    object_schema,
    outcome_schema,
)
from runtime.agent.runs import Run
from runtime.errors import CapacityError, UnknownModelError
from tools.errors import UnavailableError
from tools.spec import JsonObject, TextContent, ToolAnnotations, ToolResult, ToolSpec
from tools.toolset import Changes

if TYPE_CHECKING:
    from runtime.engine.tally import EngineState
    from runtime.hub import ModelInfo

_STATE: JsonObject = {
    "model": {"type": "string"},
    "state": {"type": "string", "enum": ["loaded", "unloaded"]},
    "memory_bytes": {
        "type": "integer",
        "description": "Weights, and what KV pages may take; with unloaded, what was given back.",
    },
}


class Models(Protocol):
    """Gives loaded models by name; `runtime.hub.Hub` is one."""

    @property
    def names(self) -> Sequence[str]:
        """The models that are loaded."""
        ...

    async def get(self, name: str | None, report: Callable[[str], None]) -> Model:
        """Return a model, loading it when it is not; `report` is told what is being done.

        None is the default one.

        Raises:
            ZondaError: there is no such model, or it cannot be loaded.
        """
        ...

    def find(self, name: str) -> Model | None:
        """Return a model if it is loaded."""
        ...

    def info(self, name: str) -> ModelInfo:
        """The facts of a loaded model.

        Raises:
            UnknownModelError: it is not loaded.
        """
        ...

    def states(self) -> Mapping[str, EngineState]:
        """What each loaded model's engine does and did, by the model's name."""
        ...

    async def unload(self, name: str) -> ModelInfo:
        """Give back a model's memory; what it still does ends in an error.

        Raises:
            UnknownModelError: it is not loaded.
        """
        ...


def load_spec(loadable: Sequence[str]) -> ToolSpec:
    """Describe `model_load`."""
    return ToolSpec(
        name="model_load",
        title="Load a model",
        description="Load another local model, fetching it first if it is not on this machine. "
        "Refused when it does not fit the memory that is free.",
        input_schema=object_schema(
            {
                "model": {
                    "type": "string",
                    "enum": list(loadable),
                    "description": "Which model to load.",
                },
                "wait_seconds": WAIT,
            },
            required=["model"],
        ),
        output_schema=outcome_schema(_STATE),
        annotations=ToolAnnotations(
            read_only=False, destructive=False, idempotent=True, open_world=True
        ),
    )


def unload_spec(models: Sequence[str]) -> ToolSpec:
    """Describe `model_unload`."""
    return ToolSpec(
        name="model_unload",
        title="Unload a model",
        description="Give back the memory of a loaded model. Refused while calls use it, or "
        "after wait_seconds.",
        input_schema=object_schema(
            {
                "model": {
                    "type": "string",
                    "enum": list(models),
                    "description": "Which model to unload.",
                },
                "wait_seconds": {
                    "type": "number",
                    "minimum": 0,
                    "maximum": MAX_WAIT_S,
                    "default": 0,
                    "description": "Seconds to wait for calls that use it; others are refused.",
                },
            },
            required=["model"],
        ),
        output_schema={"type": "object", "properties": _STATE, "required": list(_STATE)},
        annotations=ToolAnnotations(
            read_only=False, destructive=True, idempotent=False, open_world=False
        ),
    )


class ModelList:
    """The models on offer: those of the configuration, and whatever else is loaded.

    `changes` counts loads and unloads.

    Invariant: a model is unloaded only while nobody uses it.
    """

    def __init__(self, offered: Sequence[str], models: Background[Models]) -> None:
        self.default = offered[0]
        self._offered = tuple(offered)
        self.changes = Changes()
        self._models = models
        self._users: Counter[str] = Counter()
        self._leaving: set[str] = set()
        self._ends = Changes()

    @property
    def names(self) -> tuple[str, ...]:
        """The default first; those of the configuration are loaded when they are used."""
        loaded = () if self.opened is None else self.opened.names
        return tuple(dict.fromkeys([*self._offered, *loaded]))

    @property
    def embedding(self) -> tuple[str, ...]:
        """Those that give vectors, as far as that is known before they are loaded."""
        return tuple(name for name in self.names if self._may_embed(name))

    @property
    def opened(self) -> Models | None:
        """The models, once they are open; nothing is opened for this."""
        return self._models.opened

    async def open(self) -> None:
        """Open the models, so that those which are loaded already are on the list.

        Raises:
            ZondaError: they cannot be opened.
        """
        await self._models.get()

    def find(self, name: str) -> Model | None:
        """A model if it is loaded."""
        return None if self.opened is None else self.opened.find(name)

    async def get_default(self, report: Callable[[str], None]) -> Model:
        """The default model, loading it first where that is needed.

        Raises:
            ZondaError: it cannot be loaded.
        """
        return await self._load(None, report)

    def use(self, run: Run, name: str | None) -> AbstractAsyncContextManager[Model]:
        """As `hold`, telling the run what it waits for; None is the default model."""
        waits = itertools.count()

        def report(doing: str) -> None:
            # Progress has to grow, and the first token or step will count as 1.
            run.report(1 - 1 / (1 + next(waits)), None, doing)

        return self.hold(name or self.default, report)

    @asynccontextmanager
    async def hold(self, name: str, report: Callable[[str], None]) -> AsyncIterator[Model]:
        """Wait for a model; it stays loaded meanwhile. `report` is told what is being done.

        Raises:
            UnavailableError: it is just being unloaded.
            ZondaError: there is no such model, or it cannot be loaded.
        """
        if name in self._leaving:
            raise UnavailableError(f"model {name!r} is being unloaded; try again in a moment")
        self._users[name] += 1
        try:
            report(f"waiting for {name}")
            yield await self._load(None if name == self.default else name, report)
        finally:
            self._users[name] -= 1
            self._ends.tell()

    async def load(self, run: Run, arguments: JsonObject) -> ToolResult:
        """Load a model and say what memory it takes; one that is loaded stays so.

        Raises:
            ZondaError: it cannot be fetched, or does not fit.
        """
        name = arguments["model"]
        async with self.use(run, name):
            return state_of((await self._models.get()).info(name), "loaded", status="done")

    async def unload(
        self, name: str, within_s: float = 0, report: Callable[[str], None] = lambda doing: None
    ) -> ModelInfo:
        """Unload a model once no call uses it.

        Raises:
            CapacityError: calls still use it after that many seconds.
            UnavailableError: it is just being unloaded.
            UnknownModelError: it is not loaded.
        """
        models = await self._models.get()
        if name not in models.names:
            raise UnknownModelError(f"model {name!r} is not loaded, so it takes no memory")
        if name in self._leaving:
            raise UnavailableError(f"model {name!r} is being unloaded already")
        self._leaving.add(name)
        try:
            report(f"waiting for {self._users[name]} calls that use {name}")
            with anyio.move_on_after(within_s):
                while self._users[name]:
                    await self._ends.wait(self._ends.count)
            if self._users[name]:
                raise CapacityError(
                    f"{self._users[name]} calls use model {name!r}; try again when they have ended"
                )
            with anyio.CancelScope(shield=True):
                info = await models.unload(name)
        finally:
            self._leaving.discard(name)
        self.changes.tell()
        return info

    def _may_embed(self, name: str) -> bool:
        models = self.opened
        return models is None or name not in models.names or models.info(name).can_embed

    async def _load(self, name: str | None, report: Callable[[str], None]) -> Model:
        models = await self._models.get()
        loaded = models.names
        model = await models.get(name, report)
        if models.names != loaded:
            self.changes.tell()
        return model


def state_of(info: ModelInfo, state: str, **more: str) -> ToolResult:
    """Tell of a model that it is now "loaded" or "unloaded", and of its memory."""
    num_bytes = info.weight_bytes + info.kv_bytes
    text = f"{info.name} is {state} ({num_bytes / (1 << 20):.0f} MiB)"
    structured = {**more, "model": info.name, "state": state, "memory_bytes": num_bytes}
    return ToolResult(content=(TextContent(text),), structured=structured)
