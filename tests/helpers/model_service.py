"""A model service over scripted models, and a client of it, all in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self

import anyio
import numpy as np
from mcp import Client

from mcp_servers.model_server.server import build_server
from mcp_servers.model_server.service import AgentSetup, open_service
from mcp_servers.model_server.tools import Surface
from runtime.agent.policy import Policy
from runtime.chat.messages import Message
from runtime.chat.model import Output
from runtime.chat.support import TemplateFeatures
from runtime.engine.embedding import Vectors
from runtime.engine.tally import EngineState, EngineTally
from runtime.errors import UnknownModelError
from runtime.hub import ModelInfo
from runtime.request import GenerateRequest, TokenChunk
from runtime.tokenizer.tokenizer import Tokenizer
from tests.helpers.scripted_chat_model import Script, ScriptedChatModel
from tests.helpers.scripted_engine import Script as Writes
from tests.helpers.scripted_engine import ScriptedEngine, say
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tools.sampling import Sampler
from tools.spec import ToolSpec
from tools.toolset import Toolset

ERAS = ("legacy", "2026-07-28")

INFO = ModelInfo(
    name="scripted",
    architecture="llama",
    context_length=8192,
    trained_context_length=32768,
    num_layers=2,
    hidden_size=64,
    vocab_size=501,
    num_parameters=1000,
    quantisation={"Q4_K": 500, "F32": 12},
    device="cpu",
    weight_bytes=3 << 20,
    kv_bytes=1 << 20,
    can_embed=True,
    template=TemplateFeatures(
        wire_format="hermes",
        renders_tools=True,
        renders_calls=True,
        renders_system=True,
        has_parallel_calls=True,
        has_reasoning=False,
    ),
)


STATE = EngineState(
    num_running=1,
    num_waiting=2,
    num_pages=100,
    num_used_pages=25,
    page_size=16,
    num_preemptions=0,
    tokens_per_s=56.78,
    tally=EngineTally(),
)
STATE.tally.generated_tokens = 1234


@dataclass
class ServedModel(ScriptedChatModel):
    """A scripted chat model that also chooses and completes texts.

    Attributes:
        scores: what it answers when it chooses.
        writes: what it completes texts with.
        outputs: what those texts were constrained to.
    """

    name: str = "scripted"
    tokenizer: Tokenizer = field(default_factory=tiny_tokenizer)
    writes: Writes = field(default_factory=lambda: say("and time"))
    outputs: list[Output | None] = field(default_factory=list)
    scores: Mapping[str, float] = field(default_factory=dict)
    callers: list[str] = field(default_factory=list)
    weighed: list[tuple[tuple[Message, ...], tuple[str, ...]]] = field(default_factory=list)

    def for_caller(self, caller: str) -> Self:
        self.callers.append(caller)
        return self

    async def choose(
        self, messages: Sequence[Message], options: Sequence[str]
    ) -> Mapping[str, float]:
        self.weighed.append((tuple(messages), tuple(options)))
        return self.scores

    def complete(
        self, request: GenerateRequest, output: Output | None = None
    ) -> AsyncGenerator[TokenChunk]:
        self.outputs.append(output)
        engine = ScriptedEngine(self.tokenizer, self.writes, context_length=self.context_length)
        return engine.generate(request)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        thinks: bool | None = None,
    ) -> Sequence[int]:
        """A line for each message, and one that says what is wished of thoughts."""
        lines = [f"{message.role}: {message.content}\n" for message in messages]
        if thinks is not None:
            lines.append(f"thinks: {thinks}\n")
        return self.tokenizer.encode("".join(lines))

    async def embed(self, texts: Sequence[str | Sequence[int]]) -> tuple[Vectors, int]:
        """Vectors of 4 numbers that tell how long the texts are."""
        lengths = np.array([len(text) for text in texts], np.float32)
        vectors = np.stack([lengths, lengths * 0 + 1, lengths * 0, lengths * 0], axis=1)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), int(lengths.sum())


@dataclass
class ScriptedModels:
    """One model by the name "scripted", loaded at once unless `loaded` is not set yet.

    By each name of `others` it is another model. `state` is what its engines say.
    """

    model: ServedModel
    loaded: anyio.Event | None = None
    broken: Exception | None = None
    num_opened: int = 0
    state: EngineState = STATE
    others: tuple[str, ...] = ()
    kept: dict[str, ServedModel] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.kept)

    async def get(self, name: str | None, report: Callable[[str], None]) -> ServedModel:
        report("loading scripted")
        if self.broken is not None:
            raise self.broken
        if self.loaded is not None:
            await self.loaded.wait()
        name = name or self.model.name
        if name not in {self.model.name, *self.others}:
            raise UnknownModelError(f"no model is named {name!r}")
        self.kept.setdefault(name, replace(self.model, name=name) if self.others else self.model)
        return self.kept[name]

    def find(self, name: str) -> ServedModel | None:
        return self.kept.get(name)

    def info(self, name: str) -> ModelInfo:
        if name not in self.kept:
            raise UnknownModelError(f"no model that is loaded is named {name!r}")
        return replace(INFO, name=name)

    async def unload(self, name: str) -> ModelInfo:
        info = self.info(name)
        del self.kept[name]
        return info

    def states(self) -> Mapping[str, EngineState]:
        return dict.fromkeys(self.names, self.state)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[ScriptedModels]:
        self.num_opened += 1
        yield self


def agent_over(toolset: Toolset, *servers: str) -> AgentSetup:
    """Offer `agent_run` over one toolset under these server names."""

    @asynccontextmanager
    async def open_toolset(*, sampler: Sampler) -> AsyncIterator[Toolset]:
        yield toolset

    return AgentSetup(servers, open_toolset, Policy())


def scripted_models(script: Script, scores: Mapping[str, float] | None = None) -> ScriptedModels:
    return ScriptedModels(ServedModel(script, scores=scores or {}))


@asynccontextmanager
async def connect(
    models: ScriptedModels,
    agent: AgentSetup | None = None,
    *,
    era: str = "auto",
    within_s: float = 5,
    surface: Surface | None = None,
    **options: Any,
) -> AsyncIterator[Client]:
    """Serve the models to a client in this process; every wait is bounded."""
    with anyio.fail_after(within_s):
        async with (
            open_service(["scripted"], models.opened, agent, surface=surface) as service,
            Client(build_server(service, version="1"), mode=era, **options) as client,
        ):
            yield client
