"""Rewrites a schema into the part of draft 2020-12 that the grammar compiler enforces exactly.

Older drafts, references of any kind and keywords that others can express are rewritten; what is
left is dropped with its name and path. Nothing that satisfies the schema is ruled out, except
that a known `format` is enforced, the order of properties is fixed and numbers have one form.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import llguidance

from runtime.errors import UnsupportedSchemaError
from runtime.grammar.evaluated import evaluated_items, evaluated_properties
from runtime.grammar.limits import LIMITS
from runtime.grammar.patterns import portable_pattern
from runtime.grammar.references import Document, Place
from runtime.grammar.schema import Schema, dump_json
from tools.spec import JsonObject

FORMATS = frozenset(
    [
        "date",
        "date-time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "time",
        "unknown",
        "uri",
        "uuid",
    ]
)
MAX_EXACT_NUMBER = 2**53
# The compiler's automaton has a state per remainder and hangs on millions of them.
MAX_DIVISOR = 10_000

_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_AND = "$and"  # of a schema being rewritten: what else must hold
_TYPES = ("null", "boolean", "number", "string", "array", "object")


@dataclass(frozen=True, slots=True)
class Drop:
    """A keyword that the rewritten schema does not enforce."""

    keyword: str
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.keyword} at {self.path}"


@dataclass(frozen=True, slots=True)
class Normal:
    """A rewritten schema.

    Attributes:
        schema: what the compiler gets; its references are `#` or `#/$defs/NAME`.
        drops: what it does not enforce.
        one_ofs: (path, object of `schema`) of every `oneOf`, for the compiler to judge.
        property_counts: every `minProperties` and `maxProperties` in it, as "keyword at path".
    """

    schema: JsonObject
    drops: tuple[Drop, ...]
    one_ofs: tuple[tuple[str, JsonObject], ...]
    property_counts: tuple[str, ...]


def normalise(schema: Schema) -> Normal:
    """Rewrite `schema`.

    Raises:
        UnsupportedSchemaError: it is malformed, refers to what is not part of it or to itself
            without end, or nothing satisfies it.
    """
    return _Normaliser(schema).run()


class _Normaliser:
    """One rewriting. `_definitions` holds, by name, what references lead to."""

    def __init__(self, schema: Schema) -> None:
        self._source = schema if isinstance(schema, dict) else {"not": not schema}
        self._document = Document(self._source)
        self._definitions: dict[str, Schema] = {}
        self._names = {id(self._source): "#"}
        self._paths = {"#": "$"}
        self._drops: list[Drop] = []
        self._one_ofs: list[tuple[str, JsonObject]] = []
        self._property_counts: list[str] = []
        self._divisor = 1

    def run(self) -> Normal:
        root = self._node(self._source, self._document.root)
        if root is False:
            raise UnsupportedSchemaError("the schema at $ is not supported: no output satisfies it")
        schema = dict(root) if isinstance(root, dict) else {}
        _check_progress({"#": root, **self._definitions}, self._paths)
        if self._definitions:
            schema["$defs"] = self._definitions
        return Normal(
            schema, tuple(self._drops), tuple(self._one_ofs), tuple(self._property_counts)
        )

    def _drop(self, keyword: str, place: Place, reason: str = "no grammar expresses it") -> None:
        self._drops.append(Drop(keyword, place.path, reason))

    def _child(self, value: Any, place: Place) -> Schema:
        if isinstance(value, dict):
            place = place.entering(value)
        return self._node(value, place)

    def _node(self, value: Any, place: Place) -> Schema:
        if isinstance(value, bool):
            return value
        if not isinstance(value, dict):
            raise _malformed("schema", place, "an object or a boolean", value)
        if "$ref" in value and place.draft <= 7:
            value = {"$ref": value["$ref"]}
        out: JsonObject = {}
        for keyword in value:
            rewrite = _REWRITES.get(keyword)
            is_spoken = _SINCE.get(keyword, 0) <= place.draft <= _UNTIL.get(keyword, 2020)
            if rewrite is not None and is_spoken:
                rewrite(self, keyword, value, place, out)
        if out.pop("not", None) is True:
            return False
        if extra := out.pop(_AND, None):
            out["allOf"] = [*out.get("allOf", ()), *extra]
        if "oneOf" in out:
            self._one_ofs.append((place.path, out))
        return out

    # Keywords whose value is plain data.

    def _required(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        names = schema[keyword]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise _malformed(keyword, place, "a list of names", names)
        out[keyword] = names

    def _type(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not names or not all(isinstance(n, str) and n in (*_TYPES, "integer") for n in names):
            raise _malformed("type", place, "one or several of JSON's types", schema["type"])
        out["type"] = schema["type"]

    def _literal(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        value = schema[keyword]
        if keyword == "enum" and not isinstance(value, list):
            raise _malformed("enum", place, "a list", value)
        try:
            out[keyword] = _plain_numbers(value)
        except OverflowError:
            self._drop(keyword, place, "its numbers are too large to be exact")

    def _count(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        value = schema[keyword]
        if not _is_number(value) or value != value // 1 or value < 0:
            raise _malformed(keyword, place, "a whole number, at least 0", value)
        out[keyword] = int(value)
        if keyword.endswith("Properties"):
            self._property_counts.append(f"{keyword} at {place.path}")

    def _bound(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        value = schema[keyword]
        if isinstance(value, bool) and place.draft == 4:
            side = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}.get(keyword)
            value = schema.get(side) if value and side else None
            if value is None:
                return
        if not _is_number(value):
            raise _malformed(keyword, place, "a number", value)
        if abs(value) > MAX_EXACT_NUMBER:
            self._drop(keyword, place, "the number is too large to be exact")
        else:
            out[keyword] = _plain_numbers(value)

    def _multiple_of(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        value = schema[keyword]
        if not _is_number(value) or value <= 0:
            raise _malformed(keyword, place, "a number above 0", value)
        coefficient = _divisor(value)
        combined = math.lcm(self._divisor, coefficient or 0)
        if not 0 < combined <= MAX_DIVISOR:
            self._drop(
                keyword,
                place,
                f"its digits, or the least common multiple of the schema's"
                f" divisors, exceed {MAX_DIVISOR}",
            )
        else:
            self._divisor = combined
            out[keyword] = value

    def _pattern(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        pattern = self._portable(schema[keyword], keyword, place)
        if pattern is not None:
            out[keyword] = pattern

    def _portable(self, pattern: Any, keyword: str, place: Place) -> str | None:
        if not isinstance(pattern, str):
            raise _malformed(keyword, place, "a regular expression", pattern)
        portable = portable_pattern(pattern)
        if portable is None:
            reason = "look-around, back-references and syntax that ECMAScript, Python and Rust"
            self._drop(keyword, place, f"{reason} read differently cannot be compiled")
        return portable

    def _format(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        if schema[keyword] in FORMATS:
            out[keyword] = schema[keyword]
        elif "string" in _types(schema):
            self._drop(keyword, place, f"Unknown format: {schema[keyword]}")

    # Keywords that hold schemas.

    def _map(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        named = schema[keyword]
        if not isinstance(named, dict):
            raise _malformed(keyword, place, "an object", named)
        out[keyword] = {
            name: self._child(item, place.below(f".{keyword}.{name}"))
            for name, item in named.items()
        }

    def _patterns(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        self._map(keyword, schema, place, out)
        portable = {
            self._portable(name, keyword, place): item for name, item in out[keyword].items()
        }
        out[keyword] = portable
        if None in portable or not _are_disjoint(list(portable)):
            del out[keyword]
            if None not in portable:
                self._drop(keyword, place, "a name may match several of its patterns")

    def _additional(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        rest = self._child(schema[keyword], place.below(f".{keyword}"))
        given = schema.get("patternProperties", {})
        names = [portable_pattern(name) for name in given]
        if not _are_disjoint(names):
            # Names that a dropped pattern covers would fall under it.
            self._drop(keyword, place, "it depends on patternProperties")
        else:
            out[keyword] = rest

    def _one(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        if isinstance(schema[keyword], list) and place.draft < 2020:
            self._list_into("prefixItems", keyword, schema, place, out)
            if "additionalItems" in schema:
                below = place.below(".additionalItems")
                out["items"] = self._child(schema["additionalItems"], below)
            return
        out[keyword] = self._child(schema[keyword], place.below(f".{keyword}"))

    def _list(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        self._list_into(keyword, keyword, schema, place, out)

    def _list_into(
        self, target: str, keyword: str, schema: JsonObject, place: Place, out: JsonObject
    ) -> None:
        items = schema[keyword]
        if not isinstance(items, list):
            raise _malformed(keyword, place, "a list", items)
        parts = [
            self._child(item, place.below(f".{keyword}[{index}]"))
            for index, item in enumerate(items)
        ]
        out[target] = parts

    def _ref(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        reference = schema[keyword]
        if keyword == "$recursiveRef" and self._document.has_recursive_anchor:
            self._drop(keyword, place, "what it means depends on where it is reached from")
            return
        if keyword == "$dynamicRef" and not self._document.is_static(reference, place):
            self._drop(keyword, place, "what it means depends on where it is reached from")
            return
        target, at = self._document.follow(reference, place)
        if id(target) not in self._names:
            name = f"d{len(self._names)}"
            self._names[id(target)] = name
            self._paths[name] = at.path
            self._definitions[name] = self._node(target, at)
        name = self._names[id(target)]
        found = {"$ref": "#" if name == "#" else f"#/$defs/{name}"}
        if "$ref" in out:
            _and(out, found)
        else:
            out |= found

    # Keywords that others can express, in part.

    def _unique(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        if schema[keyword] is True and schema.get("maxItems", 2) > 1:
            self._drop(keyword, place)

    def _not(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        refused = schema[keyword]
        if refused is True or refused == {}:
            out["not"] = True
        elif isinstance(refused, dict) and refused.keys() == {"type"}:
            self._not_type(refused["type"], place, out)
        elif refused is not False:
            self._drop(keyword, place)

    def _not_type(self, refused: Any, place: Place, out: JsonObject) -> None:
        names = set(refused if isinstance(refused, list) else [refused])
        if "integer" in names and "number" not in names:
            self._drop("not", place)
            return
        others = [name for name in _TYPES if name not in names]
        _and(out, {"type": others} if others else False)

    def _condition(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        condition, branches = schema[keyword], {"then", "else"} & schema.keys()
        if isinstance(condition, bool):
            branch = "then" if condition else "else"
            if branch in schema:
                _and(out, self._child(schema[branch], place.below(f".{branch}")))
        elif branches and place.draft >= 7:
            self._drop(keyword, place)

    def _contains(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        least = schema.get("minContains", 1) if place.draft >= 2019 else 1
        most = schema.get("maxContains") if place.draft >= 2019 else None
        if most is None and least == 0:
            return
        if schema[keyword] in (True, {}):
            counts = {"minItems": least} if most is None else {"minItems": least, "maxItems": most}
            _and(out, {name: int(count) for name, count in counts.items()})
            return
        _and(out, {"minItems": int(least)})
        self._drop(keyword, place)

    def _names_of(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        names = schema[keyword]
        if names is True or names == {}:
            return
        if names is False:
            _and(out, {"maxProperties": 0})
        elif isinstance(names, dict) and names.keys() <= {"enum", "type"} and "enum" in names:
            allowed = [name for name in names["enum"] if isinstance(name, str)]
            _and(out, {"properties": dict.fromkeys(allowed, True), "additionalProperties": False})
        elif isinstance(names, dict) and names.keys() <= {"pattern", "type"}:
            pattern = self._portable(names.get("pattern", ""), keyword, place)
            if pattern is not None:
                rule = {"patternProperties": {pattern: True}, "additionalProperties": False}
                _and(out, rule)
        else:
            self._drop(keyword, place)

    def _dependent(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        for name, wanted in schema[keyword].items():
            if isinstance(wanted, list):
                then: Schema = {"required": wanted}
            else:
                then = self._child(wanted, place.below(f".{keyword}.{name}"))
            if then is not True and wanted not in ([], {}):
                _and(out, {"anyOf": [{"properties": {name: False}}, then]})

    def _unevaluated(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        rest = self._child(schema[keyword], place.below(f".{keyword}"))
        if rest is True or rest == {}:
            return
        if keyword == "unevaluatedProperties":
            found = evaluated_properties(schema, place, self._document)
            names = [portable_pattern(pattern) for pattern in found.patterns]
            if not found.has_all and not _are_disjoint(names):
                self._drop(keyword, place, "it depends on patternProperties")
                return
            rule: JsonObject = {
                "properties": dict.fromkeys(found.names, True),
                "patternProperties": dict.fromkeys(names, True),
                "additionalProperties": rest,
            }
        else:
            found = evaluated_items(schema, place, self._document)
            rule = {"prefixItems": [True] * found.num_items, "items": rest}
        if not found.has_all:
            _and(out, rule)
        if not found.is_exact:
            self._drop(keyword, place, "what it covers depends on which branches apply")


_REWRITES: dict[str, Callable[[_Normaliser, str, JsonObject, Place, JsonObject], None]] = {
    "type": _Normaliser._type,
    "const": _Normaliser._literal,
    "enum": _Normaliser._literal,
    "required": _Normaliser._required,
    "pattern": _Normaliser._pattern,
    "format": _Normaliser._format,
    "multipleOf": _Normaliser._multiple_of,
    "properties": _Normaliser._map,
    "patternProperties": _Normaliser._patterns,
    "additionalProperties": _Normaliser._additional,
    "items": _Normaliser._one,
    "prefixItems": _Normaliser._list,
    "allOf": _Normaliser._list,
    "anyOf": _Normaliser._list,
    "oneOf": _Normaliser._list,
    "$ref": _Normaliser._ref,
    "$dynamicRef": _Normaliser._ref,
    "$recursiveRef": _Normaliser._ref,
    "uniqueItems": _Normaliser._unique,
    "not": _Normaliser._not,
    "if": _Normaliser._condition,
    "contains": _Normaliser._contains,
    "propertyNames": _Normaliser._names_of,
    "dependencies": _Normaliser._dependent,
    "dependentRequired": _Normaliser._dependent,
    "dependentSchemas": _Normaliser._dependent,
    "unevaluatedProperties": _Normaliser._unevaluated,
    "unevaluatedItems": _Normaliser._unevaluated,
    **dict.fromkeys(_COUNTS, _Normaliser._count),
    **dict.fromkeys(_BOUNDS, _Normaliser._bound),
}
# Drafts that lack a keyword read past it.
_SINCE = {
    "prefixItems": 2020,
    "$dynamicRef": 2020,
    "dependentRequired": 2019,
    "dependentSchemas": 2019,
    "unevaluatedProperties": 2019,
    "unevaluatedItems": 2019,
    "if": 7,
    "const": 6,
    "contains": 6,
    "propertyNames": 6,
}
_UNTIL = {"dependencies": 7, "$recursiveRef": 2019}


def _check_progress(schemas: dict[str, Schema], paths: dict[str, str]) -> None:
    """Refuse references that lead back to themselves without taking a step into the value."""
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise UnsupportedSchemaError(
                f"keyword '$ref' at {paths[name]} is not supported: it leads back to itself"
                " without a step into the value"
            )
        if name not in done:
            for target in _targets_in_place(schemas[name]):
                visit(target, (*above, name))
            done.add(name)

    for name in schemas:
        visit(name, ())


def _targets_in_place(schema: Schema) -> set[str]:
    """Names of what `schema` refers to for the very value that it describes."""
    if isinstance(schema, bool):
        return set()
    targets = {schema["$ref"].removeprefix("#/$defs/")} if "$ref" in schema else set()
    for keyword in ("allOf", "anyOf", "oneOf"):
        for part in schema.get(keyword, ()):
            targets |= _targets_in_place(part)
    return targets


def _and(out: JsonObject, rule: Schema) -> None:
    out.setdefault(_AND, []).append(rule)


def _are_disjoint(patterns: Sequence[str | None]) -> bool:
    """Whether the compiler takes these as the patterns of one object."""
    if None in patterns:
        return False
    return len(patterns) < 2 or _compiler_takes(tuple(sorted(map(str, patterns))))


@functools.lru_cache(maxsize=256)
def _compiler_takes(patterns: tuple[str, ...]) -> bool:
    schema = {"type": "object", "patternProperties": dict.fromkeys(patterns, True)}
    grammar = dump_json({"grammars": [{"json_schema": schema}]})
    has_failed, _ = llguidance.LLMatcher.validate_grammar_with_warnings(grammar, limits=LIMITS)
    return not has_failed


def _types(schema: JsonObject) -> tuple[str, ...]:
    names = schema.get("type", _TYPES)
    return (names,) if isinstance(names, str) else tuple(names)


def _divisor(value: float) -> int | None:
    """The compiler's whole-number form of a divisor, or None where it would get it wrong."""
    exact, scaled, exponent = Decimal(str(value)), float(value), 0
    while scaled % 1 and exponent < 20:
        scaled *= 10
        exponent += 1
    is_right = exact.scaleb(exponent) == Decimal(scaled)
    return int(scaled) if is_right and scaled < 2**32 else None


def _plain_numbers(value: Any) -> Any:
    """Write whole numbers as integers, which is how the grammar spells them.

    Raises:
        OverflowError: a number that 64-bit floats do not hold exactly.
    """
    if isinstance(value, list):
        return [_plain_numbers(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain_numbers(item) for name, item in value.items()}
    if not _is_number(value):
        return value
    if abs(value) > MAX_EXACT_NUMBER:
        raise OverflowError(value)
    return int(value) if value == int(value) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _malformed(keyword: str, place: Place, wanted: str, found: Any) -> UnsupportedSchemaError:
    shown = repr(found)[:100]
    return UnsupportedSchemaError(
        f"keyword {keyword!r} at {place.path} must be {wanted}, not {shown}"
    )
