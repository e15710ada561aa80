"""`generate_batch`: many prompts in one call, decoded together by the engine.

An item that fails says so in its place; the others are not disturbed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

import anyio

from mcp_servers.model_server.calls import (
    Model,
    check_whole,
    compact,
    done,
    end_of,
    messages_of,
    sampling_of,
    usage_of,
)
from mcp_servers.model_server.schemas import (
    CLOSED,
    EXTRACTED,
    MAX_TOKENS,
    SEED,
    SYSTEM,
    TEMPERATURE,
    USAGE,
    WAIT,
    object_schema,
    outcome_schema,
)
from runtime.agent.runs import Run
from runtime.chat.messages import Message, OutputSchema, TurnEnd
from runtime.request import SamplingParams, Usage
from tools.errors import InvalidArgumentsError, ZondaError
from tools.spec import JsonObject, ToolResult, ToolSpec

MAX_ITEMS = 256
MAX_AT_ONCE = 32
"""Items of one call that are in the engine at the same time; other callers keep their share."""

_PLACE = re.compile(r"\{\{|\}\}|\{(\w+)\}")

BATCH_RESULTS: JsonObject = {
    "results": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "index": {"type": "integer", "description": "Place of the item, from 0."},
                "text": {"type": "string"},
                "value": EXTRACTED["value"],
                "finish_reason": {"type": "string", "enum": ["stop", "length", "error"]},
                "error": {"type": "string", "description": "Why this item has no answer."},
            },
            "required": ["index", "finish_reason"],
        },
    },
    "model": {"type": "string"},
    "usage": USAGE,
}


def batch_spec(model: JsonObject) -> ToolSpec:
    """Describe `generate_batch`."""
    return ToolSpec(
        name="generate_batch",
        title="Generate for many items",
        description="Let a local model work on up to 256 prompts at once, much quicker than one "
        "call each. Give whole prompts, or items and a template; with a schema each answer is a "
        "JSON value.",
        input_schema=object_schema(
            {
                "prompts": {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1},
                    "minItems": 1,
                    "maxItems": MAX_ITEMS,
                    "description": "Whole prompts, each answered by itself.",
                },
                "items": {
                    "type": "array",
                    "items": {
                        "anyOf": [{"type": "string"}, {"type": "number"}, {"type": "object"}]
                    },
                    "minItems": 1,
                    "maxItems": MAX_ITEMS,
                    "description": "What goes into the template, instead of prompts: texts, or "
                    "objects whose fields it names.",
                },
                "template": {
                    "type": "string",
                    "minLength": 1,
                    "description": "The prompt of each item: {item} stands for the item, {name} "
                    "for the field of an object; {{ and }} are braces.",
                },
                "schema": {
                    "type": "object",
                    "description": "JSON Schema of every answer, which then comes as value.",
                },
                "system": SYSTEM,
                "model": model,
                "max_tokens": {**MAX_TOKENS, "description": "Most tokens of each answer."},
                "temperature": TEMPERATURE,
                "seed": SEED,
                "wait_seconds": WAIT,
            },
            required=[],
        ),
        output_schema=outcome_schema(BATCH_RESULTS),
        annotations=CLOSED,
    )


async def generate_batch(run: Run, model: Model, arguments: JsonObject) -> ToolResult:
    """Answer every prompt; results stand in the order of the prompts.

    Raises:
        InvalidArgumentsError: not exactly one of prompts and items, or a template that an item
            does not fit.
        UnsupportedSchemaError: nothing satisfies the schema, or it costs too much.
    """
    from mcp_servers.answers import schema_rule

    schema = arguments.get("schema")
    rules = [arguments.get("system"), None if schema is None else schema_rule(schema)]
    system = "\n\n".join(rule for rule in rules if rule) or None
    prompts = _prompts(arguments)
    batch = _Batch(run, model, sampling_of(arguments), schema, len(prompts))
    await batch.answer([messages_of(system, prompt) for prompt in prompts])
    answers = [result.get("value", result.get("text")) for result in batch.results]
    return done(
        compact(answers),
        results=batch.results,
        model=model.name,
        usage=usage_of(batch.usage, time.monotonic() - batch.started),
    )


class _Batch:
    """The items of one call, and what became of those that are finished."""

    def __init__(
        self,
        run: Run,
        model: Model,
        sampling: SamplingParams,
        schema: JsonObject | None,
        num_items: int,
    ) -> None:
        self._run = run
        self._model = model
        self._sampling = sampling
        self._schema = schema
        self._output = None if schema is None else OutputSchema(schema)
        self._finished: dict[int, JsonObject] = {}
        self._num_items = num_items
        self.started = time.monotonic()
        self.usage = Usage()

    @property
    def results(self) -> list[JsonObject]:
        return [self._finished[index] for index in sorted(self._finished)]

    async def answer(self, conversations: Sequence[list[Message]]) -> None:
        """Answer all; the engine decodes `MAX_AT_ONCE` of them in one batch."""
        places = anyio.CapacityLimiter(MAX_AT_ONCE)
        self._report()
        async with anyio.create_task_group() as group:
            for index, messages in enumerate(conversations):
                group.start_soon(self._answer_one, index, messages, places)

    async def _answer_one(
        self, index: int, messages: list[Message], places: anyio.CapacityLimiter
    ) -> None:
        async with places:
            try:
                turn = self._model.stream(messages, output=self._output, sampling=self._sampling)
                end = await end_of(turn)
                result = self._read(end)
                self.usage += end.usage
            except ZondaError as exc:
                result = {"finish_reason": "error", "error": str(exc)}
        self._finished[index] = {"index": index, **result}
        answer = result.get("error") or result.get("text") or compact(result.get("value"))
        self._run.transcript.add("user", messages[-1].content)
        self._run.transcript.add("assistant", answer)
        self._report()

    def _read(self, end: TurnEnd) -> JsonObject:
        from mcp_servers.answers import read_value

        if self._schema is None:
            return {"text": end.message.content, "finish_reason": end.finish_reason}
        check_whole(end, "value", "a smaller schema")
        value = read_value(self._schema, end.message.content)
        return {"value": value, "finish_reason": end.finish_reason}

    def _report(self) -> None:
        num_done = len(self._finished)
        text = f"{num_done} of {self._num_items} items, {self.usage.completion_tokens} tokens"
        self._run.report(num_done, self._num_items, text)


def _prompts(arguments: JsonObject) -> list[str]:
    if ("prompts" in arguments) == ("items" in arguments):
        raise InvalidArgumentsError("give either prompts, or items and a template")
    if "prompts" in arguments:
        if "template" in arguments:
            raise InvalidArgumentsError("a template goes with items; prompts are whole already")
        return list(arguments["prompts"])
    if "template" not in arguments:
        raise InvalidArgumentsError("items need a template that says what to do with each")
    template = arguments["template"]
    if not any(place[1] for place in _PLACE.finditer(template)):
        raise InvalidArgumentsError("the template has no place for the item, such as {item}")
    return [_fill(template, index, item) for index, item in enumerate(arguments["items"])]


def _fill(template: str, index: int, item: Any) -> str:
    fields = item if isinstance(item, dict) else {}

    def put(place: re.Match[str]) -> str:
        name = place[1]
        if name is None:
            return place[0][0]
        if name != "item" and name not in fields:
            raise InvalidArgumentsError(f"item {index} has no field {name!r} for the template")
        value = fields.get(name, item)
        return value if isinstance(value, str) else compact(value)

    return _PLACE.sub(put, template)
