"""What grammars of turns are written with."""

from __future__ import annotations

import itertools
import re

import pytest

from runtime.chat.wire_formats.rules import Rules, text_without


@pytest.mark.parametrize("marker", ["<ab>", "{[-", "^]x", "(a", "✂b c"])
def test_text_without_a_marker_is_all_text_but_that_which_holds_it(marker: str) -> None:
    pattern = re.compile(text_without(marker).removeprefix("/").removesuffix("/"))
    for length in range(7):
        for chars in itertools.product({*marker, "\n"}, repeat=length):
            text = "".join(chars)
            assert bool(pattern.fullmatch(text)) == (marker not in text), repr(text)


@pytest.mark.parametrize("marker", ["<ab>", "{[-", "^]x", "(a", "✂b c"])
def test_text_up_to_a_marker_ends_with_the_first_one(marker: str) -> None:
    rules = Rules({})
    start = rules.text_up_to(marker)
    _, _, terminal = rules.source(start).text.rpartition(f"{start}: ")
    pattern = re.compile(terminal.removeprefix("/").removesuffix("/"))
    for length in range(7):
        for chars in itertools.product({*marker, "\n"}, repeat=length):
            text = "".join(chars)
            ends = text.endswith(marker) and marker not in text[:-1]
            assert bool(pattern.fullmatch(text)) == ends, repr(text)


@pytest.mark.parametrize("marker", ["<", "<<a", "[x["])
def test_markers_that_hold_their_first_character_twice_are_excluded_whole(marker: str) -> None:
    text, _, excluded = text_without(marker).partition(" & ~")
    patterns = [part.removeprefix("/").removesuffix("/") for part in (text, excluded)]
    for length in range(5):
        for chars in itertools.product({*marker, "\n", "b"}, repeat=length):
            joined = "".join(chars)
            is_text, is_excluded = (bool(re.fullmatch(one, joined)) for one in patterns)
            assert (is_text and not is_excluded) == (marker not in joined), repr(joined)
