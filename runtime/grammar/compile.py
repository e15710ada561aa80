"""Output types and schemas to compiled grammars, under explicit limits.

Compiling takes 0.5 to 100 ms and releases the GIL: call it from a worker thread. A compiled
grammar is a template; each sequence gets a cheap copy.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import llguidance
import numpy as np

from runtime.errors import UnsupportedSchemaError
from runtime.grammar.diagnosis import find_fault
from runtime.grammar.matcher import MatcherConstraint
from runtime.grammar.schema import check_bounds, dump_json
from runtime.grammar.vocabulary import Vocabulary
from tools.spec import JsonObject

GrammarKind = Literal["lark", "json_schema", "regex"]

MAX_GRAMMAR_BYTES = 4 * 1024 * 1024
NUM_PROBED_STEPS = 8

# What hostile schemas may cost: an honest one stays far below each of these.
_LIMITS = llguidance.LLParserLimits(
    max_items_in_row=2_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)


@dataclass(frozen=True, slots=True)
class GrammarSource:
    """A language, not compiled yet.

    Attributes:
        kind: how `text` is written. Lark is llguidance's dialect.
        text: the grammar, the JSON Schema as JSON, or the regular expression.
        parts: of a Lark grammar, other languages it refers to as `@name`.
    """

    kind: GrammarKind
    text: str
    parts: tuple[tuple[str, GrammarSource], ...] = ()


@dataclass(frozen=True, slots=True, weakref_slot=True)
class CompiledGrammar:
    """A grammar bound to a vocabulary, ready to be copied per sequence."""

    matcher: llguidance.LLMatcher
    vocabulary: Vocabulary

    def constraint(self) -> MatcherConstraint:
        """Return a fresh constraint at the start of the language (2 to 20 microseconds)."""
        return MatcherConstraint(self.matcher.deep_copy(), self.vocabulary)


class GrammarCache:
    """Compiled grammars of one vocabulary by content, bounded by the bytes of their sources.

    Safe to call from several threads; the least recently used grammars go first.
    """

    def __init__(self, vocabulary: Vocabulary, max_bytes: int = 64 * 1024 * 1024) -> None:
        self.vocabulary = vocabulary
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._entries: OrderedDict[bytes, tuple[CompiledGrammar, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get_or_compile(self, source: GrammarSource) -> CompiledGrammar:
        """Return the compiled `source`.

        Raises:
            UnsupportedSchemaError: as `compile_grammar`.
        """
        serialized = _serialize(source)
        key = hashlib.blake2b(serialized.encode(), digest_size=16).digest()
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key][0]
        compiled = compile_grammar(source, self.vocabulary)
        with self._lock:
            if key not in self._entries:
                self._entries[key] = (compiled, len(serialized))
                self._num_bytes += len(serialized)
            while self._num_bytes > self._max_bytes and len(self._entries) > 1:
                _, (_, num_bytes) = self._entries.popitem(last=False)
                self._num_bytes -= num_bytes
        return compiled


def from_json_schema(schema: JsonObject, whitespace_pattern: str | None = None) -> GrammarSource:
    """Language of the JSON texts that satisfy `schema`.

    Without a `whitespace_pattern` they are compact: free white space lets a model write
    blanks until its budget is spent.

    Raises:
        UnsupportedSchemaError: the schema is too large or not JSON.
    """
    check_bounds(schema)
    return GrammarSource("json_schema", dump_json(with_whitespace(schema, whitespace_pattern)))


def from_output_type(output_type: Any) -> GrammarSource:
    """Language of an `outlines` output type.

    Takes whatever outlines takes: a pydantic model, a dataclass, `Literal`, an `Enum`, a
    function, `Regex`, `CFG`, `JsonSchema`; also a JSON Schema as a dictionary.

    Raises:
        UnsupportedSchemaError: outlines knows no such type, or the schema is too large.
    """
    if isinstance(output_type, GrammarSource):
        return output_type
    if isinstance(output_type, dict):
        return from_json_schema(output_type)
    from outlines.types import CFG, JsonSchema
    from outlines.types.dsl import python_types_to_terms, to_regex

    try:
        term = python_types_to_terms(output_type)
        if isinstance(term, CFG):
            return GrammarSource("lark", llguidance.grammar_from("grammar", term.definition))
        if not isinstance(term, JsonSchema):
            return GrammarSource("regex", to_regex(term))
        schema = json.loads(term.schema)
    except (TypeError, ValueError, NotImplementedError) as exc:
        raise UnsupportedSchemaError(f"{output_type!r} is no output type: {exc}") from exc
    return from_json_schema(schema, term.whitespace_pattern)


def with_whitespace(schema: JsonObject, pattern: str | None = None) -> JsonObject:
    """Return `schema` with the compiler's options set: white space as `pattern`, or none.

    Options that came with the schema are dropped; they could make the grammar loose.
    """
    options = {"whitespace_flexible": False} if pattern is None else {"whitespace_pattern": pattern}
    return {**schema, "x-guidance": options}


def compile_grammar(source: GrammarSource, vocabulary: Vocabulary) -> CompiledGrammar:
    """Compile under limits and probe the first steps.

    Raises:
        UnsupportedSchemaError: the language is unsupported, empty or too expensive. Of a JSON
            Schema the message names the keyword at fault and its path.
    """
    serialized = _serialize(source)
    if len(serialized) > MAX_GRAMMAR_BYTES:
        raise UnsupportedSchemaError(
            f"the grammar has {len(serialized)} characters; at most {MAX_GRAMMAR_BYTES} are taken"
        )
    compiled = CompiledGrammar(_build_matcher(serialized, vocabulary), vocabulary)
    problem = _probe(compiled)
    if problem is None:
        return compiled
    if source.kind != "json_schema":
        raise UnsupportedSchemaError(f"the grammar is not supported: {problem}")

    def fails(schema: JsonObject) -> bool:
        text = _serialize(GrammarSource("json_schema", dump_json(schema)))
        return _probe(CompiledGrammar(_build_matcher(text, vocabulary), vocabulary)) is not None

    raise UnsupportedSchemaError(_explain(json.loads(source.text), problem, fails))


def _explain(schema: JsonObject, problem: str, fails: Callable[[JsonObject], bool]) -> str:
    keyword, path = find_fault(schema, fails)
    if keyword is None:
        return f"the schema at {path} is not supported: {problem}"
    return f"keyword {keyword!r} at {path} is not supported: {problem}"


def _build_matcher(serialized: str, vocabulary: Vocabulary) -> llguidance.LLMatcher:
    return llguidance.LLMatcher(vocabulary.tokenizer, serialized, log_level=0, limits=_LIMITS)


def _probe(compiled: CompiledGrammar) -> str | None:
    """Walk the first steps; return why they cannot be taken.

    Some grammars compile and fail, or turn out empty, when their first masks are filled.
    """
    constraint = compiled.constraint()
    mask = np.zeros((1, compiled.vocabulary.num_mask_words), dtype=np.int32)
    for _ in range(NUM_PROBED_STEPS):
        constraint.fill(mask, 0)
        if constraint.state == "failed":
            return constraint.error
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
        if not allowed.size:
            return "no output satisfies it"
        going_on = np.setdiff1d(allowed, list(compiled.vocabulary.stop_ids))
        if not going_on.size:
            break
        constraint.advance(constraint.forced() or [int(going_on[0])])
    return None


def _serialize(source: GrammarSource) -> str:
    """Write llguidance's list of grammars; the first one is the start."""
    grammars = [("start", source), *source.parts]
    try:
        entries = [{"name": name, **_entry(part)} for name, part in grammars]
        text = json.dumps({"grammars": entries}, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError as exc:
        raise UnsupportedSchemaError(f"the grammar is not Unicode text: {exc}") from exc
    return text


def _entry(source: GrammarSource) -> JsonObject:
    if source.kind == "json_schema":
        return {"json_schema": json.loads(source.text)}
    if source.kind == "regex":
        written = json.loads(llguidance.LLMatcher.grammar_from_regex(source.text))
        return {"lark_grammar": written["grammars"][0]["lark_grammar"]}
    return {"lark_grammar": source.text}
