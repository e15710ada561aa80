"""Walks over JSON Schemas: bounds, sub-schemas and the closing of objects. Knows no grammar."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from runtime.errors import UnsupportedSchemaError
from tools.spec import JsonObject

Schema = JsonObject | bool
"""A JSON Schema, or a part of one."""

MAX_SCHEMA_BYTES = 256 * 1024
MAX_DEPTH = 64
MAX_ENUM = 50_000
MAX_OPTIONAL_PROPERTIES = 400
MAX_PATTERN_BYTES = 4 * 1024
MAX_REFERENCE_LEVELS = 800
"""The compiler recurses over references on the C stack, at most 6 kB a level: 1,650 levels
overflow 8 MiB, which ends the process."""

_ONE = frozenset(
    (
        "items",
        "additionalItems",
        "additionalProperties",
        "contains",
        "propertyNames",
        "unevaluatedItems",
        "unevaluatedProperties",
        "not",
        "if",
        "then",
        "else",
    )
)
_MANY = frozenset(("prefixItems", "allOf", "anyOf", "oneOf", "items"))
_NAMED = frozenset(("properties", "patternProperties", "dependentSchemas", "$defs", "definitions"))
_COMBINING = frozenset(
    {
        "$ref",
        "$dynamicRef",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "if",
        "then",
        "else",
        "dependentSchemas",
        "patternProperties",
        "unevaluatedProperties",
        "propertyNames",
        "minProperties",
    }
)


def direct_subschemas(schema: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    """Yield (path below `schema`, sub-schema) one level down; boolean schemas are left out."""
    for keyword, value in schema.items():
        if isinstance(value, dict):
            if keyword in _ONE:
                yield f".{keyword}", value
            elif keyword in _NAMED:
                for name, item in value.items():
                    if isinstance(item, dict):
                        yield f".{keyword}.{name}", item
        elif isinstance(value, list) and keyword in _MANY:
            for index, item in enumerate(value):
                if isinstance(item, dict):
                    yield f".{keyword}[{index}]", item


def check_bounds(schema: Schema, text: str | None = None) -> None:
    """Refuse a schema too large to be compiled safely.

    `text` is what `dump_json` made of it, where that is known.

    Raises:
        UnsupportedSchemaError: names the limit, the keyword and where it stands.
    """
    # Depth first: the walk is iterative, json.dumps is recursive.
    pending = [("$", 0, schema)] if isinstance(schema, dict) else []
    walked: list[tuple[str, JsonObject]] = []
    while pending:
        path, depth, item = pending.pop()
        walked.append((path, item))
        if depth > MAX_DEPTH:
            raise UnsupportedSchemaError(
                f"the schema nests deeper than {MAX_DEPTH} levels at {path[:200]}; flatten it"
            )
        _check_node(path, item)
        pending += [(path + below, depth + 1, sub) for below, sub in direct_subschemas(item)]
    size = num_bytes(dump_json(schema) if text is None else text)
    if size > MAX_SCHEMA_BYTES:
        raise UnsupportedSchemaError(
            f"the schema has {size} bytes; at most {MAX_SCHEMA_BYTES} can be compiled"
        )
    _check_references(walked)


def close_objects(schema: JsonObject) -> JsonObject:
    """Return `schema` with the objects that list properties closed to others.

    What is generated from it is still valid against `schema`. Left as they are: objects that
    list nothing, require what they do not list or say what else may stand in them, and
    whatever hangs below a combining keyword or a reference, where closing one part could
    contradict another.
    """
    closed = dict(schema)
    if _COMBINING.isdisjoint(schema) and isinstance(schema.get("properties"), dict):
        required = schema.get("required")
        listed = list(schema["properties"])
        if not isinstance(required, list) or all(name in listed for name in required):
            closed.setdefault("additionalProperties", False)
        closed["properties"] = {
            name: close_objects(item) if isinstance(item, dict) else item
            for name, item in schema["properties"].items()
        }
    elif schema.get("type") == "array" and isinstance(schema.get("items"), dict):
        closed["items"] = close_objects(schema["items"])
    return closed


def dump_json(value: Any) -> str:
    """Write compact JSON, key order kept.

    Raises:
        UnsupportedSchemaError: `value` is not JSON, or nests too deep to be written.
    """
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise UnsupportedSchemaError(f"the schema is not plain JSON: {exc}") from exc


def write_schema(schema: Schema) -> str:
    """As `dump_json`, for a schema that nobody has looked at yet.

    Raises:
        UnsupportedSchemaError: it is no JSON or no Unicode text, or nests too deep; says where.
    """
    try:
        text = dump_json(schema)
        text.encode()
    except UnicodeEncodeError as exc:
        raise UnsupportedSchemaError(f"the schema is not Unicode text: {exc}") from exc
    except UnsupportedSchemaError:
        check_bounds(schema)  # knows how deep
        raise
    return text


def num_bytes(text: str) -> int:
    """Of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _check_references(walked: Sequence[tuple[str, JsonObject]]) -> None:
    """Refuse references that may hang together in a chain too long for the compiler.

    `walked` has the paths and sub-schemas, each after the one it stands in.
    """
    references = {item["$ref"] for _, item in walked if isinstance(item.get("$ref"), str)}
    if not references:
        return
    heights: dict[str, int] = {}
    for path, item in reversed(walked):
        below = [heights[path + step] for step, _ in direct_subschemas(item)]
        heights[path] = 1 + max(below, default=0)
    # A reference that is spelled in another way counts as one to the whole schema.
    levels = sum(heights.get(_as_path(ref), heights["$"]) for ref in references)
    if levels > MAX_REFERENCE_LEVELS:
        raise UnsupportedSchemaError(
            f"keyword '$ref': what {len(references)} references lead to nests up to {levels}"
            f" levels together; at most {MAX_REFERENCE_LEVELS} can be compiled: use fewer"
        )


def _as_path(reference: str) -> str:
    return "$" + reference.removeprefix("#").replace("/", ".")


def _check_node(path: str, schema: JsonObject) -> None:
    enum = schema.get("enum")
    if isinstance(enum, list) and len(enum) > MAX_ENUM:
        raise UnsupportedSchemaError(
            f"keyword 'enum' at {path} has {len(enum)} values; at most {MAX_ENUM} are supported"
        )
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and len(pattern.encode(errors="surrogatepass")) > MAX_PATTERN_BYTES:
        raise UnsupportedSchemaError(
            f"keyword 'pattern' at {path} is longer than {MAX_PATTERN_BYTES} bytes; shorten it"
        )
