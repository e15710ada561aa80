"""What each tool does once its arguments are known to be valid; knows nothing of MCP.

Every function is the work of a run: it reports progress to the run and returns what a host
gets, the main text first, then the same and more as structured content.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol

import anyio.to_thread

from mcp_servers.model_server.tools import DEFAULT_MAX_TOKENS
from runtime.agent.events import (
    AgentEnd,
    AgentEvent,
    StepStarted,
    ToolCallFinished,
    ToolCallStarted,
)
from runtime.agent.loop import Agent, AgentModel
from runtime.agent.runs import Run
from runtime.chat.messages import Message, OutputSchema, ToolChoice, TurnEnd
from runtime.errors import GenerationError
from runtime.request import SamplingParams, Usage
from tools.errors import InvalidArgumentsError
from tools.spec import JsonObject, TextContent, ToolResult

if TYPE_CHECKING:
    from runtime.chat.model import Output
    from runtime.grammar.compile import GrammarSource


class Model(AgentModel, Protocol):
    """What a tool needs of a loaded chat model; `runtime.chat.model.ChatModel` is one."""

    @property
    def name(self) -> str: ...

    async def choose(
        self, messages: Sequence[Message], options: Sequence[str]
    ) -> Mapping[str, float]: ...


async def generate(run: Run, model: Model, arguments: JsonObject) -> ToolResult:
    """Write text for a prompt.

    Raises:
        UnsupportedSchemaError: the regex or grammar is wrong; says what and where.
        GenerationError: the text was cut off by `max_tokens` before it had its form.
    """
    output = await anyio.to_thread.run_sync(_form, arguments)
    messages = _messages(arguments.get("system"), arguments["prompt"])
    end, seconds = await _complete(run, model, messages, _sampling(arguments), output)
    if output is not None:
        _check_whole(end, "text", "a smaller regex or grammar")
    text = end.message.content
    return _done(text, text=text, finish_reason=end.finish_reason, **_ending(model, end, seconds))


async def extract(run: Run, model: Model, arguments: JsonObject) -> ToolResult:
    """Decode a JSON value under a schema.

    Raises:
        GenerationError: the value was cut off by `max_tokens`.
        UnsupportedSchemaError: nothing satisfies the schema, or it costs too much.
    """
    from mcp_servers.answers import read_value, schema_rule

    schema = arguments["schema"]
    request = _with_input(arguments["instructions"], arguments)
    messages = _messages(schema_rule(schema), request)
    sampling = _sampling(arguments)
    end, seconds = await _complete(run, model, messages, sampling, OutputSchema(schema))
    _check_whole(end, "value", "a smaller schema")
    value = read_value(schema, end.message.content)
    return _done(_compact(value), value=value, **_ending(model, end, seconds))


async def choose(run: Run, model: Model, arguments: JsonObject) -> ToolResult:
    """Rank options by the model's probability for each."""
    from mcp_servers.answers import with_options

    run.report(1, None, f"weighing {len(arguments['options'])} options")
    options = arguments["options"]
    prompt = with_options(_with_input(arguments["question"], arguments), options)
    scores = dict(await model.choose(_messages(None, prompt), options))
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
    messages = _messages(rule, arguments["task"])
    choice = ToolChoice(arguments.get("tool_choice", "auto"))
    running = agent.run(
        messages, tool_choice=choice, output=output, run_id=run.id, principal=run.principal
    )
    async with aclosing(running) as events:
        async for event in events:
            if isinstance(event, AgentEnd):
                return _agent_result(model_name, event, time.monotonic() - started, schema)
            if (message := _describe(event)) is not None:
                run.report(run.progress.done + 1, None, message)
    raise GenerationError("the agent ended without a result; try again")


async def _complete(
    run: Run,
    model: Model,
    messages: Sequence[Message],
    sampling: SamplingParams,
    output: Output | None = None,
) -> tuple[TurnEnd, float]:
    """Let the model take one turn; return its end and how many seconds it took.

    Progress counts the pieces of text as they come: one is a token, rarely a few.
    """
    started = time.monotonic()
    num_pieces = 0
    async for event in model.stream(messages, output=output, sampling=sampling):
        seconds = time.monotonic() - started
        if isinstance(event, TurnEnd):
            if event.finish_reason not in {"stop", "length"}:
                raise GenerationError(event.error or "the generation was ended; try again")
            return event, seconds
        num_pieces += 1
        rate = num_pieces / max(seconds, 1e-3)
        run.report(num_pieces, sampling.max_tokens, f"{num_pieces} tokens, {rate:.3g} tok/s")
    raise GenerationError("the model's turn broke off; try again")


def _messages(system: str | None, user: str) -> list[Message]:
    first = [Message("system", system)] if system else []
    return [*first, Message("user", user)]


def _with_input(request: str, arguments: JsonObject) -> str:
    text = arguments.get("input")
    return f"{request}\n\nText:\n{text}" if text else request


def _sampling(arguments: JsonObject) -> SamplingParams:
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


def _check_whole(end: TurnEnd, what: str, smaller: str) -> None:
    if end.finish_reason == "length":
        raise GenerationError(
            f"the {what} was not complete after {end.usage.completion_tokens} tokens; "
            f"give a larger max_tokens or {smaller}"
        )


def _done(text: str, /, **structured: Any) -> ToolResult:
    return ToolResult(content=(TextContent(text),), structured={"status": "done", **structured})


def _ending(model: Model, end: TurnEnd, seconds: float) -> JsonObject:
    return {"model": model.name, "usage": _usage(end.usage, seconds)}


def _usage(usage: Usage, seconds: float) -> JsonObject:
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
        text = "" if value is None else _compact(value[0])
        if value is not None:
            result["value"] = value[0]
    return _done(
        text or f"(no answer; the run ended by: {end.stopped_by})",
        **result,
        steps=[_step(call) for call in end.calls],
        stopped_by=end.stopped_by,
        model=model_name,
        usage=_usage(end.usage, seconds),
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


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
