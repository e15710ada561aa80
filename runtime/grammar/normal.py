"""Rewrites a schema into the part of draft 2020-12 that the grammar compiler enforces exactly.

Older drafts, references of any kind and keywords that others can express are rewritten; what is
left is dropped with its name and path. Nothing that satisfies the schema is ruled out, except
that a known `format` is enforced, the order of properties is fixed and numbers have one form.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import llguidance

from runtime.errors import UnsupportedSchemaError
from runtime.grammar.assertions import ASSERTIONS, TYPES, Assertions, Drop, malformed
from runtime.grammar.evaluated import evaluated_items, evaluated_properties
from runtime.grammar.limits import LIMITS
from runtime.grammar.patterns import portable_pattern
from runtime.grammar.references import Document, Place, check_progress
from runtime.grammar.schema import MAX_OPTIONAL_PROPERTIES, Schema, dump_json
from tools.spec import JsonObject

# The compiler follows references by recursion, and thousands of them overflow its stack.
MAX_FOLLOWED_DEPTH = 128
# Each of these doubles what is compiled.
MAX_DEPENDENTS = 4
# Each of these walks the schemas in its place.
MAX_UNEVALUATED = 100
# Each pair of these is checked for names that match both.
MAX_NAME_PATTERNS = 32

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_AND = "$and"  # of a schema being rewritten: what else must hold


@dataclass(frozen=True, slots=True)
class Normal:
    """A rewritten schema.

    Attributes:
        schema: what the compiler gets; its references are `#` or `#/$defs/NAME`.
        drops: what it does not enforce.
        one_ofs: (path, object of `schema`) of every `oneOf`, for the compiler to judge.
        has_open_objects: some object lists properties and takes others.
    """

    schema: JsonObject
    drops: tuple[Drop, ...]
    one_ofs: tuple[tuple[str, JsonObject], ...]
    has_open_objects: bool


def normalise(schema: Schema, without: frozenset[str] = frozenset()) -> Normal:
    """Rewrite `schema`, dropping the keywords `without`.

    Raises:
        UnsupportedSchemaError: it is malformed, refers to what is not part of it or to itself
            without end, or nothing satisfies it.
    """
    try:
        return _Normaliser(schema, without).run()
    except (ValueError, RecursionError) as exc:  # an `$id` may be no address
        raise UnsupportedSchemaError(f"the schema cannot be read: {exc}") from exc


class _Normaliser:
    """One rewriting. `_definitions` holds, by name, what references lead to."""

    def __init__(self, schema: Schema, without: frozenset[str]) -> None:
        self._without = without
        self._source = schema if isinstance(schema, dict) else {"not": not schema}
        self._document = Document(self._source)
        self._definitions: dict[str, Schema] = {}
        self._names = {id(self._source): "#"}
        self._paths = {"#": "$"}
        self._unfinished = {"#"}
        self._drops: list[Drop] = []
        self._one_ofs: list[tuple[str, JsonObject]] = []
        self._has_open_objects = False
        self._assertions = Assertions()
        self._depth = 0
        self._num_dependents = 0
        self._num_unevaluated = 0

    def run(self) -> Normal:
        root = self._node(self._source, self._document.root)
        if root is False:
            raise UnsupportedSchemaError("the schema at $ is not supported: no output satisfies it")
        schema = dict(root) if isinstance(root, dict) else {}
        check_progress({"#": root, **self._definitions}, self._paths)
        if self._definitions:
            schema["$defs"] = self._definitions
        return Normal(
            schema,
            (*self._drops, *self._assertions.drops),
            tuple(self._one_ofs),
            self._has_open_objects,
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
            raise malformed("schema", place, "an object or a boolean", value)
        self._depth += 1
        if self._depth > MAX_FOLLOWED_DEPTH:
            raise UnsupportedSchemaError(
                f"the schema nests deeper than {MAX_FOLLOWED_DEPTH} levels at {place.path[:200]},"
                " references followed; flatten it"
            )
        out = self._rewrite(value, place)
        self._depth -= 1
        return out

    def _rewrite(self, value: JsonObject, place: Place) -> Schema:
        if "$ref" in value and place.draft <= 7:
            value = {"$ref": value["$ref"]}
        out: JsonObject = {}
        for keyword in value:
            rewrite = _REWRITES.get(keyword)
            is_spoken = _SINCE.get(keyword, 0) <= place.draft <= _UNTIL.get(keyword, 2020)
            if not is_spoken:
                continue
            if keyword in self._without:
                self._drop(keyword, place)
            elif not self._assertions.rewrite(keyword, value, place, out) and rewrite is not None:
                rewrite(self, keyword, value, place, out)
        if out.pop("not", None) is True:
            return False
        if extra := out.pop(_AND, None):
            out["allOf"] = [*out.get("allOf", ()), *extra]
        if "$ref" in out and len(out) > 1 and _target_of(out) in self._unfinished:
            for keyword in value:
                if keyword in ASSERTIONS or (keyword in _REWRITES and keyword not in _REFERENCES):
                    self._drop(keyword, place, "it stands next to a recursive reference")
            out = {"$ref": out["$ref"]}
        is_listed = "properties" in out or "patternProperties" in out
        self._has_open_objects |= is_listed and out.get("additionalProperties") is not False
        if "oneOf" in out:
            self._one_ofs.append((place.path, out))
        return out

    def _takes_patterns(self, patterns: Sequence[str | None]) -> bool:
        """Whether one object may have all of these as patterns of names."""
        if None in patterns or "patternProperties" in self._without:
            return False
        if len(patterns) > MAX_NAME_PATTERNS:
            return False
        return len(patterns) < 2 or _are_disjoint(tuple(sorted(map(str, patterns))))

    # Keywords that hold schemas.

    def _map(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        named = schema[keyword]
        if not isinstance(named, dict):
            raise malformed(keyword, place, "an object", named)
        out[keyword] = {
            name: self._child(item, place.below(f".{keyword}.{name}"))
            for name, item in named.items()
        }

    def _properties(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        self._map(keyword, schema, place, out)
        if not _has_too_many_optional(schema):
            return
        optional = {name: out[keyword].pop(name) for name in _optional_names(schema)}
        values = {dump_json(item): item for item in optional.values()}
        names: dict[str, list[str]] = {text: [] for text in values}
        for name, item in optional.items():
            names[dump_json(item)].append(name)
        if len(values) > MAX_NAME_PATTERNS or "patternProperties" in schema:
            self._drop(keyword, place, f"more than {MAX_OPTIONAL_PROPERTIES} may be left out")
            values, names = {"true": True}, {"true": list(optional)}
        out["patternProperties"] = {
            f"^(?:{'|'.join(map(re.escape, names[text]))})$": item for text, item in values.items()
        }

    def _patterns(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        self._map(keyword, schema, place, out)
        if _has_too_many_optional(schema):
            del out[keyword]
            self._drop(keyword, place, "it stands next to too many properties")
            return
        portable = {
            self._assertions.portable(name, keyword, place): item
            for name, item in out[keyword].items()
        }
        out[keyword] = portable
        if not self._takes_patterns(list(portable)):
            del out[keyword]
            if None not in portable:
                self._drop(keyword, place, "a name may match several of its patterns")

    def _additional(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        rest = self._child(schema[keyword], place.below(f".{keyword}"))
        given = schema.get("patternProperties", {})
        names = [portable_pattern(name) for name in given]
        if names and (_has_too_many_optional(schema) or not self._takes_patterns(names)):
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
            raise malformed(keyword, place, "a list", items)
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
        if isinstance(target, bool):
            _and(out, target)
            return
        if id(target) not in self._names:
            name = f"d{len(self._names)}"
            self._names[id(target)] = name
            self._paths[name] = at.path
            self._unfinished.add(name)
            self._definitions[name] = self._node(target, at)
            self._unfinished.remove(name)
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
        others = [name for name in TYPES if name not in names]
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
        rule: JsonObject | None = None
        if names is True or names == {}:
            return
        keywords = names.keys() - {"type"} if isinstance(names, dict) else set()
        if names is False:
            rule = {"maxProperties": 0}
        elif keywords in ({"enum"}, {"const"}):
            allowed = names["enum"] if "enum" in names else [names["const"]]
            listed = {name: True for name in allowed if isinstance(name, str)}
            rule = {"properties": listed, "additionalProperties": False}
        elif keywords <= {"minLength", "maxLength"} or keywords == {"pattern"}:
            least, most = int(names.get("minLength", 0)), names.get("maxLength")
            any_name = f"^[\\s\\S]{{{least},{'' if most is None else int(most)}}}$"
            pattern = portable_pattern(names.get("pattern", any_name))
            if self._takes_patterns([pattern]):
                rule = {"patternProperties": {pattern: True}, "additionalProperties": False}
        if rule is None:
            self._drop(keyword, place)
        else:
            _and(out, rule)

    def _dependent(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        for name, wanted in schema[keyword].items():
            if isinstance(wanted, list):
                then: Schema = {"required": wanted}
            else:
                then = self._child(wanted, place.below(f".{keyword}.{name}"))
            if then is True or wanted in ([], {}):
                continue
            self._num_dependents += 1
            if self._num_dependents > MAX_DEPENDENTS:
                self._drop(keyword, place, f"more than {MAX_DEPENDENTS} names are too many")
            else:
                _and(out, {"anyOf": [{"properties": {name: False}}, then]})

    def _unevaluated(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        rest = self._child(schema[keyword], place.below(f".{keyword}"))
        if rest is True or rest == {}:
            return
        self._num_unevaluated += 1
        if self._num_unevaluated > MAX_UNEVALUATED:
            self._drop(keyword, place, f"the schema has more than {MAX_UNEVALUATED} of its kind")
            return
        if keyword == "unevaluatedProperties":
            found = evaluated_properties(schema, place, self._document)
            names = [portable_pattern(pattern) for pattern in found.patterns]
            if not found.has_all and names and not self._takes_patterns(names):
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
    "properties": _Normaliser._properties,
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


def _optional_names(schema: JsonObject) -> list[str]:
    required, properties = schema.get("required"), schema.get("properties")
    listed = required if isinstance(required, list) else []
    named = {name for name in listed if isinstance(name, str)}
    return [name for name in properties if name not in named] if properties else []


def _has_too_many_optional(schema: JsonObject) -> bool:
    """Whether an object is written as a map: the compiler fails on a longer list of options."""
    return len(_optional_names(schema)) > MAX_OPTIONAL_PROPERTIES


def _target_of(out: JsonObject) -> str:
    return str(out["$ref"]).removeprefix("#/$defs/")


def _and(out: JsonObject, rule: Schema) -> None:
    out.setdefault(_AND, []).append(rule)


@functools.lru_cache(maxsize=256)
def _are_disjoint(patterns: tuple[str, ...]) -> bool:
    schema = {"type": "object", "patternProperties": dict.fromkeys(patterns, True)}
    grammar = dump_json({"grammars": [{"json_schema": schema}]})
    has_failed, _ = llguidance.LLMatcher.validate_grammar_with_warnings(grammar, limits=LIMITS)
    return not has_failed
