"""Tests of patterns: those that every reader understands alike pass, the others do not."""

from __future__ import annotations

import itertools
import json
import re

import pytest

from runtime.grammar.compile import compile_grammar, from_json_schema
from runtime.grammar.patterns import portable_pattern
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.vocabularies import accepts, vocabulary_of

TOKENIZER = tiny_tokenizer()
VOCABULARY = vocabulary_of(TOKENIZER)

PORTABLE = [
    "^a$",
    "a|^b$",
    "(^a|b)c",
    "x(a$|b)",
    "^(?:ab)+?$",
    "^[^\\s]+$",
    "^[\\s\\S]{2}$",
    "^\\S+@\\S+$",
    "[\\w.-]@",
    "^[a-c-]+$",
    "^[-ab]$",
    "^[+--]$",
    "^[[a]$",
    "^[a&&b]$",
    "\\/",
    "\\.",
    "a.c",
    "^\\d{2,}$",
    "^(?P<n>a)b$",
    "^\\u0061\\x62$",
    "",
    "()",
    "é",
]
TEXTS = ["".join(text) for num in range(4) for text in itertools.product("ab@-", repeat=num)]
TEXTS += ["xab", "ac", "a\tc", "a\nc", "bc", "xbc", "xa", "ababab", "12", "x1", "a@a", ".@"]
TEXTS += ["/", "é", "[", "&", "+", ",", "a b"]


# Python means to read `[[` and `&&` differently one day.
@pytest.mark.filterwarnings("ignore:Possible")
@pytest.mark.parametrize("pattern", PORTABLE)
def test_portable_pattern_finds_in_the_grammar_what_python_finds(pattern: str) -> None:
    source = from_json_schema({"type": "string", "pattern": pattern})
    constraint = compile_grammar(source, VOCABULARY).constraint()
    taken = [t for t in TEXTS if accepts(constraint, TOKENIZER.encode(spelled(t)))]
    assert taken == [text for text in TEXTS if re.search(pattern, text)]


def spelled(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


AMBIGUOUS = [
    "(?=a)b",
    "(?<!a)b",
    "\\bfoo",
    "(a)\\1",
    "a$b",
    "(a$)?",
    "b^a",
    "[[a]]",
    "a{,3}",
    "a{x}",
    "a*+",
    "a**",
    "^[]a]$",
    "[^]",
    "[a",
    "(a",
    "a)",
    "(?i)a",
    "(?i:a)",
    "\\Aa",
    "\\cA",
    "\\0",
    "\\ud83d",
    "\\",
    "(" * 5000,
]


@pytest.mark.parametrize("pattern", AMBIGUOUS)
def test_pattern_that_readers_take_differently_is_not_compiled(pattern: str) -> None:
    assert portable_pattern(pattern) is None


def test_dot_and_blanks_are_those_of_ecmascript() -> None:
    source = from_json_schema({"type": "string", "pattern": "^.\\s$"})
    constraint = compile_grammar(source, VOCABULARY).constraint()
    assert accepts(constraint, TOKENIZER.encode('"a\ufeff"'))
    assert not accepts(constraint, TOKENIZER.encode('"a\x85"'))
    assert not accepts(constraint, TOKENIZER.encode('"\u2028 "'))


def test_hyphen_next_to_a_set_stands_for_itself() -> None:
    assert portable_pattern("[\\w-.]") == "[\\w\\-.]"
    assert portable_pattern("[a-\\d]") == "[a\\-\\d]"
