"""Output types and schemas to compiled grammars, under explicit limits.

Compiling takes 0.5 to 100 ms and releases the GIL: call it from a worker thread. A compiled
grammar is a template; each sequence gets a cheap copy.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import llguidance
import numpy as np

from runtime.errors import CapacityError, UnsupportedSchemaError
from runtime.grammar.bounded_cache import BoundedCache
from runtime.grammar.diagnosis import find_fault
from runtime.grammar.ladder import (
    SchemaLevel,
    SchemaSupport,
    climb,
    level_of,
    with_options,
)
from runtime.grammar.limits import LIMITS
from runtime.grammar.matcher import MatcherConstraint
from runtime.grammar.normal import normalise
from runtime.grammar.notation import check_regex, to_lark
from runtime.grammar.probe import Prober, Verdict, probe_grammar
from runtime.grammar.schema import (
    Schema,
    check_bounds,
    close_objects,
    dump_json,
    write_schema,
)
from runtime.grammar.suspicion import find_suspicion
from runtime.grammar.vocabulary import Vocabulary
from tools.spec import JsonObject
from tools.validation import schema_problem

Probe = Callable[[str], Verdict]
GrammarKind = Literal["lark", "json_schema", "regex"]

MAX_GRADE_BYTES = 4 * 1024 * 1024
MAX_GRAMMAR_BYTES = 4 * 1024 * 1024
NUM_PROBED_STEPS = 8


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

    def warm(self, token_ids: Sequence[int]) -> int:
        """Fill the masks along a likely output; return how many of its tokens are legal.

        Copies share the lexer states that this finds, so that a request's first masks are fast:
        at 49k tokens and 300 tools the slowest takes 0.1 instead of 0.2 ms, and 0.4 instead of
        0.8 ms where free text is allowed.
        """
        constraint = self.constraint()
        mask = np.zeros((1, self.vocabulary.num_mask_words), dtype=np.int32)
        for index, token_id in enumerate(token_ids):
            constraint.fill(mask, 0)
            if constraint.advance([token_id]) == 0:
                return index
        return len(token_ids)


class GrammarCache:
    """Compiled grammars and grades of one vocabulary by content, bounded by their memory.

    Safe to call from several threads; the least recently used grammars go first.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        max_bytes: int = 128 * 1024 * 1024,
        probe: Probe | None = None,
    ) -> None:
        self.vocabulary = vocabulary
        self._probe = probe or Prober()
        self._compiled: BoundedCache[CompiledGrammar] = BoundedCache(max_bytes)
        self._grades: BoundedCache[SchemaSupport | str] = BoundedCache(MAX_GRADE_BYTES)
        self._verdicts: BoundedCache[Verdict] = BoundedCache(MAX_GRADE_BYTES)
        self._probing = threading.Lock()

    def get_or_compile(self, source: GrammarSource) -> CompiledGrammar:
        """Return the compiled `source`.

        Raises:
            UnsupportedSchemaError, CapacityError: as `compile_grammar`.
        """
        serialized = _serialize(source)
        key = _digest(serialized)
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = compile_grammar(source, self.vocabulary, self._probe_once)
            self._compiled.put(key, compiled, _compiled_bytes(serialized))
        return compiled

    def grade(self, schema: Schema, text: str | None = None) -> SchemaSupport:
        """Return how much of a schema with closed objects a grammar enforces.

        Refusals are remembered, too. `text` is what `write_schema` made of the schema, where
        that is known.

        Raises:
            UnsupportedSchemaError, CapacityError: as `grade_schema`.
        """
        text = write_schema(schema) if text is None else text
        key = _digest(text)
        grade = self._grades.get(key)
        if grade is None:
            try:
                grade = grade_schema(schema, self.vocabulary, self._probe_once, text, closes=True)
            except UnsupportedSchemaError as exc:
                grade = str(exc)
            self._grades.put(key, grade, len(key) + len(str(grade)))
        if isinstance(grade, str):
            raise UnsupportedSchemaError(grade)
        return grade

    def _probe_once(self, question: str) -> Verdict:
        """Probe what was not probed yet, one after the other; what was waits for none of them."""
        key = _digest(question)
        if (known := self._verdicts.get(key)) is not None:
            return known
        with self._probing:
            verdict = self._verdicts.get(key) or self._probe(question)
            if not verdict.is_transient:
                self._verdicts.put(key, verdict, len(key) + len(str(verdict)))
        return verdict


