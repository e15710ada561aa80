"""What a catalogue of tools costs the first token: computed, shared, and kept over a restart."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from mcp_servers.cli.bench_machine import MachineProbe
from mcp_servers.cli.bench_setup import BenchOptions, find_model
from mcp_servers.cli.records import Measurement
from runtime.chat.messages import Message, TurnEnd
from runtime.config import Config
from runtime.errors import GenerationError
from runtime.request import SamplingParams
from tools.spec import JsonObject, ToolSpec

if TYPE_CHECKING:
    from runtime.chat.model import ChatModel

QUESTIONS = ("What is left to do?", "Who wrote the last report?", "Where is the older draft?")

TOKENS_PER_TOOL = 100
"""Of those that `make_tools` makes, about."""

MIN_RATIO = 20.0

FIRST, SECOND = "first token, first session", "first token, second session"

_KINDS = ("invoice", "report", "ticket", "photo", "meeting", "contract", "parcel", "recipe")
_VERBS = ("search", "create", "update", "archive")


def measure_catalogue(options: BenchOptions, num_tools: int = 20) -> list[Measurement]:
    """Time to the first token of a session's first turn, which offers made-up tools.

    Of the first session in a process that prepared nothing, and of the second one; of the first
    session in a process that prepared by computing, and in one that prepared from the file which
    that one kept. Also how long both preparations took, compiling the grammar of all tools
    included. Each process has answered before, so that its weights are in memory.
    """
    probe = MachineProbe(options.config)
    tools = make_tools(num_tools)
    runs = []
    for _ in range(options.repeats):
        probe.look()
        runs.append(anyio.run(_measure, options.config, tools))
    params = {"tools": num_tools, "prompt_tokens": runs[0].num_tokens}
    values = {measure: [1000 * run.seconds[measure] for run in runs] for measure in runs[0].seconds}
    ratios = [run.seconds[FIRST] / run.seconds[SECOND] for run in runs]

    def record(
        measure: str, values: list[float], unit: str, limit: float | None = None
    ) -> Measurement:
        described = {"measure": measure, **params}
        return Measurement("tools", described, values, unit, limit, probe.bandwidth_gb_s)

    return [
        *(record(measure, taken, "ms") for measure, taken in values.items()),
        record("first session over second", ratios, "ratio", MIN_RATIO),
    ]


def make_tools(num_tools: int) -> list[ToolSpec]:
    """Made-up tools of about 100 tokens each, all different."""
    pairs = itertools.islice(itertools.product(_KINDS, _VERBS), num_tools)
    return [_make_tool(verb, kind) for kind, verb in pairs]


def _make_tool(verb: str, kind: str) -> ToolSpec:
    properties: JsonObject = {
        "id": {"type": "string", "description": f"Which {kind} to {verb}."},
        "owner": {"type": "string", "description": f"Who the {kind} belongs to."},
        "state": {"type": "string", "enum": ["open", "done", "late"]},
    }
    return ToolSpec(
        f"{verb}_{kind}",
        f"Use this to {verb} a {kind} of the team; dates are of the form 2026-01-31.",
        {"type": "object", "properties": properties, "required": ["id"]},
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """Seconds by what they were spent on, and the tokens of a prompt."""

    seconds: Mapping[str, float]
    num_tokens: int


async def _measure(config: Config, tools: Sequence[ToolSpec]) -> _Run:
    seconds: dict[str, float] = {}
    async with open_model_afresh(config, None) as model:
        for measure, question in ((FIRST, QUESTIONS[0]), (SECOND, QUESTIONS[1])):
            seconds[measure] = await _first_token_s(model, question, tools)
        num_tokens = await model.count_tokens([Message("user", QUESTIONS[0])], tools)
    with tempfile.TemporaryDirectory() as folder:
        for by in ("computing", "reading"):
            async with open_model_afresh(config, Path(folder)) as model:
                await model.support_of(tools)  # as an agent does; reads the vocabulary
                started = time.perf_counter()
                await model.prepare(tools)
                seconds[f"preparation by {by}"] = time.perf_counter() - started
                measure = f"first token, first session prepared by {by}"
                seconds[measure] = await _first_token_s(model, QUESTIONS[2], tools)
    return _Run(seconds, num_tokens)


@asynccontextmanager
async def open_model_afresh(config: Config, folder: Path | None) -> AsyncIterator[ChatModel]:
    """Load the model as a new process would and let it answer once."""
    from runtime.chat.model import ChatModel
    from runtime.engine.async_engine import ThreadedEngine
    from runtime.engine.engine import Engine
    from runtime.engine.saved_pages import SavedPages
    from runtime.hub import open_model

    _, tokenizer, runner, limits = open_model(find_model(config), config)
    engine = Engine(runner, limits, decoder=tokenizer.decoder, stop_ids=tokenizer.stop_ids)
    saved = None
    if folder is not None and runner.page_memory is not None:
        saved = SavedPages(folder, runner.page_memory, runner.page_size)
    threaded = ThreadedEngine(engine)
    async with anyio.create_task_group() as tasks:
        await tasks.start(threaded.run)
        model = ChatModel(config.model, tokenizer, threaded, engine.context_length, saved)
        await _first_token_s(model, "Hello!")
        yield model
        await threaded.aclose()


async def _first_token_s(model: ChatModel, question: str, tools: Sequence[ToolSpec] = ()) -> float:
    """Seconds from a conversation to the first token of its answer."""
    started = time.perf_counter()
    messages = [Message("user", question)]
    turn = model.stream(messages, tools=tools, sampling=SamplingParams(max_tokens=1))
    events = [event async for event in turn]
    seconds = time.perf_counter() - started
    end = events[-1]
    assert isinstance(end, TurnEnd)
    if end.error is not None:
        raise GenerationError(f"the engine failed: {end.error}")
    return seconds
