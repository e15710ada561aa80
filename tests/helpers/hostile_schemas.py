"""Schemas that are costly to compile, to decode under, or not schemas at all.

Each is the schema of one value.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tools.spec import JsonObject


def _nest(levels: int, wrap: Callable[[Any], JsonObject]) -> JsonObject:
    return functools.reduce(lambda inner, _: wrap(inner), range(levels), {"type": "string"})


def _choose(inner: JsonObject) -> JsonObject:
    return {"oneOf": [inner, {"type": "object", "properties": {"a": inner}}]}


HOSTILE: dict[str, JsonObject] = {
    "enum of 50,000": {"enum": list(range(50_000))},
    "maxLength 1e6": {"type": "string", "maxLength": 1_000_000},
    "5,000 items": {
        "type": "array",
        "minItems": 1_000,
        "maxItems": 5_000,
        "items": {"type": "string"},
    },
    "repeated choice": {"type": "string", "pattern": "^(a|aa){1,5000}$"},
    "late letter": {"type": "string", "pattern": ".*a.{200}"},
    "optional then not": {"type": "string", "pattern": "^(a?){2000}a{2000}$"},
    "oneOf nested": _nest(10, _choose),
    "600 nested arrays": _nest(600, lambda inner: {"type": "array", "items": inner}),
    "5,000 optional properties": {
        "type": "object",
        "properties": {f"p{number}": {"type": "string"} for number in range(5_000)},
    },
    "250 optional properties": {
        "type": "object",
        "properties": {f"p{number}": {"type": "string"} for number in range(250)},
    },
    "refers to itself": {"$ref": "#/properties/v"},
    "fifteen patterns at once": {
        "allOf": [{"pattern": f".*[{chr(97 + n)}x].{{{n + 5}}}y"} for n in range(15)]
    },
    "huge pattern": {"type": "string", "pattern": "a" * 5_000},
    "patterns of names": {
        "type": "object",
        "patternProperties": {f"^a.*{n}.{{20}}$": {"type": "integer"} for n in range(12)},
    },
    "lookaround": {"type": "string", "pattern": "(?=a)(?!b).*"},
    "no schema": {"type": "banana", "properties": 3},
    "refers to nothing": {"$ref": "#/$defs/none"},
}
