"""What is called plain satisfies the metaschema, and ordinary schemas are called plain."""

from __future__ import annotations

import copy
import random
from typing import Any

import jsonschema
import pytest

from tests.helpers.hostile_schemas import HOSTILE
from tests.helpers.random_schemas import random_schema, random_value
from tools.plain_schema import DRAFTS, MAX_LEVELS, is_plain
from tools.spec import JsonObject

ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    0.5,
    "",
    "[",
    "string",
    [],
    [1],
    ["a", "a"],
    ["null"],
    {},
    {"a": 1},
)


@pytest.mark.parametrize("seed", range(20))
def test_random_schemas_are_plain_and_what_is_plain_after_a_change_is_still_valid(
    seed: int,
) -> None:
    rng = random.Random(seed)
    num_plain = 0
    for _ in range(40):
        schema = random_schema(rng)
        assert is_plain(schema)
        changed = copy.deepcopy(schema)
        _change(rng, changed)
        if is_plain(changed):
            num_plain += 1
            for draft in (jsonschema.Draft202012Validator, jsonschema.Draft7Validator):
                draft.check_schema(changed)
    assert num_plain > 0


@pytest.mark.parametrize("name", HOSTILE)
def test_no_hostile_schema_is_taken_for_valid_that_is_not(name: str) -> None:
    schema = HOSTILE[name]
    if is_plain(schema):
        jsonschema.Draft202012Validator.check_schema(schema)


def test_only_known_drafts_and_shallow_schemas_are_plain() -> None:
    assert all(is_plain({"$schema": draft}) for draft in DRAFTS)
    assert not is_plain({"$schema": "http://json-schema.org/draft-04/schema#"})
    nested: JsonObject = {}
    for _ in range(MAX_LEVELS - 1):
        nested = {"items": nested}
    assert is_plain(nested)
    assert not is_plain({"items": nested})


def _change(rng: random.Random, schema: JsonObject) -> None:
    """Put something else in some place of `schema`."""
    holders = _holders(schema)
    holder = rng.choice(holders)
    key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    holder[key] = rng.choice((*ODD_VALUES, random_value(rng)))


def _holders(value: Any) -> list[Any]:
    """All objects and arrays in `value` that hold something."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value] * bool(inner) + [one for part in inner for one in _holders(part)]
