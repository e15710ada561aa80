"""What calls cost under a grammar: forward passes with tokens forced and without, and masks."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import numpy as np
import numpy.typing as npt

from mcp_servers.cli.bench_machine import MachineProbe
from mcp_servers.cli.bench_setup import BenchOptions, LoadedModel
from mcp_servers.cli.records import Measurement, percentile
from runtime.chat.messages import AUTO, Message, ToolChoice, TurnEnd
from runtime.engine.embedding import Vectors
from runtime.engine.engine import Engine
from runtime.errors import GenerationError
from runtime.grammar.constraint import Constraint, ConstraintState
from runtime.request import GenerateRequest, SamplingParams, TokenChunk, Usage
from tools.spec import JsonObject, ToolSpec
from tools.validation import first_problem

if TYPE_CHECKING:
    from runtime.chat.model import ChatModel
    from runtime.engine.prefix_pages import PageBytes

BATCHES = (1, 32)
MAX_TURN_TOKENS = 256
MAX_SHARE = 2.0
MIN_TOKENS_PER_PASS = 4.0

QUESTIONS = (
    "What is the weather in Oslo tomorrow?",
    "How warm is it in Rome, in celsius?",
    "Order two green lamps for Ada, please.",
    "Where is my order 4711?",
)


def _tool(name: str, description: str, **properties: JsonObject) -> ToolSpec:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return ToolSpec(name, description, schema)


TOOLS = (
    _tool(
        "get_weather",
        "Forecast for a city.",
        city={"type": "string", "maxLength": 20},
        unit={"type": "string", "enum": ["celsius", "fahrenheit"]},
        days={"type": "integer", "minimum": 1, "maximum": 14},
    ),
    _tool(
        "order_item",
        "Order something from the shop.",
        item={"type": "string", "maxLength": 30},
        quantity={"type": "integer", "minimum": 1, "maximum": 99},
        delivery={"type": "string", "enum": ["standard", "express", "pickup"]},
        gift={"type": "boolean"},
    ),
    _tool(
        "track_order",
        "Say where an order is.",
        order_id={"type": "string", "pattern": "^[0-9]{4,8}$"},
        detailed={"type": "boolean"},
    ),
)
"""Bounded, so that a small model cannot go on for ever inside a string."""


def measure_calls(options: BenchOptions, model: LoadedModel) -> Iterator[Measurement]:
    """Turns that have to call a tool, the same without guesses, and with every token drawn.

    Greedy; each value is of all questions. After them the work on constraints in the steps of
    turns that must call and turns that may.
    """
    bench = Calls(model)
    probe = MachineProbe(options.config)
    runs: list[tuple[list[_Turn], list[_Turn], list[_Turn]]] = []
    for _ in range(options.repeats):
        with model.guessing(options.config.max_draft_tokens):
            guessed = [bench.answer(question) for question in QUESTIONS]
        forced = [bench.answer(question) for question in QUESTIONS]
        drawn = [bench.answer(question, _Drawn) for question in QUESTIONS]
        runs.append((guessed, forced, drawn))

    def record(
        measure: str,
        value: Callable[[list[_Turn], list[_Turn], list[_Turn]], float],
        unit: str,
        limit: float | None = None,
    ) -> Measurement:
        params = {"measure": measure, "tools": len(TOOLS), "turns": len(QUESTIONS)}
        values = [value(*turns) for turns in runs]
        return Measurement("tools", params, values, unit, limit)

    yield record("tokens per turn", lambda guessed, *_: _mean(_tokens(guessed)), "tokens")
    for index, measure in enumerate(
        ("forward passes per turn", "… nothing guessed", "… nor forced")
    ):
        yield record(measure, lambda *turns, at=index: _mean(_passes(turns[at])), "passes")
    yield record(
        "tokens per forward pass",
        lambda guessed, *_: sum(_tokens(guessed)) / sum(_passes(guessed)),
        "tokens",
        MIN_TOKENS_PER_PASS,
    )
    yield record(
        "turns whose calls are valid",
        lambda *turns: 100 * _mean([one.is_valid for some in turns for one in some]),
        "%",
        100.0,
    )
    yield record(
        "turns that say the same, nothing guessed or forced",
        lambda *turns: (
            100 * _mean([len({*said}) == 1 for said in zip(*map(_texts, turns), strict=True)])
        ),
        "%",
        100.0,
    )
    yield from _measure_steps(options, bench, probe)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _tokens(turns: Sequence[_Turn]) -> list[int]:
    return [turn.num_tokens for turn in turns]


def _texts(turns: Sequence[_Turn]) -> list[str]:
    return [turn.text for turn in turns]


def _passes(turns: Sequence[_Turn]) -> list[int]:
    return [turn.num_passes for turn in turns]


def _measure_steps(
    options: BenchOptions, bench: Calls, probe: MachineProbe
) -> Iterator[Measurement]:
    """How long masks take, and which share of a step all work on constraints takes."""
    starts = [
        bench.start_of(question, choice)
        for choice in (ToolChoice("required"), AUTO)
        for question in QUESTIONS
    ]
    for size in BATCHES:
        works = []
        for _ in range(options.repeats):
            probe.look()
            works.append(_run_together(bench.engine, starts, size))
        for measure, unit, limit, values in (
            ("mask, p50", "us", None, [percentile(one.fills_us, 0.5) for one in works]),
            ("mask, p99", "us", None, [percentile(one.fills_us, 0.99) for one in works]),
            ("step", "ms", None, [1e3 * one.steps / one.num_steps for one in works]),
            ("constraints' share of a step", "%", MAX_SHARE, [one.share for one in works]),
        ):
            params = {"measure": measure, "sequences": size}
            yield Measurement("tools", params, values, unit, limit, probe.bandwidth_gb_s)


@dataclass(frozen=True, slots=True)
class _Start:
    """A turn that may begin: its request and, to be copied, what it is decoded under."""

    request: GenerateRequest
    constraint: Constraint


@dataclass(frozen=True, slots=True)
class _Turn:
    """One turn: what it says, what it took, and whether its calls fit their schemas."""

    text: str
    num_tokens: int
    num_passes: int
    is_valid: bool


class Calls:
    """A chat model over the engine under test, each turn alone."""

    def __init__(self, model: LoadedModel) -> None:
        from runtime.chat.model import ChatModel

        self.engine = model.engine
        self._tokenizer = model.tokenizer
        self._stepped = _SteppedEngine(model.engine)
        context = model.engine.context_length
        self._chat: ChatModel = ChatModel("benchmark", model.tokenizer, self._stepped, context)

    def answer(
        self, question: str, decorate: Callable[[Constraint], Constraint] | None = None
    ) -> _Turn:
        """Let the model answer with a call."""
        if decorate is not None:
            self._stepped.decorate = decorate
        end = anyio.run(self._stream, question, ToolChoice("required"))
        self._stepped.decorate = _as_is
        calls = end.message.tool_calls
        schemas = {tool.name: tool.input_schema for tool in TOOLS}
        problems = [first_problem(schemas[call.name], call.arguments) for call in calls]
        is_valid = bool(calls) and problems == [None] * len(calls)
        token_ids, passes = self._stepped.token_ids, self._stepped.usage.forward_passes
        # Which token ends the turn is the model's to choose where it is not forced.
        said = token_ids[:-1] if token_ids[-1] in self._tokenizer.stop_ids else token_ids
        return _Turn(self._tokenizer.decode(said), len(token_ids), passes, is_valid)

    def request_of(self, messages: Sequence[Message]) -> GenerateRequest:
        """What a turn without tools asks of the engine."""

        async def stream() -> None:
            sampling = SamplingParams(max_tokens=1)
            async for _ in self._chat.stream(messages, sampling=sampling):
                pass

        anyio.run(stream)
        assert self._stepped.request is not None
        return self._stepped.request

    def start_of(self, question: str, choice: ToolChoice) -> _Start:
        """What the turn would be decoded from."""
        starts: list[Constraint] = []

        def keep(constraint: Constraint) -> Constraint:
            starts.append(constraint.fork())
            return constraint

        self._stepped.decorate = keep
        anyio.run(self._stream, question, choice)
        self._stepped.decorate = _as_is
        assert self._stepped.request is not None
        return _Start(self._stepped.request, starts[0])

    async def _stream(self, question: str, choice: ToolChoice) -> TurnEnd:
        sampling = SamplingParams(max_tokens=MAX_TURN_TOKENS)
        turn = self._chat.stream(
            [Message("user", question)], tools=TOOLS, tool_choice=choice, sampling=sampling
        )
        end = [event async for event in turn][-1]
        assert isinstance(end, TurnEnd)
        if end.error is not None:
            raise GenerationError(f"the engine failed: {end.error}")
        return end


def _as_is(constraint: Constraint) -> Constraint:
    return constraint


class _SteppedEngine:
    """An `AsyncEngine` of one request at a time, stepped by whoever waits for its tokens.

    Attributes:
        decorate: makes the constraint to decode under of the one that was asked for.
        request: the last one.
        token_ids: what it was answered with.
        usage: what that took.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.decorate: Callable[[Constraint], Constraint] = _as_is
        self.request: GenerateRequest | None = None
        self.token_ids: list[int] = []
        self.usage = Usage()

    async def generate(
        self, request: GenerateRequest, constraint: Constraint | None = None
    ) -> AsyncGenerator[TokenChunk]:
        self.request, self.token_ids, self.usage = request, [], Usage()
        decorated = None if constraint is None else self.decorate(constraint)
        sequence_id = self._engine.add(request, decorated)
        try:
            while self._engine.has_work:
                chunk = self._engine.step().get(sequence_id, TokenChunk())
                self.token_ids += chunk.token_ids
                self.usage = chunk.usage or self.usage
                yield chunk
        finally:
            self._engine.abort(sequence_id)

    async def hold_prefix(
        self, lease: str, token_ids: Sequence[int], pages: PageBytes | None = None
    ) -> bool:
        return False

    async def read_prefix(self, token_ids: Sequence[int]) -> PageBytes | None:
        return None

    async def embed(self, texts: Sequence[Sequence[int]]) -> Vectors:
        turns = self._engine.embed(texts)
        while True:
            try:
                next(turns)
            except StopIteration as stop:
                vectors: Vectors = stop.value
                return vectors

    async def aclose(self) -> None:
        """Nothing runs."""


