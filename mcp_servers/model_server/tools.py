"""The tools of the model server as data: names, descriptions, schemas, annotations."""

from __future__ import annotations

from collections.abc import Sequence

from tools.spec import JsonObject, ToolAnnotations, ToolSpec

DEFAULT_WAIT_S = 45
MAX_WAIT_S = 600
DEFAULT_MAX_TOKENS = 256
MAX_MAX_TOKENS = 8192
MAX_STEPS = 16
MAX_OPTIONS = 64
MAX_PATTERN_CHARS = 16 * 1024
MAX_GRAMMAR_CHARS = 64 * 1024

_CLOSED = ToolAnnotations(read_only=True, destructive=False, open_world=False)
_REPEATABLE = ToolAnnotations(read_only=True, destructive=False, idempotent=True, open_world=False)
_ACTING = ToolAnnotations(read_only=False, destructive=True, open_world=True)

_WAIT: JsonObject = {
    "type": "number",
    "minimum": 0,
    "maximum": MAX_WAIT_S,
    "default": DEFAULT_WAIT_S,
    "description": "Seconds to wait for the result. When they are over, the answer has status "
    "'running' and a run_id for run_result.",
}
_MAX_TOKENS: JsonObject = {
    "type": "integer",
    "minimum": 1,
    "maximum": MAX_MAX_TOKENS,
    "default": DEFAULT_MAX_TOKENS,
    "description": "Most tokens to generate.",
}
_INPUT_TEXT: JsonObject = {"type": "string", "description": "Text to work on, kept apart."}

_STATUS: JsonObject = {
    "type": "string",
    "enum": ["done", "running", "cancelled"],
    "description": "'running' is no error: call run_result with the run_id.",
}
_RUN_ID: JsonObject = {"type": "string", "description": "Handle for run_result."}
_USAGE: JsonObject = {
    "type": "object",
    "properties": {
        "prompt_tokens": {"type": "integer"},
        "completion_tokens": {"type": "integer"},
        "cached_tokens": {"type": "integer"},
        "forced_tokens": {"type": "integer"},
        "seconds": {"type": "number"},
    },
    "required": ["prompt_tokens", "completion_tokens", "cached_tokens", "seconds"],
}
_GENERATED: JsonObject = {
    "text": {"type": "string"},
    "finish_reason": {"type": "string", "enum": ["stop", "length"]},
    "model": {"type": "string"},
    "usage": _USAGE,
}
_EXTRACTED: JsonObject = {
    "value": {
        "anyOf": [
            {"type": kind} for kind in ("object", "array", "string", "number", "boolean", "null")
        ],
        "description": "Valid against the schema that was given.",
    },
    "model": {"type": "string"},
    "usage": _USAGE,
}
_STEP: JsonObject = {
    "type": "object",
    "properties": {
        "tool": {"type": "string"},
        "arguments": {"type": "object"},
        "ok": {"type": "boolean"},
        "seconds": {"type": "number"},
        "approved_by": {"type": "string", "description": "Absent when the call was refused."},
    },
    "required": ["tool", "arguments", "ok", "seconds"],
}
_ANSWERED: JsonObject = {
    "answer": {"type": "string"},
    "value": {
        **_EXTRACTED["value"],
        "description": "The answer as a value of the schema that was given; absent when there "
        "was none, or the run was stopped before its answer was whole.",
    },
    "steps": {"type": "array", "items": _STEP},
    "stopped_by": {
        "type": "string",
        "enum": ["done", "steps", "calls", "time", "tokens", "denied", "error", "cancelled"],
    },
    "model": {"type": "string"},
    "usage": _USAGE,
}


def list_specs(models: Sequence[str], servers: Sequence[str]) -> tuple[ToolSpec, ...]:
    """Build the tools for these model names (the default first) and tool servers.

    `agent_run` is there only when there are tool servers.
    """
    model = {
        "type": "string",
        "enum": list(models),
        "default": models[0],
        "description": "Which model.",
    }
    specs = [_generate(model), _extract(model), _choose(model), _run_result(servers)]
    if servers:
        specs.append(_agent_run(model, servers))
    return tuple(specs)


def _generate(model: JsonObject) -> ToolSpec:
    return ToolSpec(
        name="generate",
        title="Generate text",
        description="Let a local model write text for a prompt. Private and free: nothing leaves "
        "this machine. Use extract instead when you need JSON, choose to pick from options; with "
        "regex or grammar the text has that form by construction.",
        input_schema=_object(
            {
                "prompt": {"type": "string", "minLength": 1, "description": "What to do."},
                "system": {"type": "string", "description": "Standing instructions."},
                "model": model,
                "max_tokens": _MAX_TOKENS,
                "temperature": {
                    "type": "number",
                    "minimum": 0,
                    "maximum": 2,
                    "default": 0,
                    "description": "0 always takes the likeliest token.",
                },
                "seed": {
                    "type": "integer",
                    "minimum": 0,
                    "description": "Makes a draw with a temperature repeatable.",
                },
                "stop": {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1},
                    "maxItems": 8,
                    "description": "Strings that end the text; they are not part of it.",
                },
                "regex": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_PATTERN_CHARS,
                    "description": "Regular expression that the whole text will match; no "
                    "look-around, no back-references.",
                },
                "grammar": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_GRAMMAR_CHARS,
                    "description": "Grammar of the text, in Lark (rule start) or GBNF (rule "
                    "root); not together with regex.",
                },
                "wait_seconds": _WAIT,
            },
            required=["prompt"],
        ),
        output_schema=_outcome(_GENERATED),
        annotations=_CLOSED,
    )


