"""Reads JSON that others wrote: what the standard says is JSON, and what can be written again.

Python's own reader takes more: NaN, numbers that become infinite, a byte order mark, halves of
surrogate pairs, and objects that have a name twice, of which another reader may take the other.

Source: RFC 8259; RFC 7493 (I-JSON) for names that come twice and for surrogates.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

MAX_DEPTH = 96

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ALIKE = bytes.maketrans(b"{}", b"[]")


def read_json(text: str | bytes) -> Any:
    """Return the value; bytes are UTF-8.

    Raises:
        ValueError: it is no JSON; says why, in few words.
    """
    text = text.decode() if isinstance(text, bytes) else text
    try:
        value = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_read_float,
            object_pairs_hook=_read_object,
        )
    except RecursionError as exc:
        raise ValueError("it nests too deep") from exc
    if "\\ud" in text or "\\uD" in text:  # how else would half a surrogate pair come in
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as exc:
            raise ValueError("it holds text that is not Unicode") from exc
    return value


def is_too_deep(data: bytes) -> bool:
    """Whether JSON nests deeper than `MAX_DEPTH`; what is no JSON may be called either."""
    brackets = _STRING.sub(b"", data).translate(_ALIKE, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")  # the innermost level
    return brackets.count(b"[") == brackets.count(b"]") > 0


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _read_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        left = dict(pairs)
        twice = next(name for name, _ in pairs if left.pop(name, pairs) is pairs)
        raise ValueError(f"an object has the name {twice[:80]!r} twice")
    return found
