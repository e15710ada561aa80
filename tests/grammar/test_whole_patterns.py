"""Tests of patterns as a whole text has to match them."""

from __future__ import annotations

import re

import pytest

from runtime.grammar.patterns import whole_pattern

TEXTS = ("", "a", "ab", "xab", "abx", "b", "xb", "ba", "a$", "x\nab", "7")


@pytest.mark.parametrize(
    "pattern", ["ab", "^ab", "ab$", "^ab$", "^a|b$", "a|7$", r"a\$", "^(?:a|b)+$", "(a)(b)", ""]
)
def test_whole_text_matches_where_the_pattern_is_found(pattern: str) -> None:
    whole = whole_pattern(pattern)
    assert whole is not None
    found = [text for text in TEXTS if re.fullmatch(whole, text)]
    assert found == [text for text in TEXTS if re.search(pattern, text)]


@pytest.mark.parametrize("pattern", ["(^a|b)c", "(a$|b)", "a(?=b)", "a^b", "(a", "a++", r"\ud800"])
def test_pattern_that_cannot_be_made_whole_is_none(pattern: str) -> None:
    assert whole_pattern(pattern) is None