class _Decorated:
    """A constraint that is another one."""

    def __init__(self, inner: Constraint) -> None:
        self._inner = inner

    def fill(self, token_bitmask: npt.NDArray[np.int32], row: int) -> None:
        self._inner.fill(token_bitmask, row)

    def advance(self, token_ids: Sequence[int]) -> int:
        return self._inner.advance(token_ids)

    def forced(self) -> list[int]:
        return self._inner.forced()

    def rollback(self, num_tokens: int) -> None:
        self._inner.rollback(num_tokens)

    def fork(self) -> Constraint:
        return self._inner.fork()

    @property
    def state(self) -> ConstraintState:
        return self._inner.state


class _Drawn(_Decorated):
    """Dictates nothing but how to end in time, once a token was refused for that."""

    def __init__(self, inner: Constraint) -> None:
        super().__init__(inner)
        self._has_refused = False

    def advance(self, token_ids: Sequence[int]) -> int:
        count = self._inner.advance(token_ids)
        self._has_refused = count < len(token_ids)
        return count

    def forced(self) -> list[int]:
        return self._inner.forced() if self._has_refused else []


@dataclass(slots=True)
class _Work:
    """Seconds that constraints and whole steps took, and microseconds of every mask."""

    constraints: float = 0.0
    fills_us: list[float] = field(default_factory=list)
    steps: float = 0.0
    num_steps: int = 0

    @property
    def share(self) -> float:
        """Percent of the steps."""
        return 100 * self.constraints / self.steps


