"""The keywords of a schema that hold plain data, in the form that the compiler gets right."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runtime.errors import UnsupportedSchemaError
from runtime.grammar.exact_numbers import MAX_EXACT_NUMBER, exact_divisor, is_number, plain_numbers
from runtime.grammar.patterns import portable_pattern
from runtime.grammar.references import Place
from tools.spec import JsonObject

FORMATS = frozenset(
    ["date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"]
)
TYPES = ("null", "boolean", "number", "string", "array", "object")
# The compiler's automaton has a state per remainder and hangs on millions of them.
MAX_DIVISOR = 10_000

_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


@dataclass(frozen=True, slots=True)
class Drop:
    """A keyword that the rewritten schema does not enforce."""

    keyword: str
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.keyword} at {self.path}"


class Assertions:
    """Rewrites assertions and collects what cannot be enforced of them."""

    def __init__(self) -> None:
        self._drops: list[Drop] = []
        self._open_zeros: list[Drop] = []
        self._has_fractions = False
        self._divisor = 1

    @property
    def drops(self) -> list[Drop]:
        """What is not enforced, once the whole schema has been seen."""
        return self._drops + (self._open_zeros if self._has_fractions else [])

    def rewrite(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> bool:
        """Put `keyword` of `schema` into `out` if it is one of ours; return whether it is.

        Raises:
            UnsupportedSchemaError: its value is malformed.
        """
        rewrite = _REWRITES.get(keyword)
        if rewrite is not None:
            rewrite(self, keyword, schema, place, out)
        return rewrite is not None

    def portable(self, pattern: Any, keyword: str, place: Place) -> str | None:
        """Return `pattern` as the compiler should read it; None, and a drop, if it cannot."""
        if not isinstance(pattern, str):
            raise malformed(keyword, place, "a regular expression", pattern)
        portable = portable_pattern(pattern)
        if portable is None:
            reason = "look-around, back-references and syntax that ECMAScript, Python and Rust"
            self._drop(keyword, place, f"{reason} read differently cannot be compiled")
        return portable

    def _drop(self, keyword: str, place: Place, reason: str) -> None:
        self._drops.append(Drop(keyword, place.path, reason))

    def _type(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not names or not all(isinstance(n, str) and n in (*TYPES, "integer") for n in names):
            raise malformed("type", place, "one or several of JSON's types", schema["type"])
        out["type"] = schema["type"]

    def _literal(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        value = schema[keyword]
        if keyword == "enum" and not isinstance(value, list):
            raise malformed("enum", place, "a list", value)
        try:
            out[keyword] = plain_numbers(value)
        except OverflowError:
            self._drop(keyword, place, "its numbers are too large to be exact")

    def _count(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        value = schema[keyword]
        if not is_number(value) or value != value // 1 or value < 0:
            raise malformed(keyword, place, "a whole number, at least 0", value)
        out[keyword] = int(value)
        if keyword == "minProperties" and value > max(1, len(schema.get("required", ()))):
            self._drop(keyword, place, "the names that are not listed may repeat")

    def _bound(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        value = schema[keyword]
        if isinstance(value, bool) and place.draft == 4:
            side = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}.get(keyword)
            value = schema.get(side) if value and side else None
            if value is None:
                return
        if not is_number(value):
            raise malformed(keyword, place, "a number", value)
        if abs(value) > MAX_EXACT_NUMBER:
            self._drop(keyword, place, "the number is too large to be exact")
            return
        out[keyword] = plain_numbers(value)
        self._has_fractions |= 0 < abs(value) < 1
        if value == 0 and keyword.startswith("exclusive") and "number" in _types(schema):
            reason = "the compiler lets 0 pass where another bound is below 1"
            self._open_zeros.append(Drop(keyword, place.path, reason))

    def _multiple_of(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        value = schema[keyword]
        if not is_number(value) or value <= 0:
            raise malformed(keyword, place, "a number above 0", value)
        coefficient = exact_divisor(value)
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
        pattern = self.portable(schema[keyword], keyword, place)
        if pattern is not None:
            out[keyword] = pattern

    def _format(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        if schema[keyword] in FORMATS:
            out[keyword] = schema[keyword]
        elif "string" in _types(schema):
            self._drop(keyword, place, f"Unknown format: {schema[keyword]}")

    def _required(self, keyword: str, schema: JsonObject, place: Place, out: JsonObject) -> None:
        names = schema[keyword]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise malformed(keyword, place, "a list of names", names)
        out[keyword] = names


_REWRITES: dict[str, Callable[[Assertions, str, JsonObject, Place, JsonObject], None]] = {
    "type": Assertions._type,
    "const": Assertions._literal,
    "enum": Assertions._literal,
    "required": Assertions._required,
    "pattern": Assertions._pattern,
    "format": Assertions._format,
    "multipleOf": Assertions._multiple_of,
    **dict.fromkeys(_COUNTS, Assertions._count),
    **dict.fromkeys(_BOUNDS, Assertions._bound),
}

ASSERTIONS = frozenset(_REWRITES)


def malformed(keyword: str, place: Place, wanted: str, found: Any) -> UnsupportedSchemaError:
    """Return the error of a keyword whose value is of the wrong kind."""
    shown = repr(found)[:100]
    return UnsupportedSchemaError(
        f"keyword {keyword!r} at {place.path} must be {wanted}, not {shown}"
    )


def _types(schema: JsonObject) -> tuple[str, ...]:
    names = schema.get("type", TYPES)
    return (names,) if isinstance(names, str) else tuple(names)
