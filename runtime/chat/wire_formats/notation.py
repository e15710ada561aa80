"""Gemma's notation of arguments: its grammar, its writer and its translation into JSON.

`{name:value,…}` with bare names, `[value,…]`, texts unescaped between quote markers, and
numbers, `true`, `false` and `null` as in JSON.
Source: chat template of google/gemma-4-31B-it; FunctionGemma's formatting guide.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from runtime.chat.wire_formats.arguments import Scope, embedded, raw_text, repeated
from runtime.chat.wire_formats.format import NotationArguments
from runtime.chat.wire_formats.readers import Reader, Wait
from runtime.chat.wire_formats.schemas import properties_of, resolve, types_of
from tools.spec import JsonObject

_BARE_NAME = r"[^:,{}\[\]\s]+"
_UNKEPT_OF_OBJECTS = ("minProperties", "maxProperties", "patternProperties", "propertyNames")
_UNKEPT_OF_ARRAYS = ("uniqueItems", "contains", "prefixItems")


def notation_value(style: NotationArguments, scope: Scope, schema: JsonObject, path: str) -> str:
    """Expression of a value in the notation."""
    if "$ref" in schema:
        key = json.dumps(schema, sort_keys=True)
        name, is_new = scope.rules.declare(f"{id(scope)} {key}")
        if is_new:
            whole = resolve(schema, scope.root)
            scope.rules.define(name, notation_value(style, scope, whole, path))
        return name
    if "const" in schema or isinstance(schema.get("enum"), list):
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        written = [write_notation(style, value) for value in values]
        return scope.rules.any_of([scope.rules.literal(text) for text in written] or ['""'])
    for keyword in ("anyOf", "oneOf"):
        if isinstance(schema.get(keyword), list):
            parts = [part for part in schema[keyword] if isinstance(part, dict)]
            rest = {key: value for key, value in schema.items() if key != keyword}
            scope.drop(schema, path, "oneOf")
            options = [notation_value(style, scope, {**rest, **part}, path) for part in parts]
            return scope.rules.any_of(options)
    scope.drop(schema, path, "allOf", "not", "if", "dependentRequired", "dependentSchemas")
    kinds = sorted(types_of(schema, scope.root) - {"integer"})
    if "integer" in types_of(schema, scope.root) and "number" not in kinds:
        kinds.append("integer")
    return scope.rules.any_of([_of_kind(style, scope, schema, path, kind) for kind in kinds])


def _of_kind(
    style: NotationArguments, scope: Scope, schema: JsonObject, path: str, kind: str
) -> str:
    rules = scope.rules
    if kind == "string":
        text = raw_text(scope, schema, path, style.quote)
        return rules.rule(f"{rules.literal(style.quote)} {text}")
    if kind == "array":
        scope.drop(schema, path, *_UNKEPT_OF_ARRAYS)
        items = schema.get("items")
        item = items if isinstance(items, dict) else {}
        value = rules.rule(_item(style, scope, item, path))
        return f'"[" {repeated(rules, value, schema, ",")} "]"'
    if kind == "object":
        return _object(style, scope, schema, path)
    return embedded(scope, {**_numeric(schema), "type": kind})


def _item(style: NotationArguments, scope: Scope, schema: JsonObject, path: str) -> str:
    return notation_value(style, scope, schema, f"{path}[]") if schema else _anything(style, scope)


def _numeric(schema: JsonObject) -> JsonObject:
    keywords = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
    return {key: schema[key] for key in keywords if key in schema}


def _object(style: NotationArguments, scope: Scope, schema: JsonObject, path: str) -> str:
    rules = scope.rules
    scope.drop(schema, path, *_UNKEPT_OF_OBJECTS)
    items = []
    for name, part, must in properties_of(schema):
        value = _item(style, scope, part, f"{path}.{name}")
        items.append((f"{rules.literal(name + ':')} {value}", must))
    if items or schema.get("additionalProperties") is False:
        return f'"{{" {rules.chain(items, ",")} "}}"'
    extra = schema.get("additionalProperties")
    value = _item(style, scope, extra if isinstance(extra, dict) else {}, f"{path}.*")
    entry = rules.rule(f'{rules.terminal(_BARE_NAME)} ":" {value}')
    return f'"{{" {repeated(rules, entry, {}, ",")} "}}"'


def _anything(style: NotationArguments, scope: Scope) -> str:
    """A value of any kind, nested as deep as it likes."""
    rules = scope.rules
    name, is_new = rules.declare("anything in notation")
    if is_new:
        quote = rules.literal(style.quote)
        text = f"{quote} {rules.text_before(style.quote)}"
        entry = rules.rule(f'{rules.terminal(_BARE_NAME)} ":" {name}')
        scalar = embedded(scope, {"type": ["number", "boolean", "null"]})
        listed = f'"[" {repeated(rules, name, {}, ",")} "]"'
        rules.define(
            name, f'{text} | {scalar} | {listed} | "{{" {repeated(rules, entry, {}, ",")} "}}"'
        )
    return name


def write_notation(style: NotationArguments, value: Any, hide: Callable[[str], str] = str) -> str:
    """Write a JSON value in the notation; texts go through `hide`."""
    if isinstance(value, str):
        return style.quote + hide(value) + style.quote
    if isinstance(value, dict):
        entries = (f"{name}:{write_notation(style, item, hide)}" for name, item in value.items())
        return "{" + ",".join(entries) + "}"
    if isinstance(value, list):
        return "[" + ",".join(write_notation(style, item, hide) for item in value) + "]"
    return json.dumps(value)


def read_notation(
    style: NotationArguments, reader: Reader, emit: Callable[[str], None]
) -> Wait[dict[str, tuple[int, int]]]:
    """Read an object in the notation and give it out as JSON text, piece by piece.

    Returns between which positions each of its values stood, texts without their quotes.
    """
    closing = {"{": "}", "[": "]"}
    nested: list[str] = []
    spans: dict[str, tuple[int, int]] = {}
    name, start, has_text = "", 0, False
    while True:
        if (yield from reader.which([style.quote])) == 0:
            has_text = has_text or start == reader.position
            reader.take(len(style.quote))
            start = reader.position if has_text and len(nested) == 1 else start
            emit('"')
            yield from reader.until(style.quote, lambda text: emit(_escape(text)))
            emit('"')
            continue
        char = yield from reader.char()
        if len(nested) == 1 and char in ",}" and name:
            end = reader.position - 1
            spans[name] = (start, end - (len(style.quote) if has_text else 0))
        emit(char)
        if char in closing:
            nested.append(closing[char])
        elif nested and char == nested[-1]:
            nested.pop()
        if not nested:
            return spans
        if (char == "{" or (char == "," and nested[-1] == "}")) and (yield from _is_name(reader)):
            pieces: list[str] = []
            yield from reader.until(":", pieces.append)
            emit(f'"{_escape("".join(pieces))}":')
            if len(nested) == 1:
                name, start, has_text = "".join(pieces), reader.position, False


def _is_name(reader: Reader) -> Wait[bool]:
    return (yield from reader.which(["}"])) is None


def _escape(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
