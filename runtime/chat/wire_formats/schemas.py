"""Looks at tools' schemas: what types a value may have, and where hints stand.

Source: JSON Schema 2020-12, core sections 8 and 10, validation section 6.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from runtime.errors import UnsupportedSchemaError
from runtime.grammar.schema import direct_subschemas
from tools.spec import JsonObject
from tools.validation import first_problem

HINTS = ("x-verbatim-from", "x-choices-from")
"""Those that are part of the grammar."""

HINT_OPENS = '"x-'
"""How the name of any hint begins in a schema's text."""

ITEM = 0
"""Stands in a path for any item of a list."""

Path = tuple[str | int, ...]
"""Leads to an argument: names, and `ITEM`s."""

TYPES = frozenset({"string", "integer", "number", "boolean", "null", "array", "object"})

_MAX_LEVELS = 32
_MAX_CHOICES = 8  # one in another
_ANNOTATIONS = frozenset(
    {
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
        *("$comment", "$id", "$schema", "$anchor", "$defs", "definitions"),
    }
)
_JOINED: Mapping[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems"), min),
    "type": lambda one, other: sorted(_kinds(one) & _kinds(other)),
    "required": lambda one, other: [*one, *(name for name in other if name not in one)],
    "enum": lambda one, other: [value for value in one if value in other],
    "properties": lambda one, other: {
        **one,
        **{name: _both(one[name], part) if name in one else part for name, part in other.items()},
    },
    "items": lambda one, other: _both(one, other),
}


def has_hints(schema: JsonObject, root: JsonObject, seen: set[str] | None = None) -> bool:
    """Whether any part of the schema carries a hint for the grammar, references followed."""
    seen = set() if seen is None else seen
    if any(hint in schema for hint in HINTS):
        return True
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference not in seen:
        seen.add(reference)
        target = find(reference, root)
        if isinstance(target, dict) and has_hints(target, root, seen):
            return True
    return any(has_hints(part, root, seen) for _, part in direct_subschemas(schema))


def hinted_places(root: JsonObject, hint: str) -> Iterator[tuple[Path, JsonObject]]:
    """Yield path and schema of each value that carries a hint, as far as paths lead to it."""
    return _places(root, root, hint, (), ())


def _places(
    schema: Any, root: JsonObject, hint: str, path: Path, references: tuple[str, ...]
) -> Iterator[tuple[Path, JsonObject]]:
    if not isinstance(schema, dict):
        return
    if hint in schema:
        yield path, schema
    same: list[Any] = [
        part
        for keyword in ("allOf", "anyOf", "oneOf")
        if isinstance(schema.get(keyword), list)
        for part in schema[keyword]
    ]
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference not in references:
        yield from _places(find(reference, root), root, hint, path, (*references, reference))
    for part in same:
        yield from _places(part, root, hint, path, references)
    properties = schema.get("properties")
    for name, part in properties.items() if isinstance(properties, dict) else ():
        yield from _places(part, root, hint, (*path, name), references)
    yield from _places(schema.get("items"), root, hint, (*path, ITEM), references)


def unfollowed_hints(root: JsonObject) -> list[str]:
    """Hints beside the grammar that no path leads to, or that limit what is no text."""
    unfollowed = []
    for hint in ("x-temperature", "x-max-tokens"):
        followed = {
            id(part)
            for _, part in hinted_places(root, hint)
            if hint != "x-max-tokens" or "string" in types_of(part, root)
        }
        unfollowed += [
            f"{hint} at {path}"
            for path, part in _walk(root, "$")
            if hint in part and id(part) not in followed
        ]
    return unfollowed


def _walk(schema: JsonObject, path: str) -> Iterator[tuple[str, JsonObject]]:
    yield path, schema
    for below, part in direct_subschemas(schema):
        yield from _walk(part, path + below)


def flatten(schema: Any, root: JsonObject, lost: list[str] | None = None) -> JsonObject:
    """Work `$ref`s into `root` and `allOf` into the keywords beside them.

    Keywords that cannot be joined go into `lost`: the result is as strict without them.

    Raises:
        UnsupportedSchemaError: a reference leads nowhere, or on and on.
    """
    return _flatten(schema, root, [] if lost is None else lost, 0)


def _flatten(schema: Any, root: JsonObject, lost: list[str], level: int) -> JsonObject:
    if not isinstance(schema, dict):
        return {"enum": []} if schema is False else {}
    if level > _MAX_LEVELS:
        raise UnsupportedSchemaError(f"references lead on and on from {schema.get('$ref')!r}")
    flat = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
    parts = schema["allOf"] if isinstance(schema.get("allOf"), list) else []
    if "$ref" in schema:
        target = find(str(schema["$ref"]), root)
        if target is None:
            raise UnsupportedSchemaError(
                f"keyword '$ref': {schema['$ref']!r} is no path to a part of the schema"
            )
        parts = [target, *parts]
    for part in parts:
        flat = _join(flat, _flatten(part, root, lost, level + 1), lost)
    return flat