class _Timed(_Decorated):
    """Adds what the engine waits for a constraint to its work."""

    def __init__(self, inner: Constraint, work: _Work) -> None:
        super().__init__(inner)
        self._work = work

    def fill(self, token_bitmask: npt.NDArray[np.int32], row: int) -> None:
        started = time.perf_counter()
        self._inner.fill(token_bitmask, row)
        seconds = time.perf_counter() - started
        self._work.constraints += seconds
        self._work.fills_us.append(1e6 * seconds)

    def advance(self, token_ids: Sequence[int]) -> int:
        started = time.perf_counter()
        count = self._inner.advance(token_ids)
        self._work.constraints += time.perf_counter() - started
        return count

    def forced(self) -> list[int]:
        started = time.perf_counter()
        run = self._inner.forced()
        self._work.constraints += time.perf_counter() - started
        return run

    @property
    def state(self) -> ConstraintState:
        started = time.perf_counter()
        state = self._inner.state
        self._work.constraints += time.perf_counter() - started
        return state


def _run_together(engine: Engine, starts: Sequence[_Start], size: int) -> _Work:
    """Run turns, `size` at a time, from where all have a token to where the first one ends.

    All starts take part once at least.
    """
    total = _Work()
    for first in range(0, max(len(starts), size), size):
        work = _Work()
        waiting: set[int] = set()
        for index in range(first, first + size):
            start = starts[index % len(starts)]
            waiting.add(engine.add(start.request, _Timed(start.constraint.fork(), work)))
        ids, is_over = frozenset(waiting), False
        while not is_over:
            before = work.constraints, len(work.fills_us)
            started = time.perf_counter()
            chunks = engine.step()
            seconds = time.perf_counter() - started
            if not waiting:
                total.steps += seconds
                total.num_steps += 1
                total.constraints += work.constraints - before[0]
                total.fills_us += work.fills_us[before[1] :]
            waiting -= chunks.keys()
            is_over = any(chunk.finish_reason is not None for chunk in chunks.values())
        for sequence_id in ids:
            engine.abort(sequence_id)
    return total
