"""What each tool does once its arguments are known to be valid; knows nothing of MCP.

Every function is the work of a run: it reports progress to the run and returns what a host
gets, the main text first, then the same and more as structured content.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol, Self

import anyio.to_thread

from mcp_servers.model_server.schemas import DEFAULT_MAX_TOKENS
from runtime.agent.events import (
    AgentEnd,
    AgentEvent,
    StepStarted,
    ToolCallFinished,
    ToolCallStarted,
)
from runtime.agent.loop import Agent, AgentModel
from runtime.agent.runs import Run
from runtime.chat.messages import ChatEvent, Message, OutputSchema, TextDelta, ToolChoice, TurnEnd
from runtime.errors import GenerationError
from runtime.request import GenerateRequest, SamplingParams, TokenChunk, Usage
from tools.errors import InvalidArgumentsError
from tools.spec import JsonObject, TextContent, ToolResult, ToolSpec

if TYPE_CHECKING:
    from runtime.chat.model import Output
    from runtime.engine.embedding import Vectors
    from runtime.grammar.compile import GrammarSource
    from runtime.tokenizer.tokenizer import Tokenizer


class Model(AgentModel, Protocol):
    """What a tool needs of a loaded chat model; `runtime.chat.model.ChatModel` is one."""

    @property
    def name(self) -> str: ...

    def for_caller(self, caller: str) -> Self:
        """The same model; what this caller says is not shared with others."""
        ...

    async def count_tokens(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        thinks: bool | None = None,
    ) -> int: ...

    async def choose(
        self, messages: Sequence[Message], options: Sequence[str]
    ) -> Mapping[str, float]: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def complete(
        self, request: GenerateRequest, output: Output | None = None
    ) -> AsyncGenerator[TokenChunk]: ...

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        thinks: bool | None = None,
    ) -> Sequence[int]: ...

    async def embed(self, texts: Sequence[str | Sequence[int]]) -> tuple[Vectors, int]: ...


async def generate(run: Run, model: Model, arguments: JsonObject) -> ToolResult:
    """Write text for a prompt.

    Raises:
        UnsupportedSchemaError: the regex or grammar is wrong; says what and where.
        GenerationError: the text was cut off by `max_tokens` before it had its form.
    """
    output = await anyio.to_thread.run_sync(_form, arguments)
    messages = messages_of(arguments.get("system"), arguments["prompt"])
    end, seconds = await complete(run, model, messages, sampling_of(arguments), output)
    if output is not None:
        check_whole(end, "text", "a smaller regex or grammar")
    text = end.message.content
    return done(text, text=text, finish_reason=end.finish_reason, **_ending(model, end, seconds))


async def extract(run: Run, model: Model, arguments: JsonObject) -> ToolResult:
    """Decode a JSON value under a schema.

    Raises:
        GenerationError: the value was cut off by `max_tokens`.
        UnsupportedSchemaError: nothing satisfies the schema, or it costs too much.
    """
    from mcp_servers.answers import read_value, schema_rule

    schema = arguments["schema"]
    request = with_input(arguments["instructions"], arguments)
    messages = messages_of(schema_rule(schema), request)
    sampling = sampling_of(arguments)
    end, seconds = await complete(run, model, messages, sampling, OutputSchema(schema))
    check_whole(end, "value", "a smaller schema")
    value = read_value(schema, end.message.content)
    return done(compact(value), value=value, **_ending(model, end, seconds))


async def choose(run: Run, model: Model, arguments: JsonObject) -> ToolResult:
    """Rank options by the model's probability for each."""
    from mcp_servers.answers import with_options

    run.report(1, None, f"weighing {len(arguments['options'])} options")
    options = arguments["options"]
    prompt = with_options(with_input(arguments["question"], arguments), options)
    scores = dict(await model.choose(messages_of(None, prompt), options))
    choice = max(options, key=lambda option: scores[option])
    structured = {"choice": choice, "scores": scores, "model": model.name}
    return ToolResult(content=(TextContent(choice),), structured=structured)


async def agent_run(run: Run, agent: Agent, model_name: str, arguments: JsonObject) -> ToolResult:
    """Let an agent work on a task; with a schema, its answer is a value.

    Raises:
        UnsupportedSchemaError: nothing satisfies the schema, or it costs too much.
        ZondaError: the model failed.
    """
    from mcp_servers.answers import schema_rule

    started = time.monotonic()
    schema = arguments.get("schema")
    rule, output = (None, None) if schema is None else (schema_rule(schema), OutputSchema(schema))
    messages = messages_of(rule, arguments["task"])
    choice = ToolChoice(arguments.get("tool_choice", "auto"))
    note_messages(run, messages)
    running = agent.run(
        messages, tool_choice=choice, output=output, run_id=run.id, principal=run.principal
    )
    async with aclosing(running) as events:
        async for event in events:
            if isinstance(event, AgentEnd):
                return _agent_result(model_name, event, time.monotonic() - started, schema)
            _note_event(run, event)
            if (message := _describe(event)) is not None:
                run.report(run.progress.done + 1, None, message)
    raise GenerationError("the agent ended without a result; try again")


async def complete(
    run: Run,
    model: Model,
    messages: Sequence[Message],
    sampling: SamplingParams,
    output: Output | None = None,
) -> tuple[TurnEnd, float]:
    """Let the model take one turn; return its end and how many seconds it took."""
    note_messages(run, messages)
    turn = model.stream(messages, output=output, sampling=sampling)
    return await follow_turn(run, turn, sampling.max_tokens)


