"""Finds the keyword at fault in a schema that the grammar compiler refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from runtime.grammar.schema import direct_subschemas
from tools.spec import JsonObject

MAX_TRIALS = 200
_KEPT_FROM_ROOT = ("$defs", "definitions", "x-guidance")


def find_fault(schema: JsonObject, fails: Callable[[JsonObject], bool]) -> tuple[str | None, str]:
    """Return (keyword, path) of the smallest part of `schema` that fails by itself.

    The keyword is one whose removal mends the part, or None when there is no single one.
    `fails` is tried at most `MAX_TRIALS` times.
    """
    shared = {key: schema[key] for key in _KEPT_FROM_ROOT if key in schema}
    trials_left = MAX_TRIALS

    def is_faulty(part: JsonObject) -> bool:
        nonlocal trials_left
        trials_left -= 1
        return trials_left >= 0 and fails({**shared, **part})

    path, seen = "$", {"$"}
    while True:
        parts = ((at, part) for at, part in _parts(schema, path, shared) if at not in seen)
        found = next(((at, part) for at, part in parts if is_faulty(part)), None)
        if found is None:
            break
        path, schema = found
        seen.add(path)
    for keyword in schema:
        rest = {key: value for key, value in schema.items() if key != keyword}
        if keyword not in _KEPT_FROM_ROOT and not is_faulty(rest) and trials_left >= 0:
            return keyword, path
    return None, path


def _parts(schema: JsonObject, path: str, shared: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    """Sub-schemas in use, that is, definitions only where they are referred to."""
    for below, part in direct_subschemas(schema):
        if not below.startswith((".$defs.", ".definitions.")):
            yield path + below, part
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        section, _, name = reference.removeprefix("#/").partition("/")
        target = shared.get(section, {}).get(name) if section in _KEPT_FROM_ROOT else None
        if isinstance(target, dict):
            yield f"$.{section}.{name}", target
