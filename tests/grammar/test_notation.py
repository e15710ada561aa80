"""Tests of grammars and patterns as people write them: what is wrong is said, and where."""

from __future__ import annotations

import pytest

from runtime.errors import UnsupportedSchemaError
from runtime.grammar.compile import compile_grammar, from_grammar, from_regex
from runtime.grammar.notation import MAX_GRAMMAR_TEXT_BYTES
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.vocabularies import accepts, vocabulary_of

TOKENIZER = tiny_tokenizer()
VOCABULARY = vocabulary_of(TOKENIZER)

GRAMMARS = [
    ('start: "a" start | "b"', "aab", "aa"),
    ('?start: item ("," item)*\n!item: /[0-9]+/', "1,23", "1,"),
    ('root ::= "a" root | "b"', "aab", "aa"),
    ('# a comment\nroot ::= item ("," item)*\nitem ::= [0-9]{1,2}', "1,23", "1,234"),
    ('root ::= begin\nbegin ::= "::="', "::=", "start"),
    ('start: "::="', "::=", ":"),
]


@pytest.mark.parametrize(("text", "accepted", "refused"), GRAMMARS)
def test_lark_and_gbnf_are_told_apart_and_keep_their_meaning(
    text: str, accepted: str, refused: str
) -> None:
    constraint = compile_grammar(from_grammar(text), VOCABULARY).constraint()
    assert accepts(constraint, TOKENIZER.encode(accepted))
    assert not accepts(constraint, TOKENIZER.encode(refused))


BROKEN_GRAMMARS = [
    ("", "the grammar is not supported: Empty grammar"),
    ('begin: "a"', "the grammar is not supported: no start rule found"),
    ("start: foo", 'the grammar is not supported: line 1, column 8: unknown name: "foo"'),
    (
        'start: a\na: b "x" (\n',
        (
            "the grammar is not supported: line 2, column 11: Expected token ')', found '\\n'"
            " (at \"\\n\\n\" ('\\n'))"
        ),
    ),
    (
        "start: ab\nab: /a(/",
        'the grammar is not supported: line 2, column 5: invalid regex "a(": unclosed group',
    ),
    (
        'start: %json {"not": {}}',
        (
            "the grammar is not supported: line 1, column 8: failed to compile JSON schema:"
            ' Unimplemented keys: ["not"]'
        ),
    ),
    ("start: \ud800", "the grammar is not Unicode text: 'utf-8' codec can't encode character"),
    ("root ::= foo", "the GBNF grammar is not supported: Rule 'foo' not found"),
    (
        'root ::= "a" | [0-9',
        (
            "the GBNF grammar is not supported: Unexpected end of input at line 1,"
            " 'root ::= \"a\" | [0-9' ^ ''"
        ),
    ),
    ("root ::= " + "(" * 3000, "the GBNF grammar nests too deep; flatten it"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN_GRAMMARS)
def test_broken_grammar_is_told_with_its_place(text: str, message: str) -> None:
    with pytest.raises(UnsupportedSchemaError) as caught:
        from_grammar(text)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < len(message) + 100


BROKEN_PATTERNS = [
    ("(", "unclosed group at '' ^ '('"),
    ("ab[z-a]c", "invalid character class range, the start must be <= the end at 'ab[' ^ 'z-a]c'"),
    ("é(*)", "repetition operator missing expression at 'é(' ^ '*)'"),
    (
        "a" * 30 + "(?=b)",
        (
            f"look-around, including look-ahead and look-behind, is not supported at"
            f" {'a' * 20!r} ^ '(?=b)'"
        ),
    ),
    ("(a)\\1", "backreferences are not supported at '(a)' ^ '\\\\1'"),
    ("\\bfoo", "lookarounds not supported yet; WordUnicode in regex /\\bfoo/"),
]


@pytest.mark.parametrize(("pattern", "message"), BROKEN_PATTERNS)
def test_broken_pattern_is_told_with_its_place(pattern: str, message: str) -> None:
    with pytest.raises(UnsupportedSchemaError) as caught:
        from_regex(pattern)
    assert str(caught.value) == f"the regular expression is not supported: {message}"


def rules(num_rules: int, form: str) -> str:
    """A row of rules, each of which refers to the next."""
    links = "\n".join(f"r{i}: " + form.format(f"r{i + 1}") for i in range(num_rules))
    return f'start: r0\n{links}\nr{num_rules}: "a"'


HOSTILE = [
    rules(3000, '{} | "b"'),  # these overflow the compiler's stack
    rules(500, '(((((((((({})*)*)*)*)*)*)*)*)*)* "b"'),
    "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1}" for i in range(3000)) + '\nr3000 ::= "a"',
    'start: %json {"$ref":"#/$defs/0","$defs":{'
    + ",".join(f'"{i}":{{"items":{{"$ref":"#/$defs/{i + 1}"}}}}' for i in range(1500))
    + ',"1500":{}}}',
    "\n" * MAX_GRAMMAR_TEXT_BYTES,  # seconds in llguidance's own detection of Lark
    "\n" * (MAX_GRAMMAR_TEXT_BYTES - 1),
    "start: " + "x" * MAX_GRAMMAR_TEXT_BYTES,
    'start: "x"{1000000}',
    rules(40, "{0} {0}"),
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_grammar_is_refused(text: str) -> None:
    with pytest.raises(UnsupportedSchemaError):
        compile_grammar(from_grammar(text), VOCABULARY)


@pytest.mark.parametrize("pattern", ["a{1000000}", "(((a{100}){100}){100}){100}", "(" * 3000])
def test_hostile_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(UnsupportedSchemaError):
        compile_grammar(from_regex(pattern), VOCABULARY)


def test_long_honest_grammar_compiles() -> None:
    text = "start: " + " | ".join(f"r{i}" for i in range(300))
    text += "".join(f'\nr{i}: "a{i}" ("," "b")*' for i in range(300))
    constraint = compile_grammar(from_grammar(text), VOCABULARY).constraint()
    assert accepts(constraint, TOKENIZER.encode("a299,b,b"))
