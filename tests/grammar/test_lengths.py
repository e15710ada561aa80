"""Tests of how long a value may have to get."""

from __future__ import annotations

import pytest

from runtime.grammar.lengths import longest_chars
from tools.spec import JsonObject

TEXT = {"type": "string"}
NODE = {
    "type": "object",
    "properties": {"value": {"enum": ["a", "long one"]}, "next": {"$ref": "#"}},
}

SCHEMAS: list[tuple[JsonObject, str]] = [
    ({"type": "object", "properties": {"a": TEXT, "b": TEXT}}, '{"a":"","b":""}'),
    (
        {"properties": {"a": {"properties": {"deep": {"minLength": 9}}}}},
        '{"a":{"deep":"123456789"}}',
    ),
    (
        {"type": "array", "minItems": 5, "items": {"const": 12345}},
        "[12345,12345,12345,12345,12345]",
    ),
    ({"anyOf": [{"const": 1}, {"const": [1, 2, 3, 4]}]}, "[1,2,3,4]"),
    ({"$ref": "#/$defs/x", "$defs": {"x": {"minLength": 30}}}, '"' + "x" * 30 + '"'),
    (NODE, '{"value":"long one","next":{"value":"long one","next":{"value":"long one"}}}'),
]


@pytest.mark.parametrize(("schema", "value"), SCHEMAS)
def test_all_that_a_schema_lists_fits(schema: JsonObject, value: str) -> None:
    assert len(value) <= longest_chars(schema) <= 8 * len(value)


def test_what_goes_on_for_ever_is_bounded() -> None:
    wide = {"type": "object", "properties": {f"p{at}": {"$ref": "#"} for at in range(40)}}
    assert 2_000 < longest_chars(wide) <= 20_000
    assert longest_chars({"minLength": 10**9}) == 20_000
    assert longest_chars({"$ref": "#/a/b", "minItems": "x"}) < 20
