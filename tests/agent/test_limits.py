"""Tests of cutting long results."""

from __future__ import annotations

import pytest

from runtime.agent.limits import clip


def test_text_that_fits_is_unchanged() -> None:
    assert clip("abc", 3) == "abc"


def test_long_lines_are_cut_at_whole_lines() -> None:
    text = "\n".join(f"line {number:02}" for number in range(20))
    assert clip(text, 60) == (
        "line 00\nline 01\nline 02\nline 03\nline 04\n"
        "[cut: 105 of 159 characters are not shown]\n"
        "line 18\nline 19"
    )


@pytest.mark.parametrize("max_chars", range(1, 60))
@pytest.mark.parametrize("text", ["x" * 100, "ab\n" * 40, "\n" * 70, "x" * 50 + "\n" + "y" * 50])
def test_cut_text_keeps_head_and_tail_and_counts_what_is_missing(text: str, max_chars: int) -> None:
    head, note, tail = clip(text, max_chars).partition("\n[cut: ")
    missing, _, rest = tail.partition(" of ")
    tail = rest.partition("]\n")[2]
    assert note
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(head) + len(tail) <= max_chars
    assert len(head) + len(tail) + int(missing) == len(text)
