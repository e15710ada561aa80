"""Who answers a load: our engine in this process, or servers of OpenAI's API."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from mcp_servers.cli.bench_arrivals import Answer, Completer, RefusedError
from mcp_servers.cli.bench_setup import (
    END_TOKEN,
    BenchOptions,
    LoadedModel,
    load_model,
    random_prompt,
)
from runtime.errors import CapacityError, GenerationError

if TYPE_CHECKING:
    from runtime.engine.async_engine import AsyncEngine


@dataclass(frozen=True, slots=True)
class Contender:
    """Who is measured.

    Attributes:
        label: what records and plots call it.
        served_as: what a server calls its model; None for our engine.
        model: our engine's, whose limits are known.
    """

    label: str
    completer: Completer
    served_as: str | None = None
    model: LoadedModel | None = None

    def draw_prompt(self, num_tokens: int) -> list[int]:
        """Tokens that our model has, or that most do."""
        vocab_size = END_TOKEN if self.model is None else self.model.tokenizer.vocab_size
        return random_prompt(num_tokens, vocab_size)


class EngineCompleter:
    """Our engine, in this process."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def complete(self, prompt: Sequence[int], new_tokens: int) -> Answer:
        from runtime.request import GenerateRequest, SamplingParams

        times: list[float] = []
        request = GenerateRequest(tuple(prompt), SamplingParams(max_tokens=new_tokens))
        try:
            async with aclosing(self._engine.generate(request)) as chunks:
                async for chunk in chunks:
                    if chunk.error is not None:
                        raise GenerationError(f"the engine failed: {chunk.error}")
                    times += [time.perf_counter()] * len(chunk.token_ids)
        except CapacityError as exc:
            raise RefusedError(str(exc)) from exc
        if len(times) != new_tokens:
            raise GenerationError(
                f"wanted {new_tokens} tokens, found {len(times)}: the context must hold prompt "
                "and answer"
            )
        return Answer(times, len(prompt))


@asynccontextmanager
async def open_contenders(options: BenchOptions) -> AsyncGenerator[list[Contender]]:
    """Load the model, unless a server is measured instead, and connect to the servers.

    Raises:
        ModelFileError, UnavailableError: as `load_model`.
        GenerationError: a server does not answer.
    """
    from mcp_servers.cli.bench_remote import open_server

    async with AsyncExitStack() as stack:
        first = _open_engine(options) if options.url is None else None
        found = [] if first is None else [await stack.enter_async_context(first)]
        ours = [] if options.url is None else [(options.label, options.url)]
        for label, url in (*ours, *options.peers):
            completer = await stack.enter_async_context(open_server(url))
            found.append(Contender(label, completer, completer.model))
        yield found


@asynccontextmanager
async def _open_engine(options: BenchOptions) -> AsyncGenerator[Contender]:
    from runtime.engine.async_engine import ThreadedEngine

    model = load_model(options.config)
    engine = ThreadedEngine(model.engine)
    async with anyio.create_task_group() as tasks:
        await tasks.start(engine.run)
        try:
            yield Contender(options.label, EngineCompleter(engine), model=model)
        finally:
            with anyio.CancelScope(shield=True):
                await engine.aclose()
