"""Pieces of the tools' schemas, with the numbers that bound them."""

from __future__ import annotations

from tools.spec import JsonObject, ToolAnnotations

DEFAULT_WAIT_S = 45
MAX_WAIT_S = 600
DEFAULT_MAX_TOKENS = 256
MAX_MAX_TOKENS = 8192
MAX_STEPS = 16
MAX_OPTIONS = 64
MAX_PATTERN_CHARS = 16 * 1024
MAX_GRAMMAR_CHARS = 64 * 1024

CLOSED = ToolAnnotations(read_only=True, destructive=False, open_world=False)
REPEATABLE = ToolAnnotations(read_only=True, destructive=False, idempotent=True, open_world=False)
ACTING = ToolAnnotations(read_only=False, destructive=True, open_world=True)

WAIT: JsonObject = {
    "type": "number",
    "minimum": 0,
    "maximum": MAX_WAIT_S,
    "default": DEFAULT_WAIT_S,
    "description": "Seconds to wait for the result. When they are over, the answer has status "
    "'running' and a run_id for run_result.",
}
MAX_TOKENS: JsonObject = {
    "type": "integer",
    "minimum": 1,
    "maximum": MAX_MAX_TOKENS,
    "default": DEFAULT_MAX_TOKENS,
    "description": "Most tokens to generate.",
}
SYSTEM: JsonObject = {"type": "string", "description": "Standing instructions."}
TEMPERATURE: JsonObject = {
    "type": "number",
    "minimum": 0,
    "maximum": 2,
    "default": 0,
    "description": "0 always takes the likeliest token.",
}
SEED: JsonObject = {
    "type": "integer",
    "minimum": 0,
    "description": "Makes a draw with a temperature repeatable.",
}
STOP: JsonObject = {
    "type": "array",
    "items": {"type": "string", "minLength": 1},
    "maxItems": 8,
    "description": "Strings that end the text; they are not part of it.",
}
INPUT_TEXT: JsonObject = {"type": "string", "description": "Text to work on, kept apart."}

STATUS: JsonObject = {
    "type": "string",
    "enum": ["done", "running", "cancelled"],
    "description": "'running' is no error: call run_result with the run_id.",
}
RUN_ID: JsonObject = {"type": "string", "description": "Handle for run_result."}
USAGE: JsonObject = {
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
GENERATED: JsonObject = {
    "text": {"type": "string"},
    "finish_reason": {"type": "string", "enum": ["stop", "length"]},
    "model": {"type": "string"},
    "usage": USAGE,
}
EXTRACTED: JsonObject = {
    "value": {
        "anyOf": [
            {"type": kind} for kind in ("object", "array", "string", "number", "boolean", "null")
        ],
        "description": "Valid against the schema that was given.",
    },
    "model": {"type": "string"},
    "usage": USAGE,
}
STEP: JsonObject = {
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
ANSWERED: JsonObject = {
    "answer": {"type": "string"},
    "value": {
        **EXTRACTED["value"],
        "description": "The answer as a value of the schema that was given; absent when there "
        "was none, or the run was stopped before its answer was whole.",
    },
    "steps": {"type": "array", "items": STEP},
    "stopped_by": {
        "type": "string",
        "enum": ["done", "steps", "calls", "time", "tokens", "denied", "error", "cancelled"],
    },
    "model": {"type": "string"},
    "usage": USAGE,
}


def object_schema(properties: JsonObject, *, required: list[str]) -> JsonObject:
    """Schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def outcome_schema(properties: JsonObject) -> JsonObject:
    """Schema of a result that may also be a handle to a run that still goes on."""
    return {
        "type": "object",
        "properties": {"status": STATUS, "run_id": RUN_ID, **properties},
        "required": ["status"],
    }
