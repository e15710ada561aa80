"""Tests of finding where in a JSON text a value stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from runtime.grammar.locate import locate_value

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    if isinstance(value, dict):
        for name, member in value.items():
            yield from paths(member, (*path, name))
    if isinstance(value, list):
        for index, member in enumerate(value):
            yield from paths(member, (*path, index))


def at_path(value: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


@given(VALUES, st.booleans(), st.sampled_from([None, 0, 2]))
def test_every_value_of_a_text_is_found(value: Any, is_ascii: bool, indent: int | None) -> None:
    # Half of a surrogate pair has no UTF-8; as an escape it may stand in a text.
    written = json.dumps(value, ensure_ascii=is_ascii, indent=indent)
    text = b" \n" + written.encode(errors="replace") + b"\n"
    value = json.loads(text)
    for path in paths(value):
        start, end = locate_value(text, path)
        assert json.loads(text[start:end]) == at_path(value, path)
        assert text[start:end].strip() == text[start:end]


@pytest.mark.parametrize(
    ("text", "path", "found"),
    [
        (b'{"a":1}', (), b'{"a":1}'),
        (b'{"a":"\\"}","b" : [1, 22 ,3]}', ("b", 1), b"22"),
        (b'{"\\u0061":[]}', ("a",), b"[]"),
        (b'{"a":1,"a":2}', ("a",), b"2"),
        ('{"é":"日本"}'.encode(), ("é",), '"日本"'.encode()),
        (b"[" + b"9" * 5000 + b",-1.5e3]", (1,), b"-1.5e3"),
        (b'{"0":[0],"":{"":null}}', ("", ""), b"null"),
    ],
)
def test_values_are_found_as_written(
    text: bytes, path: tuple[str | int, ...], found: bytes
) -> None:
    start, end = locate_value(text, path)
    assert text[start:end] == found


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b'{"a":1}', ("b",)),
        (b'{"a":1}', (0,)),
        (b"[1]", (1,)),
        (b"[1]", ("0",)),
        (b"[1", (0,)),
        (b'{"a"', ("a",)),
        (b'{"a":', ("a",)),
        (b"", ()),
        (b"\xff", ()),
        (b"[" * 100_000, ()),
        (b"1", ("a",)),
        (b"[1 2]", (1,)),
        (b'{"a" 1}', ("a",)),
    ],
)
def test_what_is_not_there_is_an_error(text: bytes, path: tuple[str | int, ...]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (the kind is the contract, not the words)
        locate_value(text, path)


def test_errors_of_jsonschema_are_located() -> None:
    schema = {"properties": {"rows": {"items": {"properties": {"n": {"multipleOf": 5}}}}}}
    text = b'{"rows":[{"n":5},{"n":7}]}'
    (error,) = Draft202012Validator(schema).iter_errors(json.loads(text))
    start, end = locate_value(text, list(error.absolute_path))
    assert (start, text[start:end]) == (22, b"7")
