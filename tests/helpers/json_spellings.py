"""The texts of one JSON value that differ in nothing but the order of keys."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

MAX_SPELLINGS = 200


def spellings(value: Any) -> Iterator[str]:
    """Yield compact texts of `value`, whole numbers as integers, at most `MAX_SPELLINGS`."""
    for ordered in itertools.islice(_orders(value), MAX_SPELLINGS):
        yield json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))


def whole(value: Any) -> Any:
    """Return `value` with 1.0 written as 1, which JSON Schema does not tell apart."""
    if isinstance(value, list):
        return [whole(item) for item in value]
    if isinstance(value, dict):
        return {name: whole(item) for name, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _orders(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from map(list, itertools.product(*(_few(item) for item in value)))
    elif isinstance(value, dict):
        for names in itertools.permutations(value):
            for items in itertools.product(*(_few(value[name]) for name in names)):
                yield dict(zip(names, items, strict=True))
    else:
        yield value


def _few(value: Any) -> list[Any]:
    return list(itertools.islice(_orders(value), 24))
