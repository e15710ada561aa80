"""Which schemas are tried out in a process of their own before ours compiles them.

Only their content decides. The thresholds are measured: below them nothing we found takes our
process more than 150 ms or 40 MB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from runtime.grammar.schema import Schema, direct_subschemas, dump_json, num_bytes
from tools.spec import JsonObject

MAX_TRUSTED_BYTES = 32 * 1024
MAX_TRUSTED_OPTIONAL = 200
MAX_TRUSTED_ENUM = 5_000
MAX_TRUSTED_BRANCHES = 50
MAX_TRUSTED_NESTED_CHOICES = 4
MAX_TRUSTED_PATTERN_BYTES = 256
MAX_TRUSTED_REPETITIONS = 1_000
# Patterns of which several may have to hold at once: each one multiplies the time.
MAX_TRUSTED_PATTERNS = 6

_CHOICES = ("anyOf", "oneOf")
_JOINING = ("allOf", *_CHOICES, "$ref", "$dynamicRef", "dependentSchemas", "patternProperties")
_REPETITION = re.compile(r"\{(\d*),?(\d*)\}")


def find_suspicion(schema: Schema, text: str | None = None) -> str | None:
    """Return what in `schema` may be costly, by keyword and path, or None.

    `text` is what `dump_json` made of it, where that is known.
    """
    if isinstance(schema, bool):
        return None
    size = num_bytes(dump_json(schema) if text is None else text)
    if size > MAX_TRUSTED_BYTES:
        return f"the schema has {size} bytes"
    pattern_places: list[str] = []
    may_join = False
    pending: list[tuple[str, int, JsonObject]] = [("$", 0, schema)]
    while pending:
        path, num_choices, part = pending.pop()
        num_choices += any(keyword in part for keyword in _CHOICES)
        suspicion = next(_suspicions(part, path, num_choices), None)
        if suspicion is not None:
            return suspicion
        pattern_places += [path] * _num_patterns(part)
        may_join |= any(keyword in part for keyword in _JOINING)
        pending += [(path + at, num_choices, sub) for at, sub in direct_subschemas(part)]
    if may_join and len(pattern_places) > MAX_TRUSTED_PATTERNS:
        return (
            f"the schema has {len(pattern_places)} patterns and formats, one of them at"
            f" {pattern_places[-1]}, several of which may have to hold at once"
        )
    return None


def _suspicions(part: JsonObject, path: str, num_choices: int) -> Iterator[str]:
    enum, properties = part.get("enum"), part.get("properties")
    if isinstance(enum, list) and len(enum) > MAX_TRUSTED_ENUM:
        yield f"keyword 'enum' at {path} has {len(enum)} values"
    if isinstance(properties, dict) and len(properties) > MAX_TRUSTED_OPTIONAL:
        yield f"keyword 'properties' at {path} has {len(properties)} properties"
    for keyword in _CHOICES:
        branches = part.get(keyword)
        if isinstance(branches, list) and len(branches) > MAX_TRUSTED_BRANCHES:
            yield f"keyword {keyword!r} at {path} has {len(branches)} branches"
        if isinstance(branches, list) and num_choices > MAX_TRUSTED_NESTED_CHOICES:
            yield f"keyword {keyword!r} at {path} is nested {num_choices} times"
    patterns = part.get("patternProperties")
    named = patterns if isinstance(patterns, dict) else {}
    for keyword, pattern in (("pattern", part.get("pattern")), *_keyed(named)):
        if isinstance(pattern, str):
            yield from _of_pattern(pattern, f"keyword {keyword!r} at {path}")


def _keyed(named: JsonObject) -> Iterator[tuple[str, str]]:
    return (("patternProperties", name) for name in named)


def _of_pattern(pattern: str, where: str) -> Iterator[str]:
    size = num_bytes(pattern)
    if size > MAX_TRUSTED_PATTERN_BYTES:
        yield f"{where} has {size} bytes"
    counts = [int(count) for pair in _REPETITION.findall(pattern) for count in pair if count]
    product = 1
    for count in counts:
        product *= max(count, 1)
    if product > MAX_TRUSTED_REPETITIONS:
        yield f"{where} repeats up to {product} times"


def _num_patterns(part: JsonObject) -> int:
    patterns = part.get("patternProperties")
    named = len(patterns) if isinstance(patterns, dict) else 0
    return named + ("pattern" in part) + ("format" in part)
