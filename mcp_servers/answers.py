"""Answers in a given form: how a model is told of it, and what it gave is read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from runtime.errors import GenerationError
from tools.spec import JsonObject
from tools.validation import first_problem


def schema_rule(schema: JsonObject) -> str:
    """The standing instruction for an answer under a schema."""
    return f"Answer with one JSON value that fits this JSON Schema: {json.dumps(schema)}"


def with_options(question: str, options: Sequence[str]) -> str:
    """A question with the answers there are."""
    listed = "\n".join(f"- {option}" for option in options)
    return f"{question}\n\nAnswer with exactly one of these options:\n{listed}"


def read_value(schema: JsonObject, text: str) -> Any:
    """Return the JSON value of an answer.

    Raises:
        GenerationError: it is no JSON, or not valid against the schema.
    """
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise GenerationError(f"the model's answer is no JSON: {exc}") from exc
    if (problem := first_problem(schema, value)) is not None:
        raise GenerationError(f"the model's value does not fit the schema: {problem}")
    return value
