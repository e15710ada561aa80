"""Knows ordinary JSON Schemas for valid, a hundred times faster than their metaschema does.

Servers send hundreds of schemas at once, and checking one property by the metaschema takes
`jsonschema` 0.2 ms in which no other thread of Python runs. What is not ordinary is left to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

DRAFTS = frozenset(
    {
        "http://json-schema.org/draft-07/schema",
        "http://json-schema.org/draft-07/schema#",
        "https://json-schema.org/draft/2020-12/schema",
    }
)
"""In these the keywords below mean the same."""

MAX_LEVELS = 50

_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})


def is_plain(schema: Any) -> bool:
    """Whether `schema` is surely valid; False says nothing."""
    pending = [(schema, 0)]
    while pending:
        part, level = pending.pop()
        if isinstance(part, bool):
            continue
        if not isinstance(part, dict) or level == MAX_LEVELS:
            return False
        for keyword, value in part.items():
            if keyword in _HOLDING:
                if not _HOLDING[keyword](value):
                    return False
                pending += [(inner, level + 1) for inner in _parts(value, keyword)]
            elif keyword in _SIMPLE:
                if not _SIMPLE[keyword](value):
                    return False
            elif not keyword.startswith("x-"):
                return False
    return True


def _parts(value: Any, keyword: str) -> Iterator[Any]:
    if keyword in _BY_NAME:
        yield from value.values()
    elif isinstance(value, list):
        yield from value
    else:
        yield value


def _is_anything(_: Any) -> bool:
    return True


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_names(value: Any) -> bool:
    is_texts = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return is_texts and len(set(value)) == len(value)


def _is_names_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_names, value.values()))


def _is_type(value: Any) -> bool:
    names = [value] if isinstance(value, str) else value
    return bool(names) and _is_names(names) and _TYPES.issuperset(names)


def _is_pattern(value: Any) -> bool:
    try:
        return isinstance(value, str) and re.compile(value) is not None
    except (re.error, RecursionError, OverflowError):
        return False


def _is_local(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"#(/[\w$%.~-]*)*", value, re.ASCII) is not None


def _is_draft(value: Any) -> bool:
    return isinstance(value, str) and value in DRAFTS


def _is_schema(value: Any) -> bool:
    return isinstance(value, bool | dict)


def _is_schemas(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _is_by_name(value: Any) -> bool:
    return isinstance(value, dict)


def _is_by_pattern(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_pattern, value))


_BY_NAME = frozenset(
    {"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"}
)

_HOLDING: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(_BY_NAME, _is_by_name),
    "patternProperties": _is_by_pattern,
    **dict.fromkeys(("additionalProperties", "unevaluatedProperties", "propertyNames"), _is_schema),
    **dict.fromkeys(("items", "unevaluatedItems", "contains"), _is_schema),
    **dict.fromkeys(("not", "if", "then", "else"), _is_schema),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), _is_schemas),
}
"""Keywords whose values are schemas."""

_SIMPLE: dict[str, Callable[[Any], bool]] = {
    "$schema": _is_draft,
    "$ref": _is_local,
    "type": _is_type,
    "required": _is_names,
    "dependentRequired": _is_names_by_name,
    "pattern": _is_pattern,
    "multipleOf": _is_positive,
    **dict.fromkeys(("const", "default"), _is_anything),
    **dict.fromkeys(("enum", "examples"), _is_list),
    **dict.fromkeys(("title", "description", "$comment", "format"), _is_text),
    **dict.fromkeys(("uniqueItems", "readOnly", "writeOnly"), _is_flag),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
    **dict.fromkeys(
        (
            *("minLength", "maxLength", "minItems", "maxItems", "minContains", "maxContains"),
            *("minProperties", "maxProperties"),
        ),
        _is_count,
    ),
}
