"""The models of one process, lent to services that come and go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from mcp_servers.model_server import calls
from mcp_servers.model_server.admin import Models
from mcp_servers.model_server.background import Background
from mcp_servers.model_server.host_log import leave_session
from runtime.errors import UnknownModelError

if TYPE_CHECKING:
    from runtime.engine.tally import EngineState
    from runtime.hub import ModelInfo


class SharedModels:
    """Models that outlive whoever asked for them first; a load goes on when that one leaves."""

    def __init__(self, models: Background[Models], tasks: TaskGroup) -> None:
        self._models = models
        self._tasks = tasks

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Models]:
        """Lend the models to a service; ending the loan closes nothing."""
        yield self

    @property
    def names(self) -> Sequence[str]:
        return () if self._models.opened is None else self._models.opened.names

    def find(self, name: str) -> calls.Model | None:
        return None if self._models.opened is None else self._models.opened.find(name)

    def info(self, name: str) -> ModelInfo:
        return self._open(name).info(name)

    def states(self) -> Mapping[str, EngineState]:
        return {} if self._models.opened is None else self._models.opened.states()

    async def unload(self, name: str) -> ModelInfo:
        return await self._open(name).unload(name)

    def _open(self, name: str) -> Models:
        if self._models.opened is None:
            raise UnknownModelError(f"model {name!r} is not loaded")
        return self._models.opened

    async def get(self, name: str | None, report: Callable[[str], None]) -> calls.Model:
        """As `Models.get`; cancelled at once when the caller is."""
        load = _Load(report)
        self._tasks.start_soon(load.run, self._models, name)
        try:
            await load.done.wait()
        finally:
            load.report = _tell_nobody
        if load.error is not None:
            raise load.error
        assert load.model is not None
        return load.model


class _Load:
    """One wait for a model. Invariant: once `done` is set, one of `model` and `error` is there."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report = report
        self.done = anyio.Event()
        self.model: calls.Model | None = None
        self.error: Exception | None = None

    async def run(self, models: Background[Models], name: str | None) -> None:
        leave_session()  # what is loaded works for everybody
        try:
            self.model = await (await models.get()).get(name, lambda doing: self.report(doing))
        except Exception as exc:  # noqa: BLE001 - whoever waits raises it
            self.error = exc
        finally:
            self.done.set()


def _tell_nobody(doing: str) -> None:
    """Whoever wanted to know has left."""