def _extract(model: JsonObject) -> ToolSpec:
    return ToolSpec(
        name="extract",
        title="Extract JSON",
        description="Let a local model produce a JSON value that is valid against your JSON "
        "Schema by construction: it is decoded under a grammar.",
        input_schema=_object(
            {
                "instructions": {
                    "type": "string",
                    "minLength": 1,
                    "description": "What to extract or produce.",
                },
                "schema": {
                    "type": "object",
                    "description": "JSON Schema of the value; what comes back satisfies it.",
                },
                "input": _INPUT_TEXT,
                "model": model,
                "max_tokens": _MAX_TOKENS,
                "wait_seconds": _WAIT,
            },
            required=["instructions", "schema"],
        ),
        output_schema=_outcome(_EXTRACTED),
        annotations=_CLOSED,
    )


def _choose(model: JsonObject) -> ToolSpec:
    return ToolSpec(
        name="choose",
        title="Choose an option",
        description="Let a local model choose one of several options and say how probable it "
        "finds each. Much quicker than generate; good for classification.",
        input_schema=_object(
            {
                "question": {"type": "string", "minLength": 1, "description": "What to decide."},
                "options": {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1},
                    "minItems": 2,
                    "maxItems": MAX_OPTIONS,
                    "uniqueItems": True,
                    "description": "The answers to choose from.",
                },
                "input": _INPUT_TEXT,
                "model": model,
            },
            required=["question", "options"],
        ),
        output_schema={
            "type": "object",
            "properties": {
                "choice": {"type": "string"},
                "scores": {
                    "type": "object",
                    "additionalProperties": {"type": "number"},
                    "description": "Probability of each option; they sum to 1.",
                },
                "model": {"type": "string"},
            },
            "required": ["choice", "scores", "model"],
        },
        annotations=_REPEATABLE,
    )


def _run_result(servers: Sequence[str]) -> ToolSpec:
    shapes = _GENERATED | (_ANSWERED if servers else {}) | _EXTRACTED
    return ToolSpec(
        name="run_result",
        title="Result of a run",
        description="Wait for a run that another tool handed out with status 'running', and get "
        "its result in that tool's shape; or cancel it.",
        input_schema=_object(
            {
                "run_id": {"type": "string", "minLength": 1, "description": "The run's handle."},
                "wait_seconds": _WAIT,
                "cancel": {
                    "type": "boolean",
                    "default": False,
                    "description": "End the run instead of waiting for it.",
                },
            },
            required=["run_id"],
        ),
        output_schema=_outcome(shapes),
        annotations=_CLOSED,
    )


def _agent_run(model: JsonObject, servers: Sequence[str]) -> ToolSpec:
    return ToolSpec(
        name="agent_run",
        title="Run an agent",
        description="Give a local model a task that it works on by itself with the tools of "
        f"these servers: {', '.join(servers)}. It acts with this machine's rights to them.",
        input_schema=_object(
            {
                "task": {"type": "string", "minLength": 1, "description": "What to achieve."},
                "servers": {
                    "type": "array",
                    "items": {"type": "string", "enum": list(servers)},
                    "minItems": 1,
                    "uniqueItems": True,
                    "description": "Use the tools of these servers only; all when absent.",
                },
                "model": model,
                "tool_choice": {
                    "type": "string",
                    "enum": ["auto", "required"],
                    "default": "auto",
                    "description": "With required, the first turn has to call a tool; a small "
                    "model may otherwise answer from memory.",
                },
                "max_steps": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": MAX_STEPS,
                    "default": MAX_STEPS,
                    "description": "Most turns of the model; the last one gives the answer.",
                },
                "schema": {
                    "type": "object",
                    "description": "JSON Schema of the final answer, which then comes as value.",
                },
                "wait_seconds": _WAIT,
            },
            required=["task"],
        ),
        output_schema=_outcome(_ANSWERED),
        annotations=_ACTING,
    )


def _object(properties: JsonObject, *, required: list[str]) -> JsonObject:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _outcome(properties: JsonObject) -> JsonObject:
    """Schema of a result that may also be a handle to a run that still goes on."""
    return {
        "type": "object",
        "properties": {"status": _STATUS, "run_id": _RUN_ID, **properties},
        "required": ["status"],
    }
