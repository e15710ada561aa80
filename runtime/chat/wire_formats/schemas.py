"""Looks at tools' schemas: what types a value may have, and where hints stand.

Source: JSON Schema 2020-12, core sections 8 and 10, validation section 6.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runtime.grammar.schema import direct_subschemas
from tools.spec import JsonObject

HINTS = ("x-max-tokens", "x-temperature", "x-verbatim-from", "x-choices-from")
TYPES = frozenset({"string", "integer", "number", "boolean", "null", "array", "object"})

_MAX_REFERENCES = 32


def has_hints(schema: JsonObject) -> bool:
    """Whether any part of the schema carries a hint; references are not followed."""
    if any(hint in schema for hint in HINTS):
        return True
    return any(has_hints(part) for _, part in direct_subschemas(schema))


def resolve(schema: JsonObject, root: JsonObject) -> JsonObject:
    """Follow `$ref`s into `root`; keywords beside a reference join what it refers to.

    A reference that leads nowhere, or on and on, ends in a schema of anything.
    """
    for _ in range(_MAX_REFERENCES):
        if "$ref" not in schema:
            return schema
        target = find(str(schema["$ref"]), root)
        if target is None:
            break
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**target, **beside}
    return {}


def find(reference: str, root: JsonObject) -> JsonObject | None:
    """Return what `#/a/b` points at in `root`; None for anything else than an object."""
    if not reference.startswith("#"):
        return None
    found: Any = root
    for part in filter(None, reference[1:].split("/")):
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and key in found:
            found = found[key]
        elif isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        else:
            return None
    return found if isinstance(found, dict) else None


def types_of(schema: JsonObject, root: JsonObject, depth: int = 0) -> frozenset[str]:
    """The JSON types that a value of the schema may have; "integer" counts apart."""
    if depth > _MAX_REFERENCES:
        return TYPES
    schema = resolve(schema, root)
    types = TYPES
    if "type" in schema:
        named = schema["type"]
        types &= frozenset([named] if isinstance(named, str) else named)
        types |= {"integer"} if "number" in types else set()
    if "const" in schema:
        types &= {type_name(schema["const"])}
    if isinstance(schema.get("enum"), list):
        types &= {type_name(value) for value in schema["enum"]}
    for keyword in ("anyOf", "oneOf"):
        if isinstance(schema.get(keyword), list):
            parts = [part if isinstance(part, dict) else {} for part in schema[keyword]]
            types &= frozenset().union(*(types_of(part, root, depth + 1) for part in parts))
    for part in schema.get("allOf", ()) if isinstance(schema.get("allOf"), list) else ():
        types &= types_of(part, root, depth + 1) if isinstance(part, dict) else TYPES
    return types


def type_name(value: Any) -> str:
    """The JSON type of a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    names: dict[type, str] = {float: "number", str: "string", list: "array", dict: "object"}
    return names[type(value)]


def properties_of(schema: JsonObject) -> Iterator[tuple[str, JsonObject, bool]]:
    """Yield name, schema and whether it is required of each listed property, in order."""
    required = schema.get("required")
    needed = set(required) if isinstance(required, list) else set()
    properties = schema.get("properties")
    for name, part in properties.items() if isinstance(properties, dict) else ():
        if part is not False:
            yield name, part if isinstance(part, dict) else {}, name in needed


def relocate(part: JsonObject, root: JsonObject) -> JsonObject:
    """Return a part of `root` as a schema of its own, with what its references need."""
    if not _refers(part):
        return part
    moved = _rewrite(part)
    assert isinstance(moved, dict)
    return {**moved, "$defs": {"root": _rewrite(root)}}


def _refers(value: Any) -> bool:
    if isinstance(value, dict):
        return "$ref" in value or any(_refers(item) for item in value.values())
    return isinstance(value, list) and any(_refers(item) for item in value)


def _rewrite(value: Any) -> Any:
    """Make references to the root references to where it will lie."""
    if isinstance(value, list):
        return [_rewrite(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: f"#/$defs/root{item[1:]}"
        if key == "$ref" and isinstance(item, str) and item.startswith("#")
        else _rewrite(item)
        for key, item in value.items()
    }
