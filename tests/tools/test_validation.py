"""JSON Schema checks: the place and the reason, and nothing fetched."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tools.spec import JsonObject
from tools.validation import first_problem, schema_problem

POINT = {
    "type": "object",
    "properties": {"at": {"type": "array", "items": {"type": "integer", "minimum": 0}}},
    "required": ["at"],
}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"at": [1, 2]}, None),
        ({}, "$: 'at' is a required property"),
        ({"at": [1, -2]}, "$.at[1]: -2 is less than the minimum of 0"),
        ([], "$: [] is not of type 'object'"),
    ],
)
def test_a_problem_names_its_path(value: object, problem: str | None) -> None:
    assert first_problem(POINT, value) == problem


def test_long_values_are_cut_in_the_message() -> None:
    problem = first_problem({"type": "integer"}, "x" * 10_000)
    assert problem is not None
    assert len(problem) < 600
    assert problem.endswith("is not of type 'integer'")


MANY = 1_000_000


@pytest.mark.parametrize(
    ("schema", "item", "problem"),
    [
        ({"items": {"type": "string"}}, 1, "$["),
        ({"items": {"enum": ["a"]}, "maxItems": 5}, 1, "$: [1, 1, "),
        ({"uniqueItems": True, "maxItems": 5}, {}, "$: [{}, {}, "),
        ({"contains": {"type": "string"}, "maxItems": 5}, 1, "$: [1, 1, "),
        ({"prefixItems": [{"type": "null"}], "items": False, "maxItems": 5}, 1, "$: [1, 1, "),
    ],
)
def test_of_very_many_mismatches_few_are_looked_at(
    schema: JsonObject, item: object, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_checks = 0
    is_type = Draft202012Validator.is_type

    def count(self: Any, value: object, kind: str) -> bool:
        nonlocal num_checks
        num_checks += 1
        return bool(is_type(self, value, kind))

    monkeypatch.setattr(Draft202012Validator, "is_type", count)
    found = first_problem(schema, [item] * MANY)
    assert found is not None
    assert found.startswith(problem)
    assert num_checks < 1000
    assert first_problem({**schema, "maxItems": MANY}, [item] * 3) == (
        first_problem({key: schema[key] for key in schema if key != "maxItems"}, [item] * 3)
    )


@pytest.mark.parametrize(
    "schema", [{"type": "banana"}, {"properties": 3}, {"$schema": 3}, {"$schema": "http://["}]
)
def test_a_broken_schema_is_a_problem_of_its_own(schema: JsonObject) -> None:
    assert "the schema itself is invalid" in (schema_problem(schema) or "")
    assert first_problem(schema, {}) == schema_problem(schema)


def test_a_reference_outside_of_the_schema_is_never_fetched() -> None:
    schema = {"$ref": "http://127.0.0.1:1/secret.json"}
    assert first_problem(schema, {}) == (
        "$: the schema refers to 'http://127.0.0.1:1/secret.json', which is not part of it"
    )


def test_draft_7_schemas_mean_what_their_draft_says() -> None:
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "integer"}]}
    assert first_problem(schema, ["a"]) == "$[0]: 'a' is not of type 'integer'"


def test_decimals_are_divided_as_they_are_written() -> None:
    cents = {"multipleOf": 0.01}
    assert [first_problem(cents, price) for price in (19.99, 0.94, 3, 1e300, 10**400)] == [None] * 5
    assert first_problem(cents, 0.005) == "$: 0.005 is not a multiple of 0.01"
    assert first_problem(cents, float("inf")) == "$: inf is not a multiple of 0.01"
    assert first_problem({"items": {"multipleOf": 3}}, [6, 7]) == "$[1]: 7 is not a multiple of 3"


def nest(inner: object, num_levels: int, key: str | None = None) -> Any:
    """Put a value into lists, or objects with one key, that stand in each other."""
    for _ in range(num_levels):
        inner = [inner] if key is None else {key: inner}
    return inner


DEEP = [
    ({"type": "array", "items": {"$ref": "#"}}, nest([], 900)),
    ({"additionalProperties": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}}, nest({}, 900, "a")),
    ({"uniqueItems": True}, [nest(0, 900), nest(0, 900)]),
]


@pytest.mark.parametrize(("schema", "value"), DEEP)
def test_what_nests_too_deep_is_a_problem_and_no_crash(schema: JsonObject, value: object) -> None:
    problem = "$: it nests too deep to be checked; use fewer levels"
    assert first_problem(schema, value) == problem
    assert first_problem({"type": ["array", "object"]}, value) is None


def test_schema_that_nests_too_deep_is_a_problem_of_its_own() -> None:
    schema = nest({}, 5000, "items")
    problem = "$: the schema itself nests too deep to be checked; use fewer levels"
    assert schema_problem(schema) == first_problem(schema, {}) == problem
