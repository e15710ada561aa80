"""How much of a schema the grammar enforces: strictly, all but `oneOf`, or what it can.

Whatever the level, every finished value is to be checked with `tools.validation.first_problem`
against the schema as it came: it decides what the grammar leaves open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import llguidance

from runtime.errors import UnsupportedSchemaError
from runtime.grammar.limits import LIMITS
from runtime.grammar.normal import Normal, normalise
from runtime.grammar.schema import Schema, dump_json
from runtime.grammar.suspicion import find_suspicion
from tools.spec import JsonObject

SchemaLevel = Literal["strict", "coerced", "lenient"]
"""strict: the grammar enforces the schema; coerced: it takes a value that satisfies several
alternatives of a `oneOf`; lenient: keywords that no grammar expresses are left out, too."""

TryOut = Callable[[JsonObject], tuple[str | None, Sequence[str]]]
"""Compiles what `options_of` returned; says what the problem is, if there is one, and warnings."""

_UNMERGEABLE = {
    "patternProperty regexes": frozenset({"patternProperties"}),
    "min/maxProperties": frozenset({"minProperties", "maxProperties"}),
}
MAX_JUDGED_ONE_OFS = 32


@dataclass(frozen=True, slots=True)
class SchemaSupport:
    """How much of a schema the grammar enforces.

    Attributes:
        level: the strictest that can be compiled.
        dropped: what only the check at the end enforces: "oneOf at $.properties.x", "not at $".
            An unknown `format` is among them although nothing enforces it.
    """

    level: SchemaLevel
    dropped: tuple[str, ...] = ()


def climb(schema: Schema, normal: Normal, try_out: TryOut) -> SchemaSupport | str:
    """Find the strictest level at which `try_out` takes `schema`, or why it takes it at none."""
    levels: tuple[SchemaLevel, ...] = ("lenient",) if normal.drops else get_args(SchemaLevel)
    problem: str | None = None
    for level in levels:
        if level == "lenient":
            normal = loosen(schema, normal)
        problem, warnings = try_out(options_of(normal, level))
        if problem is None:
            dropped = dict.fromkeys(map(str, normal.drops))
            return SchemaSupport(level, (*dropped, *name_warnings(normal, warnings)))
    assert problem is not None
    return problem


def with_options(
    schema: Schema,
    *,
    level: SchemaLevel = "strict",
    spaced: bool = False,
    whitespace_pattern: str | None = None,
) -> JsonObject:
    """Return what the compiler gets for `schema`, its options included.

    Options that came with the schema are dropped; they could make the grammar loose.

    Args:
        schema: bounded by `check_bounds`.
        level: what may be left to the final check; see `grade_schema`.
        spaced: write `", "` and `": "` between items, keys and values; otherwise nothing.
        whitespace_pattern: regular expression of what may stand there instead.

    Raises:
        UnsupportedSchemaError: the schema is malformed, or `level` is not lenient and a keyword
            cannot be expressed; the message names it and its path.
    """
    normal = normalise(schema)
    if level == "lenient":
        normal = loosen(schema, normal)
    return options_of(normal, level, spaced=spaced, whitespace_pattern=whitespace_pattern)


def loosen(schema: Schema, normal: Normal) -> Normal:
    """Return `normal` without what the compiler cannot merge or would get wrong if lenient.

    Asks the compiler, except for a schema that it should not see unprobed.
    """
    without: frozenset[str] = frozenset()
    is_suspect = find_suspicion(schema) is not None
    for message, keywords in _UNMERGEABLE.items():
        options = {**normal.schema, "x-guidance": {"lenient": True}}
        if is_suspect or any(message in text for text in compiler_messages(options)):
            without |= keywords
            normal = normalise(schema, without)
    return normal


def options_of(
    normal: Normal,
    level: SchemaLevel,
    *,
    spaced: bool = False,
    whitespace_pattern: str | None = None,
) -> JsonObject:
    """As `with_options`, for a schema already rewritten."""
    if normal.drops and level != "lenient":
        drop = normal.drops[0]
        raise UnsupportedSchemaError(
            f"keyword {drop.keyword!r} at {drop.path} is not supported: {drop.reason}"
        )
    options: JsonObject = {"whitespace_flexible": False}
    if whitespace_pattern is not None:
        options = {"whitespace_pattern": whitespace_pattern}
    if spaced:
        options |= {"item_separator": ", ", "key_separator": ": "}
    if normal.has_open_objects:
        # A name spelled with escapes would pass for one that is not listed.
        options["json_allowed_escapes"] = 'nrbtf\\"'
    if level != "strict":
        options["coerce_one_of"] = True
    if level == "lenient":
        options["lenient"] = True
    return {**normal.schema, "x-guidance": options}


def level_of(options: JsonObject) -> SchemaLevel:
    """Return the level of what `with_options` returned."""
    given = options.get("x-guidance", {})
    if given.get("lenient"):
        return "lenient"
    return "coerced" if given.get("coerce_one_of") else "strict"


def loose_one_ofs(normal: Normal) -> list[str]:
    """Paths of the `oneOf`s whose alternatives the compiler cannot tell apart.

    Judges each by itself, unless there are more than `MAX_JUDGED_ONE_OFS` or the schema should
    not be compiled unprobed: then all count as loose.
    """
    parts = [part for _, part in normal.one_ofs]
    if len(parts) > MAX_JUDGED_ONE_OFS or find_suspicion(normal.schema) is not None:
        return [path for path, _ in normal.one_ofs]
    loose = []
    for path, part in normal.one_ofs:
        others = [other for other in parts if other is not part]
        if compiler_messages(_coerce(normal.schema, {id(other) for other in others})):
            loose.append(path)
    return loose


def name_warnings(normal: Normal, warnings: Sequence[str]) -> list[str]:
    """Turn the compiler's warnings, which name no place, into "keyword at path"."""
    named: list[str] = []
    for warning in dict.fromkeys(warnings):
        if warning.startswith("oneOf "):
            named += [f"oneOf at {path}" for path in loose_one_ofs(normal)]
        else:
            named.append(f"{warning} at $")
    return named


def compiler_messages(schema: JsonObject) -> list[str]:
    """What the compiler says of `schema`, with the options it comes with: errors or warnings."""
    grammar = dump_json({"grammars": [{"json_schema": schema}]})
    return llguidance.LLMatcher.validate_grammar_with_warnings(grammar, limits=LIMITS)[1]


def _coerce(value: Any, targets: set[int]) -> Any:
    """Copy `value` with `oneOf` as `anyOf` in the objects whose ids are `targets`."""
    if isinstance(value, list):
        return [_coerce(item, targets) for item in value]
    if not isinstance(value, dict):
        return value
    if id(value) not in targets:
        return {name: _coerce(item, targets) for name, item in value.items()}
    # An `anyOf` next to it stays what it is.
    rest = {name: _coerce(item, targets) for name, item in value.items() if name != "oneOf"}
    coerced = {"anyOf": _coerce(value["oneOf"], targets)}
    return {**rest, "allOf": [*rest.get("allOf", ()), coerced]}
