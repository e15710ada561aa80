"""A model service over scripted models, and a client of it, all in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from mcp import Client

from mcp_servers.model_server.server import build_server
from mcp_servers.model_server.service import AgentSetup, open_service
from runtime.agent.policy import Policy
from runtime.chat.messages import Message
from runtime.engine.tally import EngineState
from runtime.errors import UnknownModelError
from tests.helpers.scripted_chat_model import Script, ScriptedChatModel
from tools.toolset import Toolset

ERAS = ("legacy", "2026-07-28")


@dataclass
class ServedModel(ScriptedChatModel):
    """A scripted chat model that also chooses; `scores` is what it answers."""

    name: str = "scripted"
    scores: Mapping[str, float] = field(default_factory=dict)
    weighed: list[tuple[tuple[Message, ...], tuple[str, ...]]] = field(default_factory=list)

    async def choose(
        self, messages: Sequence[Message], options: Sequence[str]
    ) -> Mapping[str, float]:
        self.weighed.append((tuple(messages), tuple(options)))
        return self.scores


@dataclass
class ScriptedModels:
    """One model by the name "scripted", loaded at once unless `loaded` is not set yet.

    `engines` is what it says of its engine.
    """

    model: ServedModel
    loaded: anyio.Event | None = None
    broken: Exception | None = None
    num_opened: int = 0
    engines: Mapping[str, EngineState] = field(default_factory=dict)

    async def get(self, name: str | None, report: Callable[[str], None]) -> ServedModel:
        report("loading scripted")
        if self.broken is not None:
            raise self.broken
        if self.loaded is not None:
            await self.loaded.wait()
        if name not in {None, self.model.name}:
            raise UnknownModelError(f"no model is named {name!r}")
        return self.model

    def states(self) -> Mapping[str, EngineState]:
        return self.engines

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[ScriptedModels]:
        self.num_opened += 1
        yield self


def agent_over(toolset: Toolset, *servers: str) -> AgentSetup:
    """Offer `agent_run` over one toolset under these server names."""

    @asynccontextmanager
    async def open_toolset() -> AsyncIterator[Toolset]:
        yield toolset

    return AgentSetup(servers, open_toolset, Policy())


def scripted_models(script: Script, scores: Mapping[str, float] | None = None) -> ScriptedModels:
    return ScriptedModels(ServedModel(script, scores=scores or {}))


@asynccontextmanager
async def connect(
    models: ScriptedModels, agent: AgentSetup | None = None, *, era: str = "auto"
) -> AsyncIterator[Client]:
    """Serve the models to a client in this process; every wait is bounded."""
    with anyio.fail_after(5):
        async with (
            open_service(["scripted"], models.opened, agent) as service,
            Client(build_server(service, version="1"), mode=era) as client,
        ):
            yield client
