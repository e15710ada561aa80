"""Finds where in a JSON text a value stands. Knows no grammar and no schema."""

from __future__ import annotations

import json
from collections.abc import Sequence

# Numbers stay as they are written: Python refuses to convert very long ones.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
_SPACE = " \t\n\r"


def locate_value(text: bytes, path: Sequence[str | int]) -> tuple[int, int]:
    """Return the byte range (start, end) of the value at `path`, without space around it.

    Where an object has a name twice the last one counts, as for `json.loads`.

    Args:
        text: a JSON text in UTF-8.
        path: names and indices from the root, such as a jsonschema error's `absolute_path`.

    Raises:
        ValueError: the text is not JSON, or has no value there.
    """
    letters = text.decode()
    try:
        _DECODER.decode(letters)
    except RecursionError as exc:
        raise ValueError("the text nests too deep to be read as JSON") from exc
    at = _skip(letters, 0)
    for step in path:
        at = _enter(letters, at, step)
    _, end = _DECODER.raw_decode(letters, at)
    return len(letters[:at].encode()), len(letters[:end].encode())


def _enter(letters: str, at: int, step: str | int) -> int:
    """Where the member `step` of the object or array at `at` starts; the text is JSON."""
    opens = letters[at]
    if opens != ("{" if isinstance(step, str) else "["):
        raise ValueError(f"found {letters[at : at + 20]!r}, which has no member {step!r}")
    closes = "}" if opens == "{" else "]"
    found, index = -1, 0
    at = _skip(letters, at + 1)
    while letters[at] != closes:
        name: str | int = index
        if opens == "{":
            name, at = _DECODER.raw_decode(letters, at)
            at = _skip(letters, _skip(letters, at) + 1)
        if name == step:
            found = at
        _, at = _DECODER.raw_decode(letters, at)
        at = _skip(letters, at)
        if letters[at] == ",":
            at = _skip(letters, at + 1)
        index += 1
    if found < 0:
        raise ValueError(f"there is no member {step!r} among {index}")
    return found


def _skip(letters: str, at: int) -> int:
    while letters[at : at + 1] and letters[at] in _SPACE:
        at += 1
    return at
