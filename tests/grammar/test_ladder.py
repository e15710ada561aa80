"""Tests of how much of a schema is enforced, and of what is said about the rest."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from runtime.errors import UnsupportedSchemaError
from runtime.grammar.compile import (
    GrammarCache,
    GrammarSource,
    compile_grammar,
    from_json_schema,
    grade_schema,
)
from runtime.grammar.constraint import Constraint
from runtime.grammar.ladder import SchemaSupport, with_options
from runtime.grammar.schema import Schema
from tests.helpers.json_spellings import spellings, whole
from tests.helpers.random_schemas import random_schema, random_value
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.vocabularies import accepts, vocabulary_of
from tools.validation import first_problem

TOKENIZER = tiny_tokenizer()
VOCABULARY = vocabulary_of(TOKENIZER)
DRAFT_7 = "http://json-schema.org/draft-07/schema#"

STRICT: list[tuple[Schema, list[str], list[str]]] = [
    (True, ["null", '[{"a":1}]'], ["", "]"]),
    ({"properties": {"a": False}}, ["{}", "1"], ['{"a":1}']),
    # References of any kind, and what stands next to them.
    ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "null"}}}, ["null"], ["1"]),
    ({"$ref": "#n", "maximum": 5, "$defs": {"x": {"$anchor": "n", "minimum": 3}}}, ["4"], ["6"]),
    (
        {"$id": "http://x.test/a", "$ref": "b", "$defs": {"x": {"$id": "b", "type": "null"}}},
        ["null"],
        ["1"],
    ),
    ({"$dynamicRef": "#n", "$defs": {"x": {"$dynamicAnchor": "n", "const": 1}}}, ["1"], ["2"]),
    ({"$ref": "#/x", "x": {"type": "null"}}, ["null"], ["1"]),
    # Older drafts.
    (
        {"$schema": DRAFT_7, "items": [{"type": "null"}], "additionalItems": False},
        ["[]", "[null]"],
        ["[1]", "[null,1]"],
    ),
    (
        {"$schema": DRAFT_7, "definitions": {"x": {}}, "$ref": "#/definitions/x", "not": {}},
        ["1"],
        [],
    ),
    (
        {"prefixItems": [{"const": 1}], "items": {"const": 2}, "additionalItems": False},
        ["[1,2]"],
        ["[2]"],
    ),
    (
        {
            "exclusiveMinimum": True,
            "minimum": 3,
            "$schema": "http://json-schema.org/draft-04/schema",
        },
        ["4"],
        ["3"],
    ),
    # Keywords that others express.
    (
        {"type": "object", "dependentRequired": {"a": ["b"]}},
        ['{"b":1}', '{"b":1,"a":1}'],
        ['{"a":1}'],
    ),
    ({"type": "array", "contains": {}}, ["[1]"], ["[]"]),
    ({"type": "array", "uniqueItems": False}, ["[1,1]"], []),
    ({"not": {"type": ["object", "null"]}}, ["1", '"a"'], ["{}", "null"]),
    ({"type": "object", "propertyNames": {"maxLength": 1}}, ['{"a":1}', "{}"], ['{"ab":1}']),
    (
        {
            "type": "object",
            "allOf": [{"properties": {"a": {"type": "null"}}}],
            "unevaluatedProperties": False,
        },
        ['{"a":null}'],
        ['{"a":1}', '{"b":1}'],
    ),
    # Names and numbers in another spelling are the same.
    (
        {"type": "object", "properties": {"a": {"type": "integer"}}},
        ['{"a":1}', '{"b":"x"}'],
        ['{"\\u0061":"x"}', '{"a":1,"\\u0061":"x"}'],
    ),
    ({"minLength": 2.0, "const": "ab"}, ['"ab"'], []),
    ({"const": 2.0}, ["2"], ["2.0"]),
]


def constraint_of(schema: Schema, support: SchemaSupport) -> Constraint:
    return compile_grammar(from_json_schema(schema, level=support.level), VOCABULARY).constraint()


@pytest.mark.parametrize(("schema", "valid", "invalid"), STRICT)
def test_strict_grammar_is_the_schema(schema: Schema, valid: list[str], invalid: list[str]) -> None:
    support = grade_schema(schema, VOCABULARY)
    assert support == SchemaSupport("strict")
    constraint = constraint_of(schema, support)
    assert [text for text in valid if not accepts(constraint, TOKENIZER.encode(text))] == []
    assert [text for text in invalid if accepts(constraint, TOKENIZER.encode(text))] == []


DEGRADED: list[tuple[Schema, SchemaSupport, str]] = [
    (
        {"properties": {"x": {"oneOf": [{"minimum": 1}, {"maximum": 9}]}, "y": {"oneOf": [{}]}}},
        SchemaSupport("coerced", ("oneOf at $.properties.x",)),
        '{"x":0}',
    ),
    (
        {"type": "array", "items": {"not": {"const": 1}}, "uniqueItems": True},
        SchemaSupport("lenient", ("not at $.items", "uniqueItems at $")),
        "[2,3]",
    ),
    (
        {"oneOf": [{"minimum": 1}, {"maximum": 9}], "if": {"const": 3}, "then": False},
        SchemaSupport("lenient", ("if at $", "oneOf at $")),
        "4",
    ),
    ({"type": "string", "format": "iban"}, SchemaSupport("lenient", ("format at $",)), '"x"'),
    ({"type": "string", "pattern": "(?=a)"}, SchemaSupport("lenient", ("pattern at $",)), '"a"'),
    ({"const": 2**60}, SchemaSupport("lenient", ("const at $",)), str(2**60)),
    ({"multipleOf": 0.07}, SchemaSupport("lenient", ("multipleOf at $",)), "0.07"),
    (
        {"allOf": [{"multipleOf": 9_999}, {"multipleOf": 10_000}]},
        SchemaSupport("lenient", ("multipleOf at $.allOf[1]",)),
        "0",
    ),
    (
        {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
        SchemaSupport("lenient", ("exclusiveMinimum at $",)),
        "0.25",
    ),
    (
        {"type": "object", "patternProperties": {"a": {}, "b": {}}, "additionalProperties": False},
        SchemaSupport("lenient", ("patternProperties at $", "additionalProperties at $")),
        '{"ab":1}',
    ),
    (
        {"type": "object", "patternProperties": {"^a": {}}, "propertyNames": {"pattern": "b$"}},
        SchemaSupport("lenient", ("patternProperties at $", "propertyNames at $")),
        '{"b":1}',
    ),
    (
        {"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 1},
        SchemaSupport("lenient", ("minProperties at $",)),
        '{"b":1}',
    ),
    (
        {"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 2},
        SchemaSupport("lenient", ("minProperties at $",)),
        '{"a":null,"b":null}',
    ),
    (
        {"anyOf": [{"properties": {"a": {}}}, {}], "unevaluatedProperties": False},
        SchemaSupport("lenient", ("unevaluatedProperties at $",)),
        '{"a":1}',
    ),
    (
        {"properties": {"next": {"$ref": "#", "minProperties": 1}}},
        SchemaSupport("lenient", ("minProperties at $.properties.next",)),
        '{"next":{"next":{}}}',
    ),
]


@pytest.mark.parametrize(("schema", "support", "text"), DEGRADED)
def test_what_the_grammar_leaves_open_is_named_with_its_path(
    schema: dict[str, Any], support: SchemaSupport, text: str
) -> None:
    assert grade_schema(schema, VOCABULARY) == support
    assert accepts(constraint_of(schema, support), TOKENIZER.encode(text))
    with pytest.raises(UnsupportedSchemaError):
        compile_grammar(from_json_schema(schema, level="strict"), VOCABULARY)


REFUSED: list[tuple[Schema, str]] = [
    (False, "no output satisfies it"),
    ({"not": {}}, "no output satisfies it"),
    ({"allOf": [{"type": "null"}, {"type": "string"}]}, "Unsatisfiable schema: incompatible types"),
    (
        {"$ref": "http://x.test/y"},
        "keyword '$ref' at $ is not supported: 'http://x.test/y' is not part",
    ),
    ({"items": {"$ref": 3}}, "keyword '$ref' at $.items must be a string, not 3"),
    (
        {"anyOf": [{"$ref": "#"}, {}]},
        "keyword '$ref' at $ is not supported: it leads back to itself",
    ),
    ({"properties": []}, "keyword 'properties' at $ must be an object, not []"),
    (
        {"items": {"type": "text"}},
        "keyword 'type' at $.items must be one or several of JSON's types",
    ),
    ({"items": {"minLength": -1}}, "keyword 'minLength' at $.items must be a whole number"),
    ({"required": "a"}, "keyword 'required' at $ must be a list of names, not 'a'"),
    ({"pattern": "^\\p{L}$"}, "the schema itself is invalid at $.pattern: '^\\\\p{L}$' is not a"),
    ({"required": ["a", "a"]}, "the schema itself is invalid at $.required: ['a', 'a'] has"),
    ({"properties": {"a": {}}, "required": [{}]}, "'required' at $ must be a list of names"),
    ({"$schema": 3}, "keyword '$schema' at $ must be a string, not 3"),
    ({"$schema": "http://["}, "the schema itself is invalid: Invalid IPv6 URL"),
    ({"items": {"$id": "http://["}}, "the schema cannot be read: Invalid IPv6 URL"),
    ({"$id": 3}, "keyword '$id' at $ must be a string"),
    (
        {"items": {"$ref": "#x"}, "$defs": {"y": {"$anchor": ["x"]}}},
        "keyword '$ref' at $.items cannot be followed: an anchor or an '$id' of the schema is no",
    ),
    ({"allOf": {}}, "keyword 'allOf' at $ must be a list, not {}"),
    ({"properties": {"a": 1}}, "keyword 'schema' at $.properties.a must be an object or a boolean"),
]


@pytest.mark.parametrize(("schema", "message"), REFUSED)
def test_schema_without_a_grammar_is_refused_by_name(schema: Schema, message: str) -> None:
    with pytest.raises(UnsupportedSchemaError) as caught:
        grade_schema(schema, VOCABULARY)
    assert message in str(caught.value)


@pytest.mark.parametrize("uri", ["urn:x", "https://example.com/x"])
def test_dialect_that_is_not_known_is_read_as_the_newest(uri: str) -> None:
    schema = {"$schema": uri, "$defs": {"x": {"const": 1}}, "$ref": "#/$defs/x"}
    assert grade_schema(schema, VOCABULARY) == SchemaSupport("strict")
    assert first_problem(schema, 1) is None
    assert first_problem(schema, 2) is not None


def test_options_are_the_level_and_the_spacing() -> None:
    schema = {"type": "null", "title": "t", "x-guidance": {"lenient": True}}
    compact: dict[str, Any] = {"whitespace_flexible": False}
    spaced = compact | {"item_separator": ", ", "key_separator": ": "}
    pattern = {"whitespace_pattern": " ?"}
    loose = compact | {"coerce_one_of": True, "lenient": True}
    assert with_options(schema) == {"type": "null", "x-guidance": compact}
    assert with_options(schema, spaced=True) == {"type": "null", "x-guidance": spaced}
    assert with_options(schema, whitespace_pattern=" ?") == {"type": "null", "x-guidance": pattern}
    assert with_options(schema, level="lenient") == {"type": "null", "x-guidance": loose}
    with pytest.raises(
        UnsupportedSchemaError, match=r"^keyword 'if' at \$\.items is not supported"
    ):
        with_options({"items": {"if": {"const": 1}, "then": {}}}, level="coerced")


def test_spaced_texts_have_one_blank_after_each_separator() -> None:
    schema = with_options({"type": "object", "required": ["a", "b"]}, spaced=True)
    source = GrammarSource("json_schema", json.dumps(schema))
    constraint = compile_grammar(source, VOCABULARY).constraint()
    assert accepts(constraint, TOKENIZER.encode('{"a": [1, 2], "b": {}}'))
    assert not accepts(constraint, TOKENIZER.encode('{"a":[1,2],"b":{}}'))


def test_cache_remembers_grades_and_refusals_by_content() -> None:
    cache = GrammarCache(VOCABULARY)
    schema = {"oneOf": [{"minimum": 1}, {"maximum": 9}]}
    first = cache.grade(schema)
    assert first == SchemaSupport("coerced", ("oneOf at $",))
    assert cache.grade(dict(schema)) is first
    messages = set()
    for _ in range(2):
        with pytest.raises(UnsupportedSchemaError) as caught:
            cache.grade({"not": {}})
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_random_schemas_and_the_validator_agree_on_random_values() -> None:
    rng = random.Random(11)
    num_checked: Counter[str] = Counter()
    for _ in range(200):
        schema = random_schema(rng)
        try:
            support = grade_schema(schema, VOCABULARY)
        except UnsupportedSchemaError:
            num_checked["refused"] += 1
            continue
        num_checked[support.level] += 1
        constraint, validator = constraint_of(schema, support), Draft202012Validator(schema)
        for value in [whole(random_value(rng)) for _ in range(30)]:
            is_valid = validator.is_valid(value)
            is_taken = any(accepts(constraint, TOKENIZER.encode(t)) for t in spellings(value))
            num_checked["valid" if is_valid else "invalid"] += 1
            assert is_taken or not is_valid, (schema, value)
            assert is_valid or not is_taken or support.level != "strict", (schema, value)
    assert num_checked["strict"] > 120
    assert min(num_checked["valid"], num_checked["invalid"]) > 1000
