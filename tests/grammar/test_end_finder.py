"""Tests of the search for short ends."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from runtime.grammar.compile import GrammarSource, compile_grammar, from_json_schema
from runtime.grammar.end_finder import EndFinder
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.vocabularies import vocabulary_of

TOKENIZER = tiny_tokenizer()
VOCABULARY = vocabulary_of(TOKENIZER)
FINDER = EndFinder(VOCABULARY)


def closed(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


NODE = {"$ref": "#/$defs/node"}
FLAG = {"type": "boolean"}
TREE = closed({"aa": NODE, "b": NODE, "mid": FLAG, "zz": NODE}, ["mid"])


@pytest.mark.parametrize(
    ("schema", "length"),
    [
        ({"type": "string"}, len('""')),
        ({"type": "array", "items": {"type": "string"}, "minItems": 2}, len('[1,1]')),
        ({"enum": ["kelvin", "k"]}, len('"k"')),
        ({"type": "object", "additionalProperties": {"type": "null"}}, len("{}")),
        ({"type": "integer", "minimum": 100}, len("100")),
        ({"$ref": "#/$defs/node", "$defs": {"node": TREE}}, len(TOKENIZER.encode('{"mid":true}'))),
        (
            {"anyOf": [closed({"k": {"const": "aaa"}}, ["k"]), closed({"j": FLAG}, ["j"])]},
            len(TOKENIZER.encode('{"j":true}')),
        ),
    ],
)  # fmt: skip
def test_shortest_ends_are_found(schema: dict[str, Any], length: int) -> None:
    end = FINDER.get_end(compile_grammar(from_json_schema(schema), VOCABULARY))
    assert end is not None
    assert len(end) <= length


@pytest.mark.parametrize(
    "pattern", ["[a-z]+;x", "(ab)+c{3}", "[{}]{6}z*y", "a+b+c+", "[^@]+@[^@]+", "(x|yz){5}0"]
)
def test_patterns_come_to_an_end(pattern: str) -> None:
    for source in (
        GrammarSource("regex", pattern),
        from_json_schema({"type": "string", "pattern": f"^{pattern}$"}),
    ):
        grammar = compile_grammar(source, VOCABULARY)
        end = FINDER.get_end(grammar)
        assert end is not None
        assert FINDER.completes(grammar.constraint(), end)
        assert not FINDER.completes(grammar.constraint(), end[:-1])


@pytest.mark.parametrize(
    "format_", ["email", "uuid", "date-time", "date", "time", "ipv4", "ipv6", "uri", "hostname"]
)
def test_formats_come_to_an_end(format_: str) -> None:
    schema = {"type": "string", "format": format_}
    grammar = compile_grammar(from_json_schema(schema), VOCABULARY)
    end = FINDER.get_end(grammar)
    assert end is not None
    assert FINDER.completes(grammar.constraint(), end)


def test_a_search_without_success_ends_with_none() -> None:
    # The end is a marker that any text may precede, and nobody names it.
    source = GrammarSource("lark", 'start[suffix="</arguments!>"]: /(?s:.*)/')
    grammar = compile_grammar(source, VOCABULARY)
    assert FINDER.get_end(grammar) is None
    end = EndFinder(VOCABULARY, ["</arguments!>"]).get_end(grammar)
    assert end is not None
    assert FINDER.completes(grammar.constraint(), end)


def test_no_end_longer_than_the_limit_is_returned() -> None:
    grammar = compile_grammar(GrammarSource("lark", 'start: "h"{20} "i"'), VOCABULARY)
    assert FINDER.find(grammar.constraint(), 20) is None
    assert FINDER.find_shortest(grammar.constraint(), 20) is None
    assert FINDER.find(grammar.constraint(), 21) == tuple(TOKENIZER.encode("h" * 20 + "i"))


def test_the_constraint_that_is_asked_stays_as_it_is() -> None:
    constraint = compile_grammar(from_json_schema({"type": "string"}), VOCABULARY).constraint()
    FINDER.find_shortest(constraint)
    assert constraint.advance(TOKENIZER.encode('"a"')) == 3


def test_ends_are_kept_as_long_as_their_grammar() -> None:
    finder = EndFinder(VOCABULARY)
    grammar = compile_grammar(from_json_schema({"enum": ["kelvin", "k"]}), VOCABULARY)
    assert finder.get_end(grammar) is finder.get_end(grammar)
    del grammar
    gc.collect()
    assert len(finder) == 0
