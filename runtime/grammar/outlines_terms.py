"""Output types of `outlines` as languages: a JSON Schema, a pattern or a Lark grammar.

Importing it imports outlines (0.3 s, 1 s beside transformers), so only its users do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from llguidance import LLMatcher
from outlines import grammars, types
from outlines.types import dsl

from runtime.errors import UnsupportedSchemaError
from runtime.grammar.notation import check_regex, to_lark
from tools.spec import JsonObject

WriteSchema = Callable[[JsonObject, str | None], str]
"""Writes a JSON Schema for the compiler, given its white space as a pattern or None."""

_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DAY = (
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
# outlines' own patterns have a 31 February and digits of any script.
_DATE = f"(?:{_YEAR}-{_DAY}|{_LEAP_YEAR}-02-29)"
_EXACT = (
    (types.datetime.pattern, f"{_DATE} {types.time.pattern}"),
    (types.date.pattern, _DATE),
)
_SUFFIXES: Mapping[type[dsl.Term], str] = {
    dsl.Sequence: "",
    dsl.KleeneStar: "*",
    dsl.KleenePlus: "+",
    dsl.Optional: "?",
    dsl.QuantifyExact: "{{{0.count}}}",
    dsl.QuantifyMinimum: "{{{0.min_count},}}",
    dsl.QuantifyMaximum: "{{0,{0.max_count}}}",
    dsl.QuantifyBetween: "{{{0.min_count},{0.max_count}}}",
}


def read_output_type(
    output_type: Any, write_schema: WriteSchema
) -> tuple[Literal["json_schema", "regex", "lark"], str]:
    """Return the kind and the text of the language of an output type.

    Raises:
        UnsupportedSchemaError: outlines knows no such type, or it cannot be constrained.
    """
    try:
        term = dsl.python_types_to_terms(output_type)
        schema = _schema_of(term)
        if schema is not None:
            return "json_schema", write_schema(*schema)
        if isinstance(term, dsl.CFG):
            return "lark", to_lark(term.definition)
        if _is_regular(term):
            pattern = _pattern(term)
            check_regex(pattern)
            return "regex", pattern
        return "lark", f"start: {_lark(term, write_schema)}"
    # pydantic's refusals are RuntimeErrors; so is outlines' of endless recursion.
    except (TypeError, ValueError, RuntimeError) as exc:
        shown = " ".join(repr(output_type).split())[:200]
        raise UnsupportedSchemaError(f"{shown} is no output type: {_reason(exc)}") from exc


def _reason(exc: Exception) -> str:
    sentence, _, _ = str(exc).partition("\n")[0].partition(" Please open an issue")
    return sentence


def _schema_of(term: dsl.Term) -> tuple[JsonObject, str | None] | None:
    """The schema and the white space of a term that is one."""
    if isinstance(term, dsl.JsonSchema):
        return json.loads(term.schema), term.whitespace_pattern
    if isinstance(term, dsl.CFG) and term.definition == grammars.json:  # the type `dict`
        return {"type": "object"}, None
    return None


def _is_regular(term: dsl.Term) -> bool:
    if isinstance(term, dsl.JsonSchema | dsl.CFG):
        return False
    return all(_is_regular(part) for part in _parts(term))


def _parts(term: dsl.Term) -> Sequence[dsl.Term]:
    if isinstance(term, dsl.Alternatives | dsl.Sequence):
        return term.terms
    if isinstance(term, dsl.Choice):
        return [dsl.python_types_to_terms(item) for item in term.items]
    inner = getattr(term, "term", None)
    return [] if inner is None else [inner]


def _pattern(term: dsl.Term) -> str:
    pattern = dsl.to_regex(term)
    for loose, exact in _EXACT:
        pattern = pattern.replace(loose, exact)
    return pattern


def _lark(term: dsl.Term, write_schema: WriteSchema) -> str:
    """Write a term that has JSON Schemas in it as a Lark expression.

    outlines' own `to_regex` would make patterns of the schemas, which lose their bounds.
    """
    if (schema := _schema_of(term)) is not None:
        return f"%json {write_schema(*schema)}"
    if _is_regular(term):
        return _lark_regex(_pattern(term))
    inner = [_lark(part, write_schema) for part in _parts(term)]
    if isinstance(term, dsl.CFG):
        raise TypeError("a grammar (CFG) has to stand alone")
    if isinstance(term, dsl.Alternatives | dsl.Choice):
        return f"({' | '.join(inner)})"
    return f"({' '.join(inner)}){_SUFFIXES[type(term)].format(term)}"


def _lark_regex(pattern: str) -> str:
    check_regex(pattern)
    written = json.loads(LLMatcher.grammar_from_regex(pattern))
    lark: str = written["grammars"][0]["lark_grammar"]
    return lark.removeprefix("start: ")
