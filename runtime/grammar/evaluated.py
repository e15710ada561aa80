"""Which properties and items a schema's own keywords already cover, for `unevaluated…`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from runtime.grammar.references import Document, Place
from tools.spec import JsonObject

# Stands for a schema that is known only where it is reached.
_ANYTHING: JsonObject = {"additionalProperties": True, "items": True}


@dataclass(slots=True)
class Evaluated:
    """What is covered at most; exactly that unless it depends on the instance.

    Attributes:
        names, patterns: covered properties, in the order of the schema.
        num_items: covered items, from the first.
        has_all: every property, or every item, is covered.
        is_exact: no branch that may not apply contributed.
    """

    names: dict[str, None] = field(default_factory=dict)
    patterns: dict[str, None] = field(default_factory=dict)
    num_items: int = 0
    has_all: bool = False
    is_exact: bool = True


def evaluated_properties(schema: JsonObject, place: Place, document: Document) -> Evaluated:
    """Collect the properties that `schema` covers besides its `unevaluatedProperties`."""
    found = Evaluated()
    for part, is_sure, is_start in _parts_in_place(schema, place, document):
        names, patterns = part.get("properties"), part.get("patternProperties")
        found.names |= dict.fromkeys(names if isinstance(names, dict) else ())
        found.patterns |= dict.fromkeys(patterns if isinstance(patterns, dict) else ())
        has_all = "additionalProperties" in part or (
            not is_start and "unevaluatedProperties" in part
        )
        found.has_all |= has_all
        found.is_exact &= is_sure or not (names or patterns or has_all)
    return found


def evaluated_items(schema: JsonObject, place: Place, document: Document) -> Evaluated:
    """Collect the items that `schema` covers besides its `unevaluatedItems`."""
    found = Evaluated()
    for part, is_sure, is_start in _parts_in_place(schema, place, document):
        prefix, items = part.get("prefixItems"), part.get("items")
        if place.draft < 2020 and isinstance(items, list):
            prefix, items = items, part.get("additionalItems")
        num_items = len(prefix) if isinstance(prefix, list) else 0
        found.num_items = max(found.num_items, num_items)
        has_all = items is not None or (not is_start and "unevaluatedItems" in part)
        contains = place.draft >= 2020 and "contains" in part
        found.has_all |= has_all or contains
        found.is_exact &= (is_sure or not (num_items or has_all)) and not contains
    return found


def _parts_in_place(
    schema: JsonObject, place: Place, document: Document
) -> Iterator[tuple[JsonObject, bool, bool]]:
    """Yield (schema, whether it surely applies, whether it is `schema`) of all in its place."""
    pending: list[tuple[Any, Place, bool]] = [(schema, place, True)]
    seen: set[tuple[int, bool]] = set()
    while pending:
        part, at, is_sure = pending.pop()
        if not isinstance(part, dict) or (id(part), is_sure) in seen:
            continue
        seen.add((id(part), is_sure))
        yield part, is_sure, part is schema
        pending += [(sub, at.entering(sub), is_sure) for sub in _schemas(part.get("allOf"))]
        for keyword in ("anyOf", "oneOf"):
            pending += [(sub, at.entering(sub), False) for sub in _schemas(part.get(keyword))]
        for keyword in ("if", "then", "else"):
            pending += [(sub, at.entering(sub), False) for sub in _schemas([part.get(keyword)])]
        dependent = part.get("dependentSchemas")
        if isinstance(dependent, dict):
            pending += [(sub, at.entering(sub), False) for sub in _schemas([*dependent.values()])]
        if "$ref" in part:
            pending.append((*document.follow(part["$ref"], at), is_sure))
        if "$dynamicRef" in part:
            if document.is_static(part["$dynamicRef"], at):
                pending.append((*document.follow(part["$dynamicRef"], at), is_sure))
            else:
                yield _ANYTHING, False, False
        if "$recursiveRef" in part:
            yield _ANYTHING, False, False


def _schemas(value: Any) -> list[JsonObject]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
