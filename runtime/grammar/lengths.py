"""How long a JSON value gets that says all a schema lists, and nothing more than it has to.

An estimate, made from the schema alone: no grammar, no vocabulary.
"""

from __future__ import annotations

import json
from typing import Any

from tools.spec import JsonObject

_MAX_DEPTH = 6
_MAX_CHARS = 20_000
_MAX_VISITS = 2_000
_SCALAR_CHARS = 6


def longest_chars(schema: JsonObject) -> int:
    """Characters of the value with every property of `schema`, each as short as may be.

    References are followed a few times, alternatives by the longest; at most 20,000.
    """
    return min(_Walk(schema).length(schema, _MAX_DEPTH), _MAX_CHARS)


class _Walk:
    """Visits a bounded number of sub-schemas."""

    def __init__(self, root: JsonObject) -> None:
        self._root = root
        self._num_left = _MAX_VISITS

    def length(self, schema: Any, depth: int) -> int:
        self._num_left -= 1
        if not isinstance(schema, dict) or depth == 0 or self._num_left < 0:
            return _SCALAR_CHARS
        if isinstance(schema.get("enum"), list):
            return max((len(json.dumps(value)) for value in schema["enum"][:64]), default=0)
        if "const" in schema:
            return len(json.dumps(schema["const"]))
        length = _count(schema, "minLength") + _SCALAR_CHARS
        if isinstance(schema.get("properties"), dict):
            for name, part in schema["properties"].items():
                length += len(name) + 6 + self.length(part, depth - 1)
        if num_items := _count(schema, "minItems"):
            length += num_items * (2 + self.length(schema.get("items"), depth - 1))
        for keyword in ("anyOf", "oneOf", "allOf"):
            if isinstance(schema.get(keyword), list):
                parts = [self.length(part, depth - 1) for part in schema[keyword]]
                length += sum(parts) if keyword == "allOf" else max(parts, default=0)
        if isinstance(schema.get("$ref"), str) and schema["$ref"].startswith("#"):
            length += self.length(_find(schema["$ref"], self._root), depth - 1)
        return min(length, _MAX_CHARS)


def _count(schema: JsonObject, keyword: str) -> int:
    value = schema.get(keyword, 0)
    return min(int(value), _MAX_CHARS) if isinstance(value, int | float) else 0


def _find(reference: str, root: JsonObject) -> Any:
    found: Any = root
    for part in filter(None, reference[1:].split("/")):
        found = found.get(part) if isinstance(found, dict) else None
    return found