async def follow_turn(
    run: Run, turn: AsyncIterator[ChatEvent], max_tokens: int
) -> tuple[TurnEnd, float]:
    """Report a turn's progress to its run; return its end and how many seconds it took.

    Progress counts the pieces of text as they come: one is a token, rarely a few.
    """
    started = time.monotonic()
    num_pieces = 0

    def note(event: ChatEvent) -> None:
        nonlocal num_pieces
        num_pieces += 1
        if isinstance(event, TextDelta):
            run.transcript.extend(event.text)
        rate = num_pieces / max(time.monotonic() - started, 1e-3)
        run.report(num_pieces, max_tokens, f"{num_pieces} tokens, {rate:.3g} tok/s")

    end = await end_of(turn, note)
    return end, time.monotonic() - started


async def end_of(
    turn: AsyncIterator[ChatEvent], note: Callable[[ChatEvent], None] = lambda event: None
) -> TurnEnd:
    """Return a turn's end, telling of every event before it.

    Raises:
        GenerationError: the turn failed.
    """
    async for event in turn:
        if isinstance(event, TurnEnd):
            if event.finish_reason in {"error", "cancelled"}:
                raise GenerationError(event.error or "the generation was ended; try again")
            return event
        note(event)
    raise GenerationError("the model's turn broke off; try again")


def note_messages(run: Run, messages: Sequence[Message]) -> None:
    """Begin a run's transcript with what the model is told."""
    for message in messages:
        run.transcript.add(message.role, message.content)


def _note_event(run: Run, event: AgentEvent) -> None:
    if isinstance(event, TextDelta):
        run.transcript.extend(event.text)
    elif isinstance(event, ToolCallStarted):
        call = {"name": event.call.name, "arguments": event.call.arguments}
        run.transcript.add("assistant", call=call)
    elif isinstance(event, ToolCallFinished):
        run.transcript.add("tool", event.result.text)


def messages_of(system: str | None, user: str) -> list[Message]:
    """A conversation of a request, below its standing instructions."""
    first = [Message("system", system)] if system else []
    return [*first, Message("user", user)]


def with_input(request: str, arguments: JsonObject) -> str:
    """A request with the text to work on, if there is any."""
    text = arguments.get("input")
    return f"{request}\n\nText:\n{text}" if text else request


def sampling_of(arguments: JsonObject) -> SamplingParams:
    """How the arguments want tokens drawn."""
    return SamplingParams(
        max_tokens=int(arguments.get("max_tokens", DEFAULT_MAX_TOKENS)),
        temperature=float(arguments.get("temperature", 0)),
        seed=arguments.get("seed"),
        stop=tuple(arguments.get("stop", ())),
    )


def _form(arguments: JsonObject) -> GrammarSource | None:
    """What `regex` or `grammar` ask for; checking it may take a second."""
    if arguments.keys().isdisjoint({"regex", "grammar"}):
        return None
    from runtime.grammar.compile import from_grammar, from_regex

    if {"regex", "grammar"} <= arguments.keys():
        raise InvalidArgumentsError("give regex or grammar, not both")
    if "regex" in arguments:
        return from_regex(arguments["regex"])
    return from_grammar(arguments["grammar"])


def check_whole(end: TurnEnd, what: str, smaller: str) -> None:
    """Refuse an answer that was cut off.

    Raises:
        GenerationError: `max_tokens` was too few; `smaller` is what else would help.
    """
    if end.finish_reason == "length":
        raise GenerationError(
            f"the {what} was not complete after {end.usage.completion_tokens} tokens; "
            f"give a larger max_tokens or {smaller}"
        )


def done(text: str, /, **structured: Any) -> ToolResult:
    """A finished run's result: what a host shows first, and all of it."""
    return ToolResult(content=(TextContent(text),), structured={"status": "done", **structured})


def _ending(model: Model, end: TurnEnd, seconds: float) -> JsonObject:
    return {"model": model.name, "usage": usage_of(end.usage, seconds)}


def usage_of(usage: Usage, seconds: float) -> JsonObject:
    """The usage block of a result."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "forced_tokens": usage.forced_tokens,
        "seconds": round(seconds, 3),
    }


def _describe(event: AgentEvent) -> str | None:
    """Say what a host is told of an event, if anything."""
    if isinstance(event, StepStarted):
        return f"step {event.step}"
    if isinstance(event, ToolCallStarted):
        return f"step {event.step}: {event.call.name}"
    return None


def _agent_result(
    model_name: str, end: AgentEnd, seconds: float, schema: JsonObject | None
) -> ToolResult:
    if end.error is not None:
        raise end.error
    result: JsonObject = {"answer": end.answer}
    text = end.answer
    if schema is not None:
        value = _read_answer(schema, end)
        text = "" if value is None else compact(value[0])
        if value is not None:
            result["value"] = value[0]
    return done(
        text or f"(no answer; the run ended by: {end.stopped_by})",
        **result,
        steps=[_step(call) for call in end.calls],
        stopped_by=end.stopped_by,
        model=model_name,
        usage=usage_of(end.usage, seconds),
    )


def _read_answer(schema: JsonObject, end: AgentEnd) -> tuple[Any] | None:
    """The value of a run's answer; None when the run was stopped before it was whole.

    Its tools have acted: what was done is told even then.

    Raises:
        GenerationError: the answer is whole and not of the schema.
    """
    from mcp_servers.answers import read_value

    if end.stopped_by in {"tokens", "time", "cancelled"}:
        return None
    try:
        return (read_value(schema, end.answer),)
    except GenerationError:
        if end.stopped_by in {"done", "steps"}:
            raise
        return None


def _step(finished: ToolCallFinished) -> JsonObject:
    step: JsonObject = {
        "tool": finished.call.name,
        "arguments": finished.call.arguments,
        "ok": not finished.result.is_error,
        "seconds": round(finished.seconds, 3),
    }
    if finished.approved_by is not None:
        step["approved_by"] = finished.approved_by
    return step


def compact(value: Any) -> str:
    """A value as JSON on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
