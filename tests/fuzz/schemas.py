"""Random tools with the schemas that real ones have, the odd ones too, and arguments for them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from runtime.chat.wire_formats.format import FieldArguments, NotationArguments
from runtime.chat.wire_formats.schemas import object_of, properties_of
from tools.spec import JsonObject, ToolSpec
from tools.validation import first_problem

WORDS = (
    *("", "a", "Zürich", "日本", "😀", " ", "\n", "\t", "</", "<tool_cal", "<|", '"', "\\", "'"),
    *("{", "}", "[", "]", ":", ",", "```", "\n</parameter", "</arg_value", "null", "7", "true"),
)
NAMES = (
    *("a", "b", "city name", "ключ", "x-y", "n_1", "$", "type", "a.b", 'q"q', "l\nn", "", "a,b"),
    *("<b>", "</arg_key>", "</parameter>", "{", "[", "]", "\\", "back`tick", "~/x", "a/b"),
)
TREE: JsonObject = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/tree"}},
    "required": ["v"],
    "additionalProperties": False,
}
SHORT: JsonObject = {"type": "string", "maxLength": 6}
SHORTS: tuple[JsonObject, ...] = (
    {"type": "string", "minLength": 2},
    {"type": "string", "pattern": "^[a-z ]+$", "maxLength": 9},
    {"type": "string", "pattern": "a|7$"},
)
LEAVES = ("string", "integer", "number", "boolean", "null", "enum", "const", "short", "nullable")
NESTS = ("array", "object", "map", "optional", "one", "both", "anything", "tree", "reference")
UNCARRIED: tuple[JsonObject, ...] = (
    {"not": {"const": 3}},
    {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True},
    {"type": "object", "properties": {"a": {"type": "integer"}}, "minProperties": 1},
    {"type": "object", "patternProperties": {"^a": {"type": "integer"}}},
    {"type": "string", "format": "date"},
    {"type": "string", "pattern": "^(?=a)a{1,4}$"},
    {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 3}]},
    {"type": "object", "properties": {}, "required": ["ghost"]},
    {"allOf": [{"type": ["string", "null"], "minLength": 2}, {"not": {"enum": ["ab"]}}]},
    {"type": "object", "properties": {"a": True, "b": False}, "dependentRequired": {"a": ["c"]}},
)


def draw_tool(rng: random.Random, at: int, *, uncarried: float = 0.0) -> ToolSpec:
    """A tool; of its arguments a share has keywords that not every format carries."""
    schema = _draw_arguments_schema(rng, uncarried)
    kind = rng.randrange(8)
    if kind == 0:
        schema = {"$ref": "#/$defs/arguments", "$defs": {"arguments": schema}}
    elif kind == 1:
        other = _draw_arguments_schema(rng, uncarried)
        schema = {"anyOf": [dict(one, additionalProperties=False) for one in (schema, other)]}
    elif kind == 2:
        schema["required"] = [*schema["required"], "unlisted"]
    schema = {"type": "object", **schema}
    schema["$defs"] = {**schema.get("$defs", {}), "tree": TREE, "short": SHORT}
    return ToolSpec(rng.choice(("get", "get_", "set.x", "t-")) + str(at), "", schema)


def _draw_arguments_schema(rng: random.Random, uncarried: float) -> JsonObject:
    names = rng.sample(NAMES, k=rng.randrange(5))
    properties = {
        name: rng.choice(UNCARRIED) if rng.random() < uncarried else draw_schema(rng, 2)
        for name in names
    }
    required = [name for name in names if rng.random() < 0.5]
    return {"type": "object", "properties": properties, "required": required}


def draw_schema(rng: random.Random, depth: int) -> JsonObject:
    kind = rng.choice(LEAVES + NESTS if depth else LEAVES)
    if kind in NESTS:
        return _draw_nest(rng, kind, lambda: draw_schema(rng, depth - 1))
    match kind:
        case "enum":
            values = ["red", "x y", "1", 3, 2.5, None, True, "é\n", {"a": [1]}]
            return {"enum": rng.sample(values, k=rng.randrange(1, 4))}
        case "const":
            return {"const": rng.choice([{"a": {"b": "x"}, "c": []}, [1, "y"], "z", 0])}
        case "short":
            return rng.choice(SHORTS)
        case "nullable":
            return {"type": ["string", rng.choice(("null", "integer"))], "maxLength": 9}
    return {"type": kind}


def _draw_nest(rng: random.Random, kind: str, inner: Callable[[], JsonObject]) -> JsonObject:
    match kind:
        case "array":
            return {"type": "array", "items": inner(), "maxItems": 3}
        case "object":
            names = rng.sample(NAMES, k=2)
            listed = {name: inner() for name in names}
            required = names[: rng.randrange(3)]
            return {"type": "object", "properties": listed, "required": required}
        case "map":
            return {"type": "object", "additionalProperties": rng.choice((True, inner()))}
        case "optional":
            return {"anyOf": [inner(), {"type": "null"}], "title": "T"}
        case "one":
            return {"oneOf": [{"type": "string", "maxLength": 7}, {"type": "boolean"}]}
        case "both":
            return {"allOf": [{"$ref": "#/$defs/short"}, {"minLength": 1}], "description": "D"}
        case "tree":
            return {"$ref": "#/$defs/tree"}
        case "reference":
            return {"$ref": "#/$defs/short", "description": "D"}
    return {}


def draw_arguments(rng: random.Random, tool: ToolSpec, style: object) -> JsonObject | None:
    """Arguments that satisfy the tool's schema and can be written; None where none were found."""
    root = tool.input_schema
    for _ in range(20):
        value = _draw_value(rng, root, root, style, level=0)
        if first_problem(root, value) is None:
            assert isinstance(value, dict)
            if not isinstance(style, FieldArguments):
                return value
            order = [name for name, _, _ in properties_of(object_of(root, root, []))]
            return dict(sorted(value.items(), key=lambda item: order.index(item[0])))
    return None


