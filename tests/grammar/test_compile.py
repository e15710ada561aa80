"""Tests of turning output types and schemas into grammars."""

from __future__ import annotations

import enum
import json
from typing import Any, Literal

import pydantic
import pytest
from outlines.types import CFG, JsonSchema, Regex

from runtime.errors import UnsupportedSchemaError
from runtime.grammar.compile import (
    GrammarCache,
    GrammarKind,
    GrammarSource,
    compile_grammar,
    from_json_schema,
    from_output_type,
)
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.vocabularies import accepts, vocabulary_of

TOKENIZER = tiny_tokenizer()
VOCABULARY = vocabulary_of(TOKENIZER)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Place(pydantic.BaseModel):
    city: str
    colour: Colour


def add(a: int, b: int = 1) -> int:
    return a + b


OUTPUT_TYPES: list[tuple[Any, list[str], list[str]]] = [
    (Literal["yes", "no"], ["yes", "no"], ["maybe", ""]),
    (Colour, ["red"], ["green"]),
    (Place, ['{"city":"Rome","colour":"red"}'], ['{"city": "Rome","colour":"red"}', "{}"]),
    (add, ['{"a":1}', '{"a":1,"b":2}'], ['{"b":2}']),
    (int, ["12", "-3"], ["1.5"]),
    ({"type": "array", "items": {"type": "boolean"}}, ["[]", "[true,false]"], ["[1]", "[ ]"]),
    (GrammarSource("regex", "[ab]{2}/\\d"), ["ab/1"], ["ab1"]),
]


@pytest.mark.parametrize(("output_type", "accepted", "refused"), OUTPUT_TYPES)
def test_output_types_become_their_language(
    output_type: Any, accepted: list[str], refused: list[str]
) -> None:
    constraint = compile_grammar(from_output_type(output_type), VOCABULARY).constraint()
    assert [text for text in accepted if not accepts(constraint, TOKENIZER.encode(text))] == []
    assert [text for text in refused if accepts(constraint, TOKENIZER.encode(text))] == []


def test_outlines_grammars_and_patterns_keep_their_meaning() -> None:
    cases = [
        (CFG('start: "a" start | "b"'), "aab", "aa"),
        (Regex("[0-9]{3}"), "123", "12"),
        (JsonSchema('{"type":"array"}', whitespace_pattern=" ?"), "[ ]", "[  ]"),
    ]
    for output_type, accepted, refused in cases:
        constraint = compile_grammar(from_output_type(output_type), VOCABULARY).constraint()
        assert accepts(constraint, TOKENIZER.encode(accepted))
        assert not accepts(constraint, TOKENIZER.encode(refused))


UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    (
        {"type": "object", "properties": {"a": {"type": "string", "not": {"const": "x"}}}},
        "keyword 'not' at $.properties.a is not supported",
    ),
    (
        {"type": "array", "items": {"$ref": "#/$defs/x"}, "$defs": {"x": {"uniqueItems": True}}},
        "keyword 'uniqueItems' at $.$defs.x is not supported",
    ),
    (
        {"anyOf": [{"type": "null"}, {"type": "string", "format": "nonsense"}]},
        "keyword 'format' at $.anyOf[1] is not supported: Unknown format: nonsense",
    ),
    ({"$ref": "#/$defs/gone"}, "keyword '$ref' at $ is not supported"),
    ({"$ref": "#"}, "keyword '$ref' at $ is not supported"),
    ({"type": "string", "pattern": "(?=a)b"}, "keyword 'pattern' at $ is not supported"),
    ({"type": "string", "pattern": "a" * 5000}, "keyword 'pattern' at $ is longer than 4096"),
    ({"enum": list(range(60_000))}, "keyword 'enum' at $ has 60000 values"),
    (
        {"type": "object", "properties": {f"p{i}": {} for i in range(500)}},
        "keyword 'properties' at $ has 500 optional properties",
    ),
    ({"const": "x" * 300_000}, "the schema has 3000"),
    ({"default": float("nan")}, "the schema is not plain JSON"),
    ({"const": "\ud800"}, "not Unicode text"),
]


@pytest.mark.parametrize(("schema", "message"), UNSUPPORTED)
def test_unsupported_schema_names_keyword_and_path(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedSchemaError) as caught:
        compile_grammar(from_json_schema(schema), VOCABULARY)
    assert message in str(caught.value)


def test_deep_schemas_are_refused_however_they_nest() -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(UnsupportedSchemaError, match="nests deeper than 64"):
        from_json_schema(schema)
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(UnsupportedSchemaError, match="not plain JSON"):
        from_json_schema({"default": value})


BROKEN: list[tuple[GrammarKind, str]] = [
    ("lark", "start: ("),
    ("lark", "start: @nowhere"),
    ("lark", "start: %json {]"),
    ("lark", "\x00"),
    ("lark", "\ud800"),
    ("regex", "("),
    ("regex", "\ud800"),
]


@pytest.mark.parametrize(("kind", "text"), BROKEN)
def test_broken_grammar_is_an_error_of_ours(kind: GrammarKind, text: str) -> None:
    with pytest.raises(UnsupportedSchemaError):
        compile_grammar(GrammarSource(kind, text), VOCABULARY)


def test_what_is_no_output_type_or_too_large_is_refused() -> None:
    with pytest.raises(UnsupportedSchemaError, match="is no output type"):
        from_output_type(object())
    with pytest.raises(UnsupportedSchemaError, match="at most 4194304 are taken"):
        compile_grammar(GrammarSource("lark", "start: " + "a" * 5_000_000), VOCABULARY)


def test_options_that_come_with_a_schema_cannot_loosen_it() -> None:
    loose = {"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}
    for schema in (loose, {"type": "object", "properties": {"a": loose}, "required": ["a"]}):
        with pytest.raises(UnsupportedSchemaError, match="uniqueItems"):
            compile_grammar(from_json_schema(schema), VOCABULARY)


def test_parts_of_a_grammar_are_languages_of_their_own() -> None:
    part = from_json_schema({"type": "boolean"})
    source = GrammarSource("lark", 'start: "=" @value', (("value", part),))
    constraint = compile_grammar(source, VOCABULARY).constraint()
    assert accepts(constraint, TOKENIZER.encode("=true"))
    assert not accepts(constraint, TOKENIZER.encode("=1"))


def test_generated_strings_hold_no_lone_surrogates() -> None:
    constraint = compile_grammar(from_json_schema({"type": "string"}), VOCABULARY).constraint()
    assert not accepts(constraint, TOKENIZER.encode('"\\ud800"'))
    assert accepts(constraint, TOKENIZER.encode(json.dumps("é\n\x01", ensure_ascii=False)))


def test_cache_compiles_equal_sources_once_and_forgets_the_oldest() -> None:
    cache = GrammarCache(VOCABULARY, max_bytes=200)
    first = cache.get_or_compile(GrammarSource("regex", "a"))
    assert cache.get_or_compile(GrammarSource("regex", "a")) is first
    for letter in "bcdef":
        cache.get_or_compile(GrammarSource("regex", letter))
    assert cache.get_or_compile(GrammarSource("regex", "a")) is not first
