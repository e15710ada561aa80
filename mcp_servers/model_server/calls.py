"""What each tool does once its arguments are known to be valid; knows nothing of MCP.

Every function is the work of a run: it reports progress to the run and returns what a host
gets, the main text first, then the same and more as structured content.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

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
from tools.spec import JsonObject, TextContent, ToolResult


class Model(AgentModel, Protocol):
    """What a tool needs of a loaded chat model; `runtime.chat.model.ChatModel` is one."""

    @property
    def name(self) -> str: ...

    async def choose(
        self, messages: Sequence[Message], options: Sequence[str]
    ) -> Mapping[str, float]: ...


async def generate(run: Run, model: Model, arguments: JsonObject) -> ToolResult:
    """Write text for a prompt."""
    messages = _messages(arguments.get("system"), arguments["prompt"])
    end, seconds = await _complete(run, model, messages, _sampling(arguments))
    text = end.message.content
    return _done(text, text=text, finish_reason=end.finish_reason, **_ending(model, end, seconds))


async def extract(run: Run, model: Model, arguments: JsonObject) -> ToolResult:
    """Decode a JSON value under a schema.

    Raises:
        GenerationError: the value was cut off by `max_tokens`.
        UnsupportedSchemaError: the schema has a keyword that cannot be enforced.
    """
    schema = arguments["schema"]
    rule = f"Answer with one JSON value that fits this JSON Schema: {json.dumps(schema)}"
    messages = _messages(rule, _with_input(arguments["instructions"], arguments))
    sampling = _sampling(arguments)
    end, seconds = await _complete(run, model, messages, sampling, OutputSchema(schema))
    if end.finish_reason == "length":
        raise GenerationError(
            f"the value was not complete after {end.usage.completion_tokens} tokens; "
            "give a larger max_tokens or a smaller schema"
        )
    value = json.loads(end.message.content)
    _check_value(schema, value)
    return _done(_compact(value), value=value, **_ending(model, end, seconds))


async def choose(run: Run, model: Model, arguments: JsonObject) -> ToolResult:
    """Rank options by the model's probability for each."""
    run.report(1, None, f"weighing {len(arguments['options'])} options")
    options = arguments["options"]
    listed = "\n".join(f"- {option}" for option in options)
    question = _with_input(arguments["question"], arguments)
    prompt = f"{question}\n\nAnswer with exactly one of these options:\n{listed}"
    scores = dict(await model.choose(_messages(None, prompt), options))
    choice = max(options, key=lambda option: scores[option])
    structured = {"choice": choice, "scores": scores, "model": model.name}
    return ToolResult(content=(TextContent(choice),), structured=structured)


async def agent_run(run: Run, agent: Agent, model_name: str, arguments: JsonObject) -> ToolResult:
    """Let an agent work on a task.

    Raises:
        ZondaError: the model failed.
    """
    started = time.monotonic()
    messages = _messages(None, arguments["task"])
    choice = ToolChoice(arguments.get("tool_choice", "auto"))
    async with aclosing(agent.run(messages, tool_choice=choice)) as events:
        async for event in events:
            if isinstance(event, AgentEnd):
                return _agent_result(model_name, event, time.monotonic() - started)
            if (message := _describe(event)) is not None:
                run.report(run.progress.done + 1, None, message)
    raise GenerationError("the agent ended without a result; try again")


async def _complete(
    run: Run,
    model: Model,
    messages: Sequence[Message],
    sampling: SamplingParams,
    output: OutputSchema | None = None,
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


def _check_value(schema: JsonObject, value: Any) -> None:
    from tools.validation import first_problem

    if (problem := first_problem(schema, value)) is not None:
        raise GenerationError(f"the model's value does not fit the schema: {problem}")


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


def _agent_result(model_name: str, end: AgentEnd, seconds: float) -> ToolResult:
    if end.error is not None:
        raise end.error
    return _done(
        end.answer or f"(no answer; the run ended by: {end.stopped_by})",
        answer=end.answer,
        steps=[_step(call) for call in end.calls],
        stopped_by=end.stopped_by,
        model=model_name,
        usage=_usage(end.usage, seconds),
    )


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
