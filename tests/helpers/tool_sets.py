"""Tools whose schemas use much of JSON Schema, and what every call of one must satisfy."""

from __future__ import annotations

from tools.spec import JsonObject, ToolSpec


def _object(required: tuple[str, ...] = (), **properties: JsonObject) -> JsonObject:
    return {"type": "object", "properties": properties, "required": list(required)}


def _tool(name: str, description: str, schema: JsonObject) -> ToolSpec:
    return ToolSpec(name, description, schema)


WEATHER = _tool(
    "get_weather",
    "Says how the weather will be.",
    _object(
        ("city", "unit"),
        city={"type": "string", "minLength": 1, "maxLength": 30},
        unit={"enum": ["celsius", "fahrenheit"]},
        days={"type": "integer", "minimum": 1, "maximum": 14},
    ),
)
_PLACE = _object(
    ("street", "postcode"),
    street={"type": "string", "maxLength": 20},
    postcode={"type": "string", "pattern": "^[0-9]{5}$"},
    country={"enum": ["DE", "FR", "NO"]},
)
ORDER = _tool(
    "place_order",
    "Orders articles and has them sent.",
    _object(
        ("order_id", "email", "placed", "lines", "address"),
        order_id={"type": "string", "format": "uuid"},
        email={"type": "string", "format": "email", "maxLength": 40},
        placed={"type": "string", "format": "date"},
        lines={
            "type": "array",
            "minItems": 1,
            "maxItems": 2,
            "items": _object(
                ("sku", "count"),
                sku={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
                count={"type": "integer", "minimum": 1, "maximum": 99},
            ),
        },
        address=_PLACE,
        discount={"type": "number", "minimum": 0, "maximum": 1},
    ),
)
UNION = _tool(
    "set_value",
    "Sets a setting to a number, a switch, nothing or a list.",
    _object(
        ("key", "value"),
        key={"type": "string", "maxLength": 12},
        value={
            "anyOf": [
                {"type": "number"},
                {"type": ["boolean", "null"]},
                {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
                _object(("text",), text={"type": "string", "maxLength": 10}),
            ]
        },
    ),
)
TREE = _tool(
    "draw_tree",
    "Draws a tree of named nodes.",
    {
        "type": "object",
        "properties": {"root": {"$ref": "#/$defs/node"}},
        "required": ["root"],
        "$defs": {
            "node": _object(
                ("name",),
                name={"type": "string", "maxLength": 8},
                children={"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            )
        },
    },
)
MAP = _tool(
    "set_labels",
    "Puts labels on something.",
    _object(
        ("labels",),
        labels={
            "type": "object",
            "additionalProperties": {"type": "string", "maxLength": 8},
            "maxProperties": 3,
        },
        scores={"type": "object", "patternProperties": {"^s_": {"type": "integer"}}},
    ),
)
BELOW_STRICT = _tool(
    "pick_numbers",
    "Picks different numbers, a colour that is not red, and one way to pay.",
    _object(
        ("numbers", "colour", "payment"),
        numbers={
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 9},
            "uniqueItems": True,
            "contains": {"minimum": 5},
            "minItems": 2,
            "maxItems": 4,
        },
        colour={"enum": ["red", "green", "blue"], "not": {"const": "red"}},
        payment={
            "oneOf": [
                _object(("card",), card={"type": "string", "pattern": "^[0-9]{4}$"}),
                _object(("iban",), iban={"type": "string", "maxLength": 12}),
            ]
        },
    ),
)
DEPENDENT = _tool(
    "book_room",
    "Books a room; whoever brings a dog says its name.",
    {
        **_object(
            ("nights",),
            nights={"type": "integer", "minimum": 1, "maximum": 9, "not": {"const": 7}},
            has_dog={"type": "boolean"},
            dog={"type": "string", "maxLength": 8},
        ),
        "dependentRequired": {"has_dog": ["dog"]},
    },
)
NOTHING = _tool("get_time", "Says what time it is.", {"type": "object"})
STRICT = (WEATHER, ORDER, UNION, TREE, MAP, NOTHING)
SETS = {
    "one": (WEATHER,),
    "nested": (ORDER,),
    "union": (UNION,),
    "recursive": (TREE,),
    "map": (MAP,),
    "below_strict": (BELOW_STRICT,),
    "dependent": (DEPENDENT,),
    "mixed": (*STRICT, BELOW_STRICT, DEPENDENT),
    "twenty": tuple(
        _tool(
            f"tool_{number}",
            f"Does the thing with the number {number}.",
            (WEATHER, UNION, MAP, BELOW_STRICT, NOTHING)[number % 5].input_schema,
        )
        for number in range(20)
    ),
}