def from_json_schema(
    schema: Schema, whitespace_pattern: str | None = None, *, level: SchemaLevel = "strict"
) -> GrammarSource:
    """Language of the JSON texts that satisfy `schema`, as far as `level` enforces it.

    Without a `whitespace_pattern` they are compact: free white space lets a model write
    blanks until its budget is spent.

    Raises:
        UnsupportedSchemaError: the schema is too large, not JSON, or beyond `level`.
    """
    check_bounds(schema)
    options = with_options(schema, level=level, whitespace_pattern=whitespace_pattern)
    return GrammarSource("json_schema", dump_json(options))


def from_regex(pattern: str) -> GrammarSource:
    """Language of a regular expression, in the syntax of Rust's `regex`.

    Raises:
        UnsupportedSchemaError: says what is wrong with it and where.
    """
    check_regex(pattern)
    return GrammarSource("regex", pattern)


def from_grammar(text: str) -> GrammarSource:
    """Language of a grammar in Lark or GBNF.

    Raises:
        UnsupportedSchemaError: says what is wrong with it and where.
    """
    return GrammarSource("lark", to_lark(text))


def from_choices(options: Sequence[str]) -> GrammarSource:
    """Language of these texts.

    Raises:
        UnsupportedSchemaError: there are none, or one is empty.
    """
    if not options or not all(options):
        raise UnsupportedSchemaError("options must be at least one, and none of them empty")
    texts = (json.dumps(option, ensure_ascii=False) for option in options)
    return from_grammar(f"start: {' | '.join(texts)}")


def from_output_type(output_type: Any) -> GrammarSource:
    """Language of an `outlines` output type.

    Takes whatever outlines takes: a pydantic model, a dataclass, `Literal`, an `Enum`, a
    function, `Regex`, `CFG`, `JsonSchema`, unions and containers of these; also a JSON Schema
    as a dictionary. Objects hold what they list. Dates exist in the calendar.

    Raises:
        UnsupportedSchemaError: outlines knows no such type, or the schema is too large.
    """
    if isinstance(output_type, GrammarSource):
        return output_type
    if isinstance(output_type, dict):
        return _from_closed_schema(output_type)
    from runtime.grammar.outlines_terms import read_output_type

    def write_schema(schema: JsonObject, whitespace_pattern: str | None) -> str:
        return _from_closed_schema(schema, whitespace_pattern).text

    return GrammarSource(*read_output_type(output_type, write_schema))


def _from_closed_schema(schema: JsonObject, whitespace_pattern: str | None = None) -> GrammarSource:
    check_bounds(schema)
    return from_json_schema(close_objects(schema), whitespace_pattern)


def grade_schema(
    schema: Schema,
    vocabulary: Vocabulary,
    probe: Probe = probe_grammar,
    text: str | None = None,
    *,
    closes: bool = False,
) -> SchemaSupport:
    """Find the strictest level at which `schema` can be compiled.

    What may be costly is left to `probe` as a whole, down to the check of its bounds: of such
    a schema this process does no more than write the text, which holds the GIL.

    Args:
        schema: as it came.
        vocabulary: the model's.
        probe: tries out what may be costly.
        text: what `write_schema` made of the schema, where that is known.
        closes: grade it as `close_objects` leaves it.

    Raises:
        UnsupportedSchemaError: not even leniently, nothing satisfies it, or it is too large;
            the message names the keyword and its path.
        CapacityError: the machine is too busy to try out a schema that may be costly.
    """
    text = write_schema(schema) if text is None else text
    suspicion = find_suspicion(schema, text)
    if suspicion is not None:
        question = f'{{"closes":{json.dumps(closes)},"schema":{text}}}'
        return _grade_suspect(question, suspicion, probe)
    check_bounds(schema, text)
    if closes and isinstance(schema, dict):
        schema = close_objects(schema)

    def try_out(options: JsonObject) -> tuple[str | None, Sequence[str]]:
        serialized = _serialize(GrammarSource("json_schema", dump_json(options)))
        compiled = CompiledGrammar(_build_matcher(serialized, vocabulary), vocabulary)
        return _walk(compiled), compiled.matcher.get_grammar_warnings()

    normal = normalise(schema)
    _check_readable(schema)
    support = climb(schema, normal, try_out)
    if not isinstance(support, str):
        return support
    if isinstance(schema, bool):
        raise UnsupportedSchemaError(f"the schema at $ is not supported: {support}")
    raise UnsupportedSchemaError(_explain(schema, "lenient", support, vocabulary))


def _grade_suspect(question: str, suspicion: str, probe: Probe) -> SchemaSupport:
    verdict = _probe_suspect(suspicion, question, probe)
    if verdict.support is None:
        raise UnsupportedSchemaError(verdict.problem or "the schema is not supported")
    return verdict.support


