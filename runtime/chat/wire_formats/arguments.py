"""The grammar of a call's arguments, in each of the ways they are written.

What a family's way of writing cannot carry is noted, and checked when the call is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.chat.wire_formats.format import FieldArguments
from runtime.chat.wire_formats.rules import ANY_TEXT, Rules
from runtime.chat.wire_formats.schemas import (
    HINTS,
    has_hints,
    properties_of,
    relocate,
    resolve,
    types_of,
)
from runtime.grammar.ladder import SchemaLevel, with_options
from runtime.grammar.schema import dump_json
from tools.errors import InvalidRequestError
from tools.spec import JsonObject

_JSON_CHAR = r'(?:[^"\\\x00-\x1F\x7F]|\\["\\\/bfnrt])'
_ENUMERATED = ("enum", "const", "pattern", "format")


@dataclass(frozen=True, slots=True)
class HintValues:
    """What a request's hints refer to.

    Attributes:
        choices: lists that `x-choices-from` names.
        texts: texts that `x-verbatim-from` names: "user" and "conversation".
    """

    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


NO_HINT_VALUES = HintValues()


@dataclass(slots=True)
class Scope:
    """One tool's arguments on their way into a grammar.

    Attributes:
        rules: where they are written.
        root: the schema that references point into.
        level: how strictly JSON is compiled.
        is_spaced: whether blanks follow JSON's commas and colons.
        hints: what hints refer to.
        dropped: keywords, with their paths, that the grammar does not enforce.
    """

    rules: Rules
    root: JsonObject
    level: SchemaLevel
    is_spaced: bool
    hints: HintValues = NO_HINT_VALUES
    dropped: list[str] = field(default_factory=list)

    def drop(self, schema: JsonObject, path: str, *keywords: str) -> None:
        self.dropped += [f"{key} at {path}" for key in keywords if key in schema]


NOT_IN_FIELDS = (
    *("anyOf", "oneOf", "allOf", "not", "if", "dependentRequired", "dependentSchemas"),
    *("minProperties", "maxProperties", "patternProperties", "propertyNames", "$ref"),
)


def json_value(scope: Scope, schema: JsonObject, path: str) -> str:
    """A JSON value; where hints stand in the schema it is spelled out down to them."""
    if not has_hints(schema):
        return embedded(scope, schema)
    if (hinted := _hinted_text(scope, schema, path, json_text=True)) is not None:
        return f'"\\"" {hinted} "\\""'
    inner = {key: value for key, value in schema.items() if key not in HINTS}
    scope.drop(schema, path, "x-max-tokens")
    rules, comma = scope.rules, ", " if scope.is_spaced else ","
    if not has_hints(inner):
        return embedded(scope, inner)
    if "object" in types_of(schema, scope.root) and isinstance(schema.get("properties"), dict):
        scope.drop(schema, path, *NOT_IN_FIELDS)
        items = []
        for name, part, must in properties_of(schema):
            key = rules.literal(json.dumps(name, ensure_ascii=False) + comma.replace(",", ":"))
            items.append((f"{key} {json_value(scope, part, f'{path}.{name}')}", must))
        return f'"{{" {rules.chain(items, comma)} "}}"'
    if isinstance(schema.get("items"), dict) and "array" in types_of(schema, scope.root):
        scope.drop(schema, path, "uniqueItems", "contains", "prefixItems")
        item = rules.rule(json_value(scope, schema["items"], f"{path}[]"))
        return f'"[" {repeated(rules, item, schema, comma)} "]"'
    scope.drop(schema, path, *(key for key in schema if key in ("anyOf", "oneOf", "allOf")))
    return embedded(scope, inner)


def embedded(scope: Scope, schema: JsonObject) -> str:
    """A JSON value as the schema's own compiler writes it."""
    own = schema if schema is scope.root else relocate(schema, scope.root)
    options = with_options(own, level=scope.level, spaced=scope.is_spaced)
    return scope.rules.rule(f"%json {dump_json(options)}")


def repeated(rules: Rules, item: str, schema: JsonObject, separator: str) -> str:
    """Items with separators between, as many as `minItems` and `maxItems` say."""
    least = _count(schema, "minItems", 0)
    most = _count(schema, "maxItems", -1)
    if most == 0:
        return '""'
    more = f"{{{max(0, least - 1)},{'' if most < 0 else most - 1}}}"
    some = f"{item} ({rules.literal(separator)} {item}){more}"
    return some if least else rules.rule(f'{some} | ""')


