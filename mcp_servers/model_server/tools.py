"""The tools of the model server as data: names, descriptions, schemas, annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mcp_servers.model_server.admin import load_spec, unload_spec
from mcp_servers.model_server.batch import BATCH_RESULTS, batch_spec
from mcp_servers.model_server.chat import CHATTED, chat_spec
from mcp_servers.model_server.embed import embed_spec
from mcp_servers.model_server.schemas import (
    ACTING,
    ANSWERED,
    CLOSED,
    EXTRACTED,
    GENERATED,
    INPUT_TEXT,
    MAX_GRAMMAR_CHARS,
    MAX_OPTIONS,
    MAX_PATTERN_CHARS,
    MAX_STEPS,
    MAX_TOKENS,
    REPEATABLE,
    SEED,
    STOP,
    SYSTEM,
    TEMPERATURE,
    WAIT,
    object_schema,
    outcome_schema,
)
from tools.spec import JsonObject, ToolSpec

EXPOSABLE = ("chat",)
"""Tools that are offered only when the operator asks for them."""


@dataclass(frozen=True, slots=True)
class Surface:
    """What a server offers beyond the usual.

    Attributes:
        loadable: models that may be loaded and unloaded by tools; None offers no such tools.
        exposed: names of `EXPOSABLE`.
        prompts_folder: where a user's prompt files are; it need not be there.
    """

    loadable: tuple[str, ...] | None = None
    exposed: frozenset[str] = frozenset()
    prompts_folder: Path | None = None


def list_specs(
    models: Sequence[str],
    servers: Sequence[str],
    surface: Surface | None = None,
    embedding: Sequence[str] | None = None,
) -> tuple[ToolSpec, ...]:
    """Build the tools for these model names (the default first) and tool servers.

    `agent_run` is there only when there are tool servers, `embed` only when one of `embedding`,
    all models where absent, gives vectors.
    """
    surface = surface or Surface()
    model = _model_of(models)
    specs = [_generate(model), _extract(model), _choose(model), batch_spec(model)]
    if embedding is None or embedding:
        specs.append(embed_spec(_model_of(embedding or models)))
    has_chat = "chat" in surface.exposed
    if has_chat:
        specs.append(chat_spec(model))
    specs.append(_run_result(servers, has_chat=has_chat))
    if servers:
        specs.append(_agent_run(model, servers))
    if surface.loadable is not None:
        specs += [load_spec(surface.loadable), unload_spec(models)]
    return tuple(specs)


def _model_of(names: Sequence[str]) -> JsonObject:
    return {
        "type": "string",
        "enum": list(names),
        "default": names[0],
        "description": "Which model.",
    }


def _generate(model: JsonObject) -> ToolSpec:
    return ToolSpec(
        name="generate",
        title="Generate text",
        description="Let a local model write text for a prompt. Private and free: nothing leaves "
        "this machine. Use extract instead when you need JSON, choose to pick from options; with "
        "regex or grammar the text has that form by construction.",
        input_schema=object_schema(
            {
                "prompt": {"type": "string", "minLength": 1, "description": "What to do."},
                "system": SYSTEM,
                "model": model,
                "max_tokens": MAX_TOKENS,
                "temperature": TEMPERATURE,
                "seed": SEED,
                "stop": STOP,
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
                "wait_seconds": WAIT,
            },
            required=["prompt"],
        ),
        output_schema=outcome_schema(GENERATED),
        annotations=CLOSED,
    )


def _extract(model: JsonObject) -> ToolSpec:
    return ToolSpec(
        name="extract",
        title="Extract JSON",
        description="Let a local model produce a JSON value that is valid against your JSON "
        "Schema by construction: it is decoded under a grammar.",
        input_schema=object_schema(
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
                "input": INPUT_TEXT,
                "model": model,
                "max_tokens": MAX_TOKENS,
                "wait_seconds": WAIT,
            },
            required=["instructions", "schema"],
        ),
        output_schema=outcome_schema(EXTRACTED),
        annotations=CLOSED,
    )


def _choose(model: JsonObject) -> ToolSpec:
    return ToolSpec(
        name="choose",
        title="Choose an option",
        description="Let a local model choose one of several options and say how probable it "
        "finds each. Much quicker than generate; good for classification.",
        input_schema=object_schema(
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
                "input": INPUT_TEXT,
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
        annotations=REPEATABLE,
    )


def _run_result(servers: Sequence[str], *, has_chat: bool) -> ToolSpec:
    shapes = BATCH_RESULTS | GENERATED | (ANSWERED if servers else {}) | EXTRACTED
    if has_chat:
        shapes |= CHATTED
    return ToolSpec(
        name="run_result",
        title="Result of a run",
        description="Wait for a run that another tool handed out with status 'running', and get "
        "its result in that tool's shape; or cancel it.",
        input_schema=object_schema(
            {
                "run_id": {"type": "string", "minLength": 1, "description": "The run's handle."},
                "wait_seconds": WAIT,
                "cancel": {
                    "type": "boolean",
                    "default": False,
                    "description": "End the run instead of waiting for it.",
                },
            },
            required=["run_id"],
        ),
        output_schema=outcome_schema(shapes),
        annotations=CLOSED,
    )


def _agent_run(model: JsonObject, servers: Sequence[str]) -> ToolSpec:
    return ToolSpec(
        name="agent_run",
        title="Run an agent",
        description="Give a local model a task that it works on by itself with the tools of "
        f"these servers: {', '.join(servers)}. It acts with this machine's rights to them.",
        input_schema=object_schema(
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
                "wait_seconds": WAIT,
            },
            required=["task"],
        ),
        output_schema=outcome_schema(ANSWERED),
        annotations=ACTING,
    )
