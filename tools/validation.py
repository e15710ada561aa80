"""Does a value match a JSON Schema? Compiled once per schema; never fetches a reference."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Any

import jsonschema
from jsonschema import validators
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing.exceptions import Unresolvable

from tools.plain_schema import is_plain
from tools.schema_documents import known_documents
from tools.spec import JsonObject

_MAX_MESSAGE_CHARACTERS = 500
_MAX_COMPARED = 100
"""Mismatches among which the most telling one is looked for: a list may have millions."""

_OF_ITEMS = (
    *("items", "prefixItems", "additionalItems", "unevaluatedItems", "contains", "uniqueItems"),
)

Check = Callable[[Validator, Any, Any, JsonObject], Iterator[jsonschema.ValidationError] | None]


@dataclass(frozen=True, slots=True)
class Problem:
    """A mismatch: `message` as `$.path: what`, and the keys and indices that lead to it."""

    message: str
    path: tuple[str | int, ...] = ()


def first_problem(schema: JsonObject, value: Any) -> str | None:
    """Return the message of `find_problem`."""
    problem = find_problem(schema, value)
    return None if problem is None else problem.message


def find_problem(schema: JsonObject, value: Any) -> Problem | None:
    """Return the most telling of the first mismatches, or None if `value` matches.

    A schema that is itself broken, or refers to something outside of itself, is a problem too,
    and so is what nests hundreds of levels deep where the schema looks into each.
    """
    if (broken := schema_problem(schema)) is not None:
        return Problem(broken)
    try:
        errors = _compile(_canonical(schema)).iter_errors(value)
        error = jsonschema.exceptions.best_match(islice(errors, _MAX_COMPARED))
    except Unresolvable as exc:
        return Problem(f"$: the schema refers to {exc.ref!r}, which is not part of it")
    except RecursionError:
        return Problem("$: it nests too deep to be checked; use fewer levels")
    if error is None:
        return None
    message = f"{error.json_path}: {_shorten(error.message)}"
    return Problem(message, tuple(error.absolute_path))


def schema_problem(schema: JsonObject) -> str | None:
    """Return what makes `schema` itself invalid, or None."""
    if not isinstance(dialect := schema.get("$schema", ""), str):
        return f"$: the schema itself is invalid at $['$schema']: {dialect!r} is not a string"
    try:
        _compile(_canonical(schema))
    except jsonschema.SchemaError as exc:
        return f"$: the schema itself is invalid at {exc.json_path}: {_shorten(exc.message)}"
    except ValueError as exc:  # its `$schema` may be no address
        return f"$: the schema itself is invalid: {exc}"
    except RecursionError:
        return "$: the schema itself nests too deep to be checked; use fewer levels"
    return None


def _canonical(schema: JsonObject) -> str:
    return json.dumps(schema, sort_keys=True)


@functools.lru_cache(maxsize=1024)
def _compile(canonical: str) -> Validator:
    schema = json.loads(canonical)
    validator_class = validator_for(schema, default=jsonschema.Draft202012Validator)
    if not is_plain(schema):
        validator_class.check_schema(schema)
    known = validator_class.VALIDATORS
    checks = {name: _unless_too_long(known[name]) for name in _OF_ITEMS if name in known}
    # An explicit registry: the default one would download what a `$ref` names.
    exact: Validator = validators.extend(  # type: ignore[no-untyped-call]  # its stub has no types
        validator_class, {"multipleOf": _multiple_of, **checks}
    )(schema, registry=known_documents())
    return exact


def _unless_too_long(check: Check) -> Check:
    """Look into no list that has more than `maxItems`: it is wrong already."""

    def checked(
        validator: Validator, wanted: Any, value: Any, schema: JsonObject
    ) -> Iterator[jsonschema.ValidationError]:
        if not isinstance(value, list) or len(value) <= schema.get("maxItems", math.inf):
            yield from check(validator, wanted, value, schema) or ()

    return checked


def _multiple_of(
    validator: Validator, divisor: float, value: Any, schema: JsonObject
) -> Iterator[jsonschema.ValidationError]:
    """Divide decimals as they are written: in binary, 19.99 is no multiple of 0.01."""
    if validator.is_type(value, "number") and not _is_multiple(value, divisor):
        yield jsonschema.ValidationError(f"{value!r} is not a multiple of {divisor!r}")


def _is_multiple(value: float, divisor: float) -> bool:
    is_finite = isinstance(value, int) or math.isfinite(value)
    return is_finite and _fraction(value) % _fraction(divisor) == 0


def _fraction(value: float) -> Fraction:
    return Fraction(value if isinstance(value, int) else repr(value))


def _shorten(message: str) -> str:
    if len(message) <= _MAX_MESSAGE_CHARACTERS:
        return message
    half = _MAX_MESSAGE_CHARACTERS // 2
    return f"{message[:half]} … {message[-half:]}"
