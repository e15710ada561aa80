"""Tests of reading JSON: what the standard says is JSON, and no more."""

from __future__ import annotations

import json

import pytest

from tools.json_text import read_json


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("NaN", "NaN is no JSON"),
        ("[-Infinity]", "-Infinity is no JSON"),
        ("[1e999]", "the number 1e999 is too large"),
        ('{"a": {"b": 1, "c": 2, "b": 3}}', "an object has the name 'b' twice"),
        (r'["\ud800"]', "it holds text that is not Unicode"),
        (r'{"\uDC00": 1}', "it holds text that is not Unicode"),
        ("[" * 100_000, "it nests too deep"),
        (b"\xef\xbb\xbf{}", "Unexpected UTF-8 BOM"),
        (b'"\xff"', "can't decode byte 0xff"),
        ("9" * 5000, "Exceeds the limit"),
        ("", "Expecting value"),
    ],
)
def test_what_python_alone_would_take_is_refused(text: str | bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_json(text)


@pytest.mark.parametrize(
    "text",
    [
        r'{"a": [1, -0.0, 1e308, 123456789012345678901234567890, "\u0000", "\ud83d\ude00"]}',
        r'{"\\ud800": null, "": {"": []}}',
        ' [true, false, "é"] ',
    ],
)
def test_all_other_json_is_read_as_python_reads_it(text: str) -> None:
    assert read_json(text) == read_json(text.encode()) == json.loads(text)


def test_a_name_that_comes_twice_is_found_in_linear_time() -> None:
    """In square time, the pairs of all names, this would not end within a test's time."""
    names = ", ".join(f'"{number}": 0' for number in range(200_000))
    with pytest.raises(ValueError, match="'199999' twice"):
        read_json(f'{{{names}, "199999": 1}}')
