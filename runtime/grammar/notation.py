"""Grammars and patterns as people write them: Lark, GBNF and regular expressions.

Says what is wrong with a text and where, before anything is compiled; knows no vocabulary.
"""

from __future__ import annotations

import re

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from runtime.errors import UnsupportedSchemaError

MAX_GRAMMAR_TEXT_BYTES = 64 * 1024

MAX_LEVELS = 800
"""The compiler recurses from rule to rule on the C stack, at most 6 kB a level: 1,650 levels
overflow 8 MiB, which ends the process."""

_GBNF_RULE = re.compile(r"[ \t]*[A-Za-z0-9_-]+[ \t]*::=")
_POSITION = re.compile(r"(?:at )?(\d+)\((\d+)\): (.*)")
_BAD_REGEX = re.compile(r'(invalid regex )?(".*") \(in regex\): (.*)')
_INDENT = 4
_SHOWN_CHARS = 20


def to_lark(text: str) -> str:
    """Return a grammar in Lark, the compiler's dialect; GBNF is translated.

    GBNF is what has a line that begins with `name ::=`.

    Raises:
        UnsupportedSchemaError: says what is wrong and where.
    """
    num_bytes = len(_encode(text, "grammar"))
    if num_bytes > MAX_GRAMMAR_TEXT_BYTES:
        raise UnsupportedSchemaError(
            f"the grammar has {num_bytes} bytes; at most {MAX_GRAMMAR_TEXT_BYTES} can be compiled"
        )
    is_gbnf = any(_GBNF_RULE.match(line) for line in text.splitlines())
    lark = _translate(text) if is_gbnf else text
    if (levels := _count_levels(lark)) > MAX_LEVELS:
        raise UnsupportedSchemaError(
            f"the grammar's rules and groups nest up to {levels} levels; at most {MAX_LEVELS} can"
            " be compiled: use fewer rules"
        )
    if problem := LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(lark)):
        translated = " (of its translation to Lark)" if is_gbnf else ""
        raise UnsupportedSchemaError(
            f"the grammar is not supported: {_locate(problem)}{translated}"
        )
    return lark


def check_regex(pattern: str) -> None:
    """Refuse what is no regular expression, or one with look-around or back-references.

    Raises:
        UnsupportedSchemaError: says what is wrong and where.
    """
    _encode(pattern, "regular expression")
    if problem := LLMatcher.validate_grammar(LLMatcher.grammar_from_regex(pattern)):
        raise UnsupportedSchemaError(
            f"the regular expression is not supported: {_locate_in_regex(problem)}"
        )


def _encode(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise UnsupportedSchemaError(f"the {what} is not Unicode text: {exc}") from exc


def _translate(gbnf: str) -> str:
    try:
        return gbnf_to_lark(gbnf)
    except RecursionError as exc:
        raise UnsupportedSchemaError("the GBNF grammar nests too deep; flatten it") from exc
    except Exception as exc:  # llguidance raises the base class itself
        raise UnsupportedSchemaError(f"the GBNF grammar is not supported: {exc}") from exc


def _count_levels(lark: str) -> int:
    """Upper bound of how deep the compiler recurses: each rule once, with its groups."""
    levels = sum(1 + _depth(line, "([", ")]") for line in lark.splitlines())
    # A schema inside of the grammar (`%json`) recurses over its references.
    return levels + lark.count("$ref") * _depth(lark, "{", "}")


def _depth(text: str, opening: str, closing: str) -> int:
    depth = deepest = 0
    for character in text:
        if character in opening:
            depth += 1
            deepest = max(deepest, depth)
        elif character in closing:
            depth = max(depth - 1, 0)
    return deepest


def _locate(problem: str) -> str:
    """Rewrite the compiler's message about a grammar in one line."""
    first, *rest = problem.splitlines()
    if (match := _POSITION.match(first)) is None:
        return first
    line, column, message = match.groups()
    if (bad_regex := _BAD_REGEX.match(message)) is not None:
        reason = _reason(rest) or bad_regex[3]
        message = f"invalid regex {bad_regex[2]}: {reason}"
    return f"line {line}, column {column}: {message}"


def _locate_in_regex(problem: str) -> str:
    """Rewrite the compiler's message about a pattern; a caret marks the place in it."""
    first, *rest = problem.splitlines()
    reason = _reason(rest)
    carets = [line.find("^") for line in rest[1:2]]
    if reason is None or carets in ([], [-1]):
        message = first.partition(" (in regex): ")[2]
        return message or first
    column = carets[0]
    before, after = rest[0][_INDENT:column], rest[0][column:]
    return f"{reason} at {before[-_SHOWN_CHARS:]!r} ^ {after[:_SHOWN_CHARS]!r}"


def _reason(lines: list[str]) -> str | None:
    return next(
        (line.removeprefix("error: ") for line in lines if line.startswith("error: ")), None
    )
