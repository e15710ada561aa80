"""Tests of the walks over JSON Schemas."""

from __future__ import annotations

from runtime.grammar.schema import close_objects


def test_listed_objects_are_closed_where_nothing_says_otherwise() -> None:
    leaf = {"type": "object", "properties": {"x": {"type": "integer"}}}
    closed_leaf = {**leaf, "additionalProperties": False}
    schema = {
        "type": "object",
        "properties": {
            "plain": leaf,
            "list": {"type": "array", "items": leaf},
            "open": {**leaf, "additionalProperties": True},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "anything": {"type": "object"},
            "combined": {"allOf": [leaf, leaf]},
            "mixed": {**leaf, "anyOf": [leaf]},
            "flag": True,
        },
    }
    assert close_objects(schema) == {
        "type": "object",
        "properties": {
            "plain": closed_leaf,
            "list": {"type": "array", "items": closed_leaf},
            "open": {**leaf, "additionalProperties": True},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "anything": {"type": "object"},
            "combined": {"allOf": [leaf, leaf]},
            "mixed": {**leaf, "anyOf": [leaf]},
            "flag": True,
        },
        "additionalProperties": False,
    }