def raw_text(scope: Scope, schema: JsonObject, path: str, closing: str) -> str:
    """A text as it is, without quotes or escapes, and what closes it."""
    rules = scope.rules
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list):
        texts = [value for value in values if isinstance(value, str) and closing not in value]
        if texts:
            return f"({' | '.join(rules.literal(text) for text in texts)}) {rules.literal(closing)}"
    if (hinted := _hinted_text(scope, schema, path, closing=closing)) is not None:
        return hinted
    scope.drop(schema, path, "format")
    return rules.text_before(closing, *_patterns(scope, schema, path))


def field_values(style: FieldArguments, scope: Scope) -> str:
    """All arguments, each by itself."""
    scope.drop(scope.root, "$", *NOT_IN_FIELDS)
    items = []
    for name, part, must in properties_of(scope.root):
        lead = scope.rules.literal(style.before_key + name + style.before_value)
        items.append((f"{lead} {_field(style, scope, part, f'$.{name}')}", must))
    return scope.rules.chain(items, "")


def _field(style: FieldArguments, scope: Scope, schema: JsonObject, path: str) -> str:
    whole = resolve(schema, scope.root)
    types = types_of(schema, scope.root)
    if types == {"string"}:
        return raw_text(scope, whole, path, style.after_value)
    if "string" in types:
        # Which of its types a text is meant as shows when it is complete.
        scope.dropped.append(f"types at {path}")
        return scope.rules.text_before(style.after_value)
    value = json_value(scope, schema, path)
    return f"{value} {scope.rules.literal(style.after_value)}"


def _hinted_text(
    scope: Scope, schema: JsonObject, path: str, *, json_text: bool = False, closing: str = ""
) -> str | None:
    """A text under its hints, with what closes it; None where it has none that can be kept.

    Within JSON (`json_text`) the quotes around it are the caller's.
    """
    rules = scope.rules

    def spell(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)[1:-1] if json_text else text

    if (name := schema.get("x-choices-from")) is not None:
        choices = _choices(scope.hints, name, path)
        options = " | ".join(rules.literal(spell(choice)) for choice in choices)
        return f"({options})" + (f" {rules.literal(closing)}" if closing else "")
    if types_of(schema, scope.root) != {"string"}:
        return None
    limit = schema.get("x-max-tokens")
    attributes = f"max_tokens={limit}" if isinstance(limit, int) and limit > 0 else ""
    if (source := schema.get("x-verbatim-from")) is not None:
        words = " ".join(_text(scope.hints, source, path).split())
        pattern = json.dumps({"substring_words": spell(words)}, ensure_ascii=False)
        text = rules.lexeme(f"%regex {pattern}")
        scope.drop(schema, path, *_ENUMERATED, "minLength", "maxLength")
        limited = rules.rule(text, attributes) if attributes else text
        return limited + (f" {rules.literal(closing)}" if closing else "")
    if not attributes or any(key in schema for key in _ENUMERATED):
        return None
    if closing:
        return rules.text_before(closing, *_patterns(scope, schema, path), attributes=attributes)
    return rules.rule(rules.terminal(_JSON_CHAR + _lengths(schema)), attributes)


def _patterns(scope: Scope, schema: JsonObject, path: str) -> list[str]:
    patterns = [f"(?s:.){_lengths(schema)}"]
    if isinstance(schema.get("pattern"), str):
        if scope.level == "lenient":
            scope.drop(schema, path, "pattern")
        else:
            patterns.append(_searched(schema["pattern"]))
    return patterns


def _searched(pattern: str) -> str:
    """A pattern of the whole text from one that is found anywhere in it."""
    begins, ends = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    body = pattern[begins : len(pattern) - ends]
    return f"{'' if begins else ANY_TEXT}(?:{body}){'' if ends else ANY_TEXT}"


def _lengths(schema: JsonObject) -> str:
    most = _count(schema, "maxLength", -1)
    return f"{{{_count(schema, 'minLength', 0)},{'' if most < 0 else most}}}"


def _count(schema: JsonObject, keyword: str, default: int) -> int:
    value = schema.get(keyword, default)
    return int(value) if isinstance(value, int | float) else default


def _choices(hints: HintValues, name: Any, path: str) -> Sequence[str]:
    choices = hints.choices.get(name) if isinstance(name, str) else None
    if not choices:
        raise InvalidRequestError(
            f"x-choices-from at {path} names {name!r}, which is no list of this request;"
            f" given are {', '.join(sorted(hints.choices)) or 'none'}"
        )
    return choices


def _text(hints: HintValues, name: Any, path: str) -> str:
    text = hints.texts.get(name) if isinstance(name, str) else None
    if text is None or not text.strip():
        raise InvalidRequestError(
            f"x-verbatim-from at {path} names {name!r}, which is no text of this request;"
            f" given are {', '.join(sorted(hints.texts)) or 'none'}"
        )
    return text