def _join(one: JsonObject, other: JsonObject, lost: list[str]) -> JsonObject:
    joined = {**other, **one}
    for key in one.keys() & other.keys() - _ANNOTATIONS:
        if one[key] == other[key]:
            continue
        try:
            joined[key] = _JOINED[key](one[key], other[key])
        except (KeyError, TypeError, AttributeError):
            lost.append(key)
    return joined


def _both(one: Any, other: Any) -> Any:
    return one if one == other else {"allOf": [one, other]}


def _kinds(named: Any) -> frozenset[str]:
    kinds = frozenset([named] if isinstance(named, str) else named)
    return kinds | {"integer"} if "number" in kinds else kinds


def alternatives(flat: JsonObject, root: JsonObject, lost: list[str]) -> list[JsonObject] | None:
    """The schemas of which a value has to satisfy one; None where there is no such choice.

    `flat` comes from `flatten`; that exactly one has to be satisfied is lost.
    """
    for keyword in ("anyOf", "oneOf"):
        if isinstance(flat.get(keyword), list):
            rest = {key: value for key, value in flat.items() if key != keyword}
            if keyword == "oneOf":
                lost.append(keyword)
            parts = [part for part in flat[keyword] if part is not False]
            options = [flatten({"allOf": [rest, part]}, root, lost) for part in parts]
            return [option for option in options if types_of(option, root)]
    return None


def find(reference: str, root: JsonObject) -> JsonObject | bool | None:
    """Return what `#/a/b` points at in `root`; None for nothing that is a schema."""
    found: Any = root if reference.startswith("#") else None
    for part in filter(None, reference[1:].split("/")):
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(key)
        elif isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        else:
            found = None
    return found if isinstance(found, dict | bool) else None


def types_of(schema: JsonObject, root: JsonObject, level: int = 0) -> frozenset[str]:
    """The JSON types that a value of the schema may have; "integer" counts apart."""
    if level > _MAX_CHOICES:
        return TYPES
    flat = flatten(schema, root)
    types = TYPES
    if "type" in flat:
        types &= _kinds(flat["type"])
    if "const" in flat:
        types &= {type_name(flat["const"])}
    if isinstance(flat.get("enum"), list):
        types &= {type_name(value) for value in flat["enum"]}
    for keyword in ("anyOf", "oneOf"):
        if isinstance(flat.get(keyword), list):
            types &= frozenset().union(*(types_of(one, root, level + 1) for one in flat[keyword]))
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


def object_of(schema: JsonObject, root: JsonObject, lost: list[str], level: int = 0) -> JsonObject:
    """An object with all the properties that the alternatives of `schema` list.

    That they belong together in one way or another is lost.
    """
    flat = flatten(schema, root, lost)
    options = alternatives(flat, root, lost) if level <= _MAX_CHOICES else None
    if options is None:
        return flat
    lost += [key for key in ("anyOf", "oneOf") if key in flat]
    objects = [object_of(option, root, lost, level + 1) for option in options]
    listed: dict[str, list[Any]] = {}
    for one in objects:
        for name, part in one.get("properties", {}).items():
            if part not in listed.setdefault(name, []):
                listed[name].append(part)
    required = [set(one.get("required", ())) for one in objects]
    return {
        "properties": {
            name: parts[0] if len(parts) == 1 else {"anyOf": parts}
            for name, parts in listed.items()
        },
        "required": sorted(set.intersection(*required)) if required else [],
    }


def properties_of(schema: JsonObject) -> Iterator[tuple[str, JsonObject, bool]]:
    """Yield name, schema and whether it is required of each property, in order.

    A required one that is not listed comes last.
    """
    required = schema.get("required")
    needed = dict.fromkeys(required if isinstance(required, list) else ())
    listed = schema.get("properties")
    listed = listed if isinstance(listed, dict) else {}
    extra = schema.get("additionalProperties", {})
    unlisted = ((name, extra) for name in needed if name not in listed)
    for name, part in (*listed.items(), *unlisted):
        if part is not False:
            yield name, part if isinstance(part, dict) else {}, name in needed


def fits(schema: JsonObject, root: JsonObject, value: Any) -> bool:
    """Whether a value satisfies a part of `root`."""
    return first_problem(relocate(schema, root), value) is None


def relocate(part: JsonObject, root: JsonObject) -> JsonObject:
    """Return a part of `root` as a schema of its own, with what its references need."""
    dialect = {"$schema": root["$schema"]} if "$schema" in root else {}
    if not _refers(part):
        return {**dialect, **part}
    moved = _rewrite(part)
    assert isinstance(moved, dict)
    return {**dialect, **moved, "$defs": {"root": _rewrite(root)}}


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
        if key == "$ref" and isinstance(item, str) and re.match("#(/|$)", item)
        else _rewrite(item)
        for key, item in value.items()
    }
