"""The grammar of a call's arguments, in each of the ways they are written.

What a family's way of writing cannot carry is noted, and checked when the call is complete.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.chat.wire_formats.format import FieldArguments
from runtime.chat.wire_formats.rules import Rules, any_text_of, in_slashes
from runtime.chat.wire_formats.schemas import (
    HINTS,
    alternatives,
    fits,
    flatten,
    has_hints,
    object_of,
    properties_of,
    relocate,
    types_of,
)
from runtime.errors import UnsupportedSchemaError
from runtime.grammar.ladder import SchemaLevel, with_options
from runtime.grammar.patterns import whole_pattern
from runtime.grammar.schema import dump_json
from tools.errors import InvalidRequestError
from tools.spec import JsonObject

_WORDS = re.compile(r"\w+|\W")
_UNKEPT = ("not", "if", "dependentRequired", "dependentSchemas", "dependencies")
UNKEPT_OF_OBJECTS = (
    *("minProperties", "maxProperties", "patternProperties", "propertyNames"),
    "unevaluatedProperties",
)
UNKEPT_OF_ARRAYS = ("uniqueItems", "contains", "prefixItems", "unevaluatedItems")


@dataclass(frozen=True, slots=True)
class HintValues:
    """What a request's hints refer to.

    Attributes:
        choices: lists that `x-choices-from` names.
        texts: texts that `x-verbatim-from` names: "user" and "conversation".
    """

    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Scope:
    """One tool's arguments on their way into a grammar.

    Attributes:
        tool: the tool's name.
        rules: where they are written.
        root: the schema that references point into.
        level: how strictly JSON is compiled.
        is_spaced: whether blanks follow JSON's commas and colons.
        hints: what hints refer to; None where that is not known yet, and anything stands in.
        may_hint: whether hints may stand in the schema; where not, none is looked for.
        dropped: keywords, with their paths, that the grammar does not enforce.
    """

    tool: str
    rules: Rules
    root: JsonObject
    level: SchemaLevel
    is_spaced: bool
    hints: HintValues | None
    may_hint: bool
    dropped: list[str] = field(default_factory=list)

    def drop(self, schema: JsonObject, path: str, *keywords: str) -> None:
        self.lose([key for key in keywords if key in schema], path)

    def lose(self, keywords: Iterable[str], path: str) -> None:
        self.dropped += [f"{key} at {path}" for key in keywords]

    def flatten(self, schema: JsonObject, path: str) -> JsonObject:
        """As `flatten`; what is lost is noted, and what no notation of ours carries."""
        lost: list[str] = []
        flat = flatten(schema, self.root, lost)
        self.lose(lost, path)
        self.drop(flat, path, *_UNKEPT)
        return flat

    def alternatives(self, flat: JsonObject, path: str) -> list[JsonObject] | None:
        """As `alternatives`; what is lost is noted."""
        lost: list[str] = []
        options = alternatives(flat, self.root, lost)
        self.lose(lost, path)
        if options == []:
            raise UnsupportedSchemaError(f"the schema at {path}: no value satisfies it")
        return options

    def values(self, flat: JsonObject) -> list[Any] | None:
        """The values that a schema lists and allows; None where it lists none."""
        if "const" not in flat and not isinstance(flat.get("enum"), list):
            return None
        listed = [flat["const"]] if "const" in flat else flat["enum"]
        return [value for value in listed if fits(flat, self.root, value)]

    def memoized(self, kind: str, schema: JsonObject, write: Callable[[], str]) -> str:
        """The rule of a schema, which may refer to itself."""
        key = f"{kind} {json.dumps(schema)} of {self.tool}"
        name, is_new = self.rules.declare(key)
        if is_new:
            self.rules.define(name, write())
        return name


def json_value(scope: Scope, schema: JsonObject, path: str) -> str:
    """A JSON value; where hints stand in the schema it is spelled out down to them."""
    if not scope.may_hint or not has_hints(schema, scope.root):
        return embedded(scope, schema)
    return scope.memoized("json", schema, lambda: _spelled_out(scope, schema, path))


def _spelled_out(scope: Scope, schema: JsonObject, path: str) -> str:
    rules, flat = scope.rules, scope.flatten(schema, path)
    if (options := scope.alternatives(flat, path)) is not None:
        return rules.any_of([json_value(scope, option, path) for option in options])
    types = types_of(flat, scope.root)
    parts = []
    if "string" in types and (text := hinted_text(scope, flat, path, '"', is_json=True)):
        parts.append(f'"\\"" {text}')
        types -= {"string"}
    if "object" in types and isinstance(flat.get("properties"), dict):
        parts.append(_json_object(scope, flat, path))
        types -= {"object"}
    if "array" in types and isinstance(flat.get("items"), dict):
        scope.drop(flat, path, *UNKEPT_OF_ARRAYS)
        item = rules.rule(json_value(scope, flat["items"], f"{path}[]"))
        parts.append(f'"[" {repeated(rules, item, flat, _comma(scope))} "]"')
        types -= {"array"}
    if types:
        rest = {key: value for key, value in flat.items() if key not in HINTS}
        scope.drop(flat, path, *(() if parts else HINTS))
        if not parts and has_hints(rest, scope.root):
            scope.dropped.append(f"hints below {path}")
        parts.append(embedded(scope, {**rest, "type": sorted(types)}))
    return rules.any_of(parts)


def _json_object(scope: Scope, flat: JsonObject, path: str) -> str:
    rules, comma = scope.rules, _comma(scope)
    scope.drop(flat, path, *UNKEPT_OF_OBJECTS)
    items = []
    for name, part, must in properties_of(flat):
        key = rules.literal(json.dumps(name, ensure_ascii=False) + comma.replace(",", ":"))
        items.append((f"{key} {json_value(scope, part, f'{path}.{name}')}", must))
    return f'"{{" {rules.chain(items, comma)} "}}"'


def _comma(scope: Scope) -> str:
    return ", " if scope.is_spaced else ","


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
    """A text as it is, without quotes or escapes, and what closes it.

    Raises:
        UnsupportedSchemaError: none of the texts that the schema lists can be written so.
    """
    rules, flat = scope.rules, scope.flatten(schema, path)
    if (values := scope.values(flat)) is not None:
        texts = [one for one in values if isinstance(one, str) and _is_closed_by(one, closing)]
        if not texts:
            raise UnsupportedSchemaError(f"keyword 'enum' at {path}: no value can be written")
        scope.drop(flat, path, *HINTS)
        # Not literals: of these and other alternatives the lexer would read the longest.
        return rules.text_before(closing, any_text_of(texts))
    if (options := scope.alternatives(flat, path)) is not None:
        kept = [one for one in options if "string" in types_of(one, scope.root)]
        return rules.any_of([raw_text(scope, one, path, closing) for one in kept])
    if (hinted := hinted_text(scope, flat, path, closing)) is not None:
        return hinted
    scope.drop(flat, path, "format")
    return rules.text_before(closing, *_patterns(scope, flat, path))


def _is_closed_by(text: str, closing: str) -> bool:
    """Whether what closes the text is not found earlier."""
    return (text + closing).find(closing) == len(text)


def field_values(style: FieldArguments, scope: Scope) -> str:
    """All arguments, each by itself.

    Raises:
        UnsupportedSchemaError: an argument's name could be taken for another.
    """
    lost: list[str] = []
    fields = object_of(scope.root, scope.root, lost)
    scope.lose(lost, "$")
    scope.drop(fields, "$", *_UNKEPT, *UNKEPT_OF_OBJECTS)
    items, leads = [], dict[str, str]()
    for name, part, must in properties_of(fields):
        leads[style.before_key + name + style.before_value] = name
        lead = scope.rules.literal(style.before_key + name + style.before_value)
        items.append((f"{lead} {_field(style, scope, part, f'$.{name}')}", must))
    for one, other in itertools.pairwise(sorted(leads)):
        if other.startswith(one):
            raise UnsupportedSchemaError(
                f"keyword 'properties' at $: {leads[other]!r} would be taken for {leads[one]!r}"
            )
    return scope.rules.chain(items, "")


def _field(style: FieldArguments, scope: Scope, schema: JsonObject, path: str) -> str:
    rules, closing = scope.rules, style.after_value
    types = types_of(schema, scope.root)
    if not types:
        raise UnsupportedSchemaError(f"the schema at {path}: no value satisfies it")
    if "string" not in types:
        return f"{json_value(scope, schema, path)} {rules.literal(closing)}"
    text, any_text = raw_text(scope, schema, path, closing), rules.text_before(closing)
    # Any text is a text, or one of the other types, and valid as either.
    if types == {"string"} or text == any_text:
        return text
    flat = scope.flatten(schema, path)
    if (values := scope.values(flat)) is None and types <= {"string", "null", "boolean"}:
        values = [one for one in (None, True, False) if fits(flat, scope.root, one)]
    if values is None:
        # Of two lexemes the longest is read: a text hides what begins like it and ends earlier.
        scope.dropped.append(f"types at {path}")
        scope.drop(flat, path, *HINTS)
        return any_text
    words = [dump_json(one) for one in values if not isinstance(one, str)]
    return rules.any_of([text, rules.text_before(closing, any_text_of(words))])


def hinted_text(
    scope: Scope, flat: JsonObject, path: str, closing: str, *, is_json: bool = False
) -> str | None:
    """A text under its hints, and what closes it; None where it has none.

    Raises:
        InvalidRequestError: a hint refers to nothing that the request has.
    """
    rules = scope.rules

    def spell(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)[1:-1] if is_json else text

    if (name := flat.get("x-choices-from")) is not None:
        scope.drop(flat, path, "x-verbatim-from")
        choices = [
            one
            for one in _choices(scope.hints, name, path)
            if fits(flat, scope.root, one) and (is_json or _is_closed_by(one, closing))
        ]
        if not choices and scope.hints is not None:
            raise InvalidRequestError(f"x-choices-from at {path}: no text of {name!r} is allowed")
        texts = any_text_of(map(spell, choices or [""]))
        if is_json:
            return f"{rules.lexeme(texts)} {rules.literal(closing)}"
        return rules.text_before(closing, texts)
    if (source := flat.get("x-verbatim-from")) is None:
        return None
    chunks = [spell(one) for one in _WORDS.findall(_text(scope.hints, source, path))]
    run = rules.lexeme(f"%regex {json.dumps({'substring_chunks': chunks}, ensure_ascii=False)}")
    # The compiler follows a run into what another pattern refuses, and is stuck there.
    scope.drop(flat, path, "format", "enum", "const", "pattern", "minLength", "maxLength")
    some = in_slashes("(?s:.+)")
    if is_json:
        return f"{rules.lexeme(f'{run} & {some}')} {rules.literal(closing)}"
    return rules.text_before(closing, run, some)


def _patterns(scope: Scope, schema: JsonObject, path: str) -> list[str]:
    """Terminals that a text has to match, all of them."""
    patterns = [f"(?s:.){lengths}"] if (lengths := _lengths(schema)) != "{0,}" else []
    if isinstance(schema.get("pattern"), str):
        whole = whole_pattern(schema["pattern"]) if scope.level != "lenient" else None
        scope.drop(schema, path, *(() if whole else ("pattern",)))
        patterns += [whole] if whole else []
    return [in_slashes(pattern) for pattern in patterns]


def _lengths(schema: JsonObject) -> str:
    most = _count(schema, "maxLength", -1)
    return f"{{{_count(schema, 'minLength', 0)},{'' if most < 0 else most}}}"


def _count(schema: JsonObject, keyword: str, default: int) -> int:
    value = schema.get(keyword, default)
    return int(value) if isinstance(value, int | float) else default


def _choices(hints: HintValues | None, name: Any, path: str) -> Sequence[str]:
    if hints is None:
        return ()
    choices = hints.choices.get(name) if isinstance(name, str) else None
    if not choices:
        raise InvalidRequestError(
            f"x-choices-from at {path} names {name!r}, which is no list of this request;"
            f" given are {', '.join(sorted(hints.choices)) or 'none'}"
        )
    for choice in choices:
        if re.search("[\ud800-\udfff]", choice):
            raise InvalidRequestError(f"x-choices-from at {path}: {choice!r} is no Unicode text")
    return choices


def _text(hints: HintValues | None, name: Any, path: str) -> str:
    if hints is None:
        return "?"
    text = hints.texts.get(name) if isinstance(name, str) else None
    if text is None:
        raise InvalidRequestError(
            f"x-verbatim-from at {path} names {name!r}, which is no text of this request;"
            f" there are {', '.join(sorted(hints.texts)) or 'none'}"
        )
    if not text.strip():
        raise InvalidRequestError(
            f"x-verbatim-from at {path}: nothing can be taken from {name!r}, which is empty"
        )
    return text
