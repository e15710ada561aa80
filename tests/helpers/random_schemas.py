"""Random JSON Schemas and values that often satisfy them."""

from __future__ import annotations

import random
from typing import Any

from tools.spec import JsonObject

_NAMES = ("a", "b", "ab", "c", "x")
_LITERALS: tuple[Any, ...] = (0, 1, "a", "abc", None, True, 1.5, [1], {"a": 1}, "", [], {})
_NUMBERS = (0, 1, -1, 2, 3, 10, -7, 0.5, 1.5, -2.25, 99, 100, 12.75)
_PATTERNS = ("^a", "b$", "^[ab]+$", "^a.c$", "a|^b$", "[0-9]{2,3}", "^\\d+$", "(ab)+?c", "\\w-\\s")


def random_schema(rng: random.Random, depth: int = 3) -> JsonObject:
    """Return a schema that nests at most `depth` levels; `#/$defs/x` and `#/$defs/y` are there."""
    recursive = {"c": {"$ref": "#/$defs/y"}, "a": _schema(rng, 1)}
    definitions = {"x": _schema(rng, 1), "y": {"type": "object", "properties": recursive}}
    return {**_schema(rng, depth), "$defs": definitions}


def random_value(rng: random.Random, depth: int = 2) -> Any:
    """Return a JSON value that nests at most `depth` levels."""
    kind = rng.choice(["number", "text", "literal", "array", "object"][: 5 if depth else 3])
    if kind == "number":
        return rng.choice([rng.choice(_NUMBERS), rng.randint(-12, 110)])
    if kind == "text":
        letters = "".join(rng.choice('abcx019 -."\\/é') for _ in range(rng.randint(0, 4)))
        return rng.choice([letters, "a", "abc", "ab", "12"])
    if kind == "literal":
        return rng.choice([None, True, False, [], {}])
    if kind == "array":
        return [random_value(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    names = rng.sample([*_NAMES, "xb"], rng.randint(0, 3))
    return {name: random_value(rng, depth - 1) for name in names}


def _schema(rng: random.Random, depth: int) -> JsonObject:
    makers = [_number, _text, _enumeration, _array, _object, _object, _combination]
    schema = rng.choice(makers if depth else makers[:3])(rng, depth)
    keywords = list(schema)
    rng.shuffle(keywords)
    return {keyword: schema[keyword] for keyword in keywords}


def _some(rng: random.Random, share: float, **keywords: Any) -> JsonObject:
    return {keyword: value for keyword, value in keywords.items() if rng.random() < share}


def _number(rng: random.Random, depth: int) -> JsonObject:
    bounds = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    chosen = {bound: rng.choice(_NUMBERS) for bound in rng.sample(bounds, rng.randint(0, 2))}
    divisor = _some(rng, 0.3, multipleOf=rng.choice([1, 2, 3, 0.5, 7, 2.5]))
    return {"type": rng.choice(["integer", "number"]), **chosen, **divisor}


def _text(rng: random.Random, depth: int) -> JsonObject:
    lengths = _some(rng, 0.4, minLength=rng.randint(0, 3), maxLength=rng.randint(0, 4))
    return {"type": "string", **lengths, **_some(rng, 0.5, pattern=rng.choice(_PATTERNS))}


def _enumeration(rng: random.Random, depth: int) -> JsonObject:
    if rng.random() < 0.5:
        return {"type": rng.choice(["boolean", "null", ["string", "integer"], ["array", "null"]])}
    return {"enum": rng.sample(_LITERALS, 3)}


def _array(rng: random.Random, depth: int) -> JsonObject:
    return _some(
        rng,
        0.4,
        type="array",
        items=_schema(rng, depth - 1),
        prefixItems=[_schema(rng, depth - 1)],
        minItems=rng.randint(0, 2),
        maxItems=rng.randint(0, 3),
        unevaluatedItems=_schema(rng, depth - 1),
        contains={},
        uniqueItems=rng.random() < 0.5,
    )


def _object(rng: random.Random, depth: int) -> JsonObject:
    listed = {
        name: rng.choice([True, False, _schema(rng, depth - 1), _schema(rng, depth - 1)])
        for name in rng.sample(_NAMES[:4], rng.randint(1, 3))
    }
    often = {"type": "object", "properties": listed, "required": rng.sample(_NAMES, 2)}
    additional = rng.choice([False, _schema(rng, depth - 1)])
    return _some(rng, 0.6, **often, additionalProperties=additional) | _some(
        rng,
        0.15,
        patternProperties={rng.choice(["^a", "b$", "^x"]): _schema(rng, depth - 1)},
        minProperties=rng.randint(0, 2),
        maxProperties=rng.randint(0, 3),
        propertyNames=rng.choice([{"pattern": "^a"}, {"enum": ["a", "b"]}, {"maxLength": 1}]),
        dependentRequired={"a": ["b"]},
        dependentSchemas={"a": _schema(rng, depth - 1)},
        unevaluatedProperties=rng.choice([False, _schema(rng, depth - 1)]),
    )


def _combination(rng: random.Random, depth: int) -> JsonObject:
    keyword = rng.choice(["anyOf", "allOf", "oneOf", "not", "$ref"])
    beside = _schema(rng, depth - 1) if rng.random() < 0.4 else {}
    if keyword == "$ref":
        return {**beside, "$ref": rng.choice(["#/$defs/x", "#/$defs/y"])}
    if keyword == "not":
        return {**beside, "not": rng.choice([{"type": ["object", "null"]}, {"const": 1}, False])}
    return {**beside, keyword: [_schema(rng, depth - 1) for _ in range(rng.randint(1, 3))]}
