"""Gemma's notation of arguments: its grammar, its writer and its translation into JSON.

`{name:value,…}` with bare names, `[value,…]`, texts unescaped between quote markers, and
numbers, `true`, `false` and `null` as in JSON.
Source: chat template of google/gemma-4-31B-it; FunctionGemma's formatting guide.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from runtime.chat.wire_formats.arguments import (
    UNKEPT_OF_ARRAYS,
    UNKEPT_OF_OBJECTS,
    Scope,
    embedded,
    raw_text,
    repeated,
)
from runtime.chat.wire_formats.format import NotationArguments
from runtime.chat.wire_formats.readers import Reader, Wait
from runtime.chat.wire_formats.schemas import HINTS, properties_of, types_of
from runtime.errors import UnsupportedSchemaError
from tools.spec import JsonObject

_BARE_NAME = r"[^:,{}\[\]\s]+"
_MARKUP = re.compile(r"[^\w .$/-]")
_NUMERIC = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


def notation_value(style: NotationArguments, scope: Scope, schema: JsonObject, path: str) -> str:
    """Expression of a value in the notation.

    Raises:
        UnsupportedSchemaError: a property's name, or no value at all, can be written so.
    """
    if not schema:
        return _anything(style, scope)
    return scope.memoized("notation", schema, lambda: _written(style, scope, schema, path))


def _written(style: NotationArguments, scope: Scope, schema: JsonObject, path: str) -> str:
    flat, rules = scope.flatten(schema, path), scope.rules
    if (values := scope.values(flat)) is not None:
        known = [one for one in values if _can_be_written(style, one)]
        if not known:
            raise UnsupportedSchemaError(f"keyword 'enum' at {path}: no value can be written")
        written = [
            rules.literal(write_notation(style, one)) for one in known if not isinstance(one, str)
        ]
        if len(written) < len(known):
            written.append(_of_kind(style, scope, flat, path, "string"))
        return rules.any_of(written)
    if (options := scope.alternatives(flat, path)) is not None:
        return rules.any_of([notation_value(style, scope, one, path) for one in options])
    types = types_of(flat, scope.root)
    kinds = sorted(types - {"integer"} if "number" in types else types)
    if not kinds:
        raise UnsupportedSchemaError(f"the schema at {path}: no value satisfies it")
    if "string" not in kinds:
        scope.drop(flat, path, *HINTS)
    return rules.any_of([_of_kind(style, scope, flat, path, kind) for kind in kinds])


def _can_be_written(style: NotationArguments, value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_name(name) and _can_be_written(style, one) for name, one in value.items())
    if isinstance(value, list):
        return all(_can_be_written(style, one) for one in value)
    return not isinstance(value, str) or (value + style.quote).find(style.quote) == len(value)


def _is_name(name: str) -> bool:
    return ":" not in name and not name.startswith("}")


def _of_kind(style: NotationArguments, scope: Scope, flat: JsonObject, path: str, kind: str) -> str:
    rules = scope.rules
    if kind == "string":
        text = raw_text(scope, flat, path, style.quote)
        return rules.rule(f"{rules.literal(style.quote)} {text}")
    if kind == "array":
        scope.drop(flat, path, *UNKEPT_OF_ARRAYS)
        items = flat.get("items")
        item = notation_value(style, scope, items if isinstance(items, dict) else {}, f"{path}[]")
        return rules.rule(f'"[" {repeated(rules, rules.rule(item), flat, ",")} "]"')
    if kind == "object":
        return _object(style, scope, flat, path)
    kept = {key: flat[key] for key in _NUMERIC if key in flat}
    return embedded(scope, {**kept, "type": kind})


def _object(style: NotationArguments, scope: Scope, flat: JsonObject, path: str) -> str:
    rules = scope.rules
    scope.drop(flat, path, *UNKEPT_OF_OBJECTS)
    items = []
    for name, part, must in properties_of(flat):
        if not _is_name(name):
            raise UnsupportedSchemaError(
                f"keyword 'properties' at {path}: the model's notation cannot write {name!r}"
            )
        value = notation_value(style, scope, part, f"{path}.{name}")
        items.append((f"{rules.literal(name + ':')} {value}", must))
    extra = flat.get("additionalProperties", "properties" not in flat)
    if items or extra is False:
        return rules.rule(f'"{{" {rules.chain(items, ",")} "}}"')
    value = notation_value(style, scope, extra if isinstance(extra, dict) else {}, f"{path}.*")
    entry = rules.rule(f'{rules.terminal(_BARE_NAME)} ":" {value}')
    return rules.rule(f'"{{" {repeated(rules, entry, {}, ",")} "}}"')


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


def hide_name(name: str, hide: Callable[[str], str]) -> str:
    """Hide an argument's name that may spell a control token, and leave any other to sort by."""
    return hide(name) if _MARKUP.search(name) else name


def write_notation(style: NotationArguments, value: Any, hide: Callable[[str], str] = str) -> str:
    """Write a JSON value in the notation; texts go through `hide`."""
    if isinstance(value, str):
        return style.quote + hide(value) + style.quote
    if isinstance(value, dict):
        entries = (
            f"{hide_name(name, hide)}:{write_notation(style, item, hide)}"
            for name, item in value.items()
        )
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
    name: str | None = None
    start, has_text = 0, False
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
        if len(nested) == 1 and char in ",}" and name is not None:
            end = reader.position - 1
            spans[name] = (start, end - (len(style.quote) if has_text else 0))
        emit(char)
        if char in closing:
            nested.append(closing[char])
        elif nested and char == nested[-1]:
            nested.pop()
        if not nested:
            return spans
        if (char == "{" or (char == "," and nested[-1] == "}")) and (yield from _is_named(reader)):
            pieces: list[str] = []
            yield from reader.until(":", pieces.append)
            emit(f'"{_escape("".join(pieces))}":')
            if len(nested) == 1:
                name, start, has_text = "".join(pieces), reader.position, False


def _is_named(reader: Reader) -> Wait[bool]:
    return (yield from reader.which(["}"])) is None


def _escape(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