def _draw_value(
    rng: random.Random, schema: JsonObject, root: JsonObject, style: object, *, level: int
) -> object:
    def draw(part: JsonObject, below: int = 1) -> object:
        return _draw_value(rng, part, root, style, level=level + below)

    if "$ref" in schema:
        return draw(root["$defs"][schema["$ref"].rpartition("/")[2]], 0)
    for keyword in ("anyOf", "oneOf", "allOf"):
        if keyword in schema:
            return draw(rng.choice(schema[keyword]), 0)
    if "const" in schema or "enum" in schema:
        return rng.choice(schema.get("enum", [schema.get("const")]))
    kinds = schema.get("type", ["string", "integer", "null", "object"])
    match kinds if isinstance(kinds, str) else rng.choice(kinds):
        case "string":
            return _draw_string(rng, schema, style, is_field=level == 1)
        case "integer":
            return rng.choice((0, 7, -12, 10 ** rng.randrange(12)))
        case "number":
            return rng.choice((0.5, -3, 1e-7, 2.5e20))
        case "boolean":
            return rng.random() < 0.5
        case "array":
            return [draw(schema["items"]) for _ in range(rng.randrange(4))]
        case "object":
            return _draw_object(rng, schema, draw, level)
    return None


def _draw_object(rng: random.Random, schema: JsonObject, draw: object, level: int) -> JsonObject:
    assert callable(draw)
    required = schema.get("required", ())
    chance = 0.6 if level < 4 else 0.0
    drawn = {
        name: draw(part)
        for name, part in schema.get("properties", {}).items()
        if name in required or rng.random() < chance
    }
    for name in required:
        drawn.setdefault(name, 5)  # not listed: anything
    if "properties" not in schema:
        extra = schema.get("additionalProperties", True)
        names = rng.sample(("k", "ключ", 'a"', "x.y", "1"), k=rng.randrange(3))
        drawn |= {name: draw({} if extra is True else extra) for name in names}
    return drawn


def _draw_string(rng: random.Random, schema: JsonObject, style: object, *, is_field: bool) -> str:
    if "pattern" in schema:
        return rng.choice(("a", "b a", "x7", "a a a"))
    banned = []
    if isinstance(style, FieldArguments):
        banned = [style.after_value] if is_field else []
    elif isinstance(style, NotationArguments):
        banned = [style.quote]
    text = draw_text(rng, banned)[: schema.get("maxLength", 99) - 1]
    # Beside other types a text that reads as one of them is one of them.
    return f"x{text}" if is_field else text


def draw_text(rng: random.Random, banned: Sequence[str]) -> str:
    text = "".join(rng.choices(WORDS, k=rng.randrange(8)))
    return "" if any(one in text for one in banned) else text