def compile_grammar(
    source: GrammarSource, vocabulary: Vocabulary, probe: Probe = probe_grammar
) -> CompiledGrammar:
    """Compile under limits and walk the first steps.

    A JSON Schema that may be costly is compiled only after `probe` did so in another process;
    one inside a Lark grammar must have been graded.

    Raises:
        UnsupportedSchemaError: the language is unsupported, empty or too expensive. Of a JSON
            Schema the message names the keyword at fault and its path.
        CapacityError: the machine is too busy to try out a schema that may be costly.
    """
    serialized = _serialize(source)
    if len(serialized) > MAX_GRAMMAR_BYTES:
        raise UnsupportedSchemaError(
            f"the grammar has {len(serialized)} characters; at most {MAX_GRAMMAR_BYTES} are taken"
        )
    is_suspect = False
    for part in (source, *(part for _, part in source.parts)):
        suspicion = _suspicion_of(part)
        if suspicion is None:
            continue
        is_suspect = True
        problem = _probe_suspect(suspicion, _serialize(part), probe).problem
        if problem is not None:
            raise UnsupportedSchemaError(f"the grammar is not supported: {problem}")
    compiled = CompiledGrammar(_build_matcher(serialized, vocabulary), vocabulary)
    problem = _walk(compiled)
    if problem is None:
        return compiled
    if source.kind != "json_schema" or is_suspect:
        raise UnsupportedSchemaError(f"the grammar is not supported: {problem}")
    schema = json.loads(source.text)
    raise UnsupportedSchemaError(_explain(schema, level_of(schema), problem, vocabulary))


def _suspicion_of(source: GrammarSource) -> str | None:
    if source.kind == "json_schema":
        return find_suspicion(json.loads(source.text))
    return find_suspicion({"pattern": source.text}) if source.kind == "regex" else None


def _probe_suspect(suspicion: str, question: str, probe: Probe) -> Verdict:
    """Try out what may be costly.

    Raises:
        UnsupportedSchemaError: it costs too much.
        CapacityError: the machine is too busy to find out.
    """
    verdict = probe(question)
    if verdict.is_transient:
        raise CapacityError(f"{suspicion}, and {verdict.problem}")
    if verdict.is_costly:
        raise UnsupportedSchemaError(f"{suspicion}, and {verdict.problem}")
    return verdict


def _check_readable(schema: Schema) -> None:
    """Refuse what the final check cannot read: it would refuse every value.

    Raises:
        UnsupportedSchemaError: the schema breaks the rules of its draft.
    """
    problem = schema_problem(schema) if isinstance(schema, dict) else None
    if problem is not None:
        raise UnsupportedSchemaError(f"the schema is not supported: {problem}")


def _explain(schema: JsonObject, level: SchemaLevel, problem: str, vocabulary: Vocabulary) -> str:
    def fails(part: JsonObject) -> bool:
        try:
            options = with_options(part, level="lenient")
        except UnsupportedSchemaError:
            return True
        serialized = _serialize(GrammarSource("json_schema", dump_json(options)))
        return (
            _walk(CompiledGrammar(_build_matcher(serialized, vocabulary), vocabulary)) is not None
        )

    keyword, path = find_fault(schema, fails)
    if keyword is None:
        return f"the schema at {path} is not supported: {problem}"
    return f"keyword {keyword!r} at {path} is not supported: {problem}"


def _build_matcher(serialized: str, vocabulary: Vocabulary) -> llguidance.LLMatcher:
    return llguidance.LLMatcher(vocabulary.tokenizer, serialized, log_level=0, limits=LIMITS)


def _walk(compiled: CompiledGrammar) -> str | None:
    """Walk the first steps; return why they cannot be taken.

    Some grammars compile and fail, or turn out empty, when their first masks are filled.
    """
    constraint = compiled.constraint()
    mask = np.zeros((1, compiled.vocabulary.num_mask_words), dtype=np.int32)
    going_on = ~compiled.vocabulary.stop_mask
    for _ in range(NUM_PROBED_STEPS):
        constraint.fill(mask, 0)
        if constraint.state == "failed":
            return constraint.error
        if not mask.any():
            return "no output satisfies it"
        mask &= going_on
        if not mask.any():
            break
        word = int(np.flatnonzero(mask[0])[0])
        lowest = int(mask[0, word]) & -int(mask[0, word])
        constraint.advance(constraint.forced() or [32 * word + lowest.bit_length() - 1])
    return None


def _compiled_bytes(serialized: str) -> int:
    """Memory of a compiled grammar as measured, without the states that using it adds."""
    return 128 * 1024 + 40 * len(serialized)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


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
