"""Tests of turning output types and schemas into grammars."""

from __future__ import annotations

import datetime
import enum
import json
from collections.abc import Callable
from typing import Any, Literal

import pydantic
import pytest
from outlines.types import CFG, JsonSchema, Regex, between

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


class Digit(pydantic.BaseModel):
    n: int = pydantic.Field(ge=0, le=9)


class Callback(pydantic.BaseModel):
    call: Callable[[int], int]


def add(a: int, b: int = 1) -> int:
    return a + b


OUTPUT_TYPES: list[tuple[Any, list[str], list[str]]] = [
    (Literal["yes", "no"], ["yes", "no"], ["maybe", ""]),
    (Colour, ["red"], ["green"]),
    (Place, ['{"city":"Rome","colour":"red"}'], ['{"city": "Rome","colour":"red"}', "{}"]),
    (add, ['{"a":1}', '{"a":1,"b":2}'], ['{"b":2}']),
    (int, ["12", "-3"], ["1.5"]),
    (dict, ["{}", '{"a":[1]}'], ["[]", "1"]),
    # Inside of unions and containers a schema keeps its bounds.
    (Digit | int, ['{"n":9}', "10"], ['{"n":10}', '{"n":1,"m":2}']),
    (Digit | None, ['{"n":9}', "None"], ["null"]),
    (list[Digit], ['[{"n":1}, {"n":2}]'], ["[]", '[{"n":10}]']),
    (dict[str, Digit], ["{}", '{"a":{"n":1}, "b":{"n":2}}'], ['{"a":{"n":10}}', '{"a":1}']),
    (between(1, 2, JsonSchema(Digit)), ['{"n":1}{"n":2}'], ["", '{"n":1}{"n":2}{"n":3}']),
    (datetime.date, ["2024-02-29", "1999-12-31"], ["2023-02-29", "2024-04-31", "0000-01-01"]),
    (
        datetime.datetime | bool,
        ["2000-02-29 23:59:59", "True"],
        ["1900-02-29 00:00:00", "2000-01-01T00:00:00", "2000-01-01 24:00:00"],
    ),
    (Literal["a\nb", "c d/é."], ["a\nb", "c d/é."], ["anb", "c d/éx"]),
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


def chain(num_links: int, link: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """A schema whose definitions refer to each other in a row."""
    links = {str(i): link({"$ref": f"#/$defs/{i + 1}"}) for i in range(num_links)}
    return {"$ref": "#/$defs/0", "$defs": {**links, str(num_links): {"type": "null"}}}


@pytest.mark.parametrize(
    "link",
    [
        lambda ref: ref,
        lambda ref: {"type": "array", "items": ref},
        lambda ref: {"type": "object", "properties": {"a": ref}, "required": ["a"]},
        lambda ref: {"anyOf": [{"type": "string"}, ref]},
    ],
    ids=["itself", "array", "object", "anyOf"],
)
def test_chains_of_references_that_would_overflow_the_stack_are_refused(
    link: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    with pytest.raises(UnsupportedSchemaError, match=r"keyword '\$ref': what 2001 references"):
        from_json_schema(chain(2000, link))
    compile_grammar(from_json_schema(chain(30, link)), VOCABULARY)


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
    for no_type in (object(), Callback, print, None, Digit | CFG('start: "a"')):
        with pytest.raises(UnsupportedSchemaError, match="is no output type"):
            from_output_type(no_type)
    with pytest.raises(UnsupportedSchemaError) as caught:
        from_output_type([0] * 1000)
    assert len(str(caught.value)) < 3300
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


def test_warming_follows_an_output_as_far_as_it_is_legal() -> None:
    compiled = compile_grammar(from_json_schema({"type": "array"}), VOCABULARY)
    assert compiled.warm(TOKENIZER.encode("[1,2]")) == len(TOKENIZER.encode("[1,2]"))
    assert compiled.warm(TOKENIZER.encode("[1}")) == len(TOKENIZER.encode("[1"))
    assert compiled.constraint().state == "open"
