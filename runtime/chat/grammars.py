"""Compiles what turns may say for one model, and remembers how strictly it can be enforced.

A schema that the grammar cannot carry whole is compiled as strictly as it can be; what is
missing is known by its keywords, and the caller checks it when a value is complete.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from runtime.chat.messages import AUTO, OutputSchema
from runtime.chat.support import ToolSupport
from runtime.chat.wire_formats.format import (
    BoundFormat,
    FieldArguments,
    JsonArguments,
    NotationArguments,
)
from runtime.chat.wire_formats.grammar import (
    TurnShape,
    choose_tools,
    object_schema,
    turn_grammar,
    unenforced,
)
from runtime.chat.wire_formats.schemas import HINT_OPENS, has_hints, properties_of
from runtime.errors import UnsupportedSchemaError
from runtime.grammar.ban import BannedConstraint
from runtime.grammar.bounded_cache import BoundedCache
from runtime.grammar.closing import BudgetedConstraint
from runtime.grammar.compile import (
    CompiledGrammar,
    GrammarCache,
    GrammarSource,
    from_json_schema,
)
from runtime.grammar.end_finder import Closable, EndFinder
from runtime.grammar.ladder import SchemaSupport
from runtime.grammar.lengths import longest_chars
from runtime.grammar.schema import check_bounds, close_objects, dump_json, write_schema
from runtime.grammar.suspicion import find_suspicion
from runtime.grammar.vocabulary import Vocabulary
from runtime.tokenizer.tokenizer import Tokenizer
from tools.spec import ToolSpec

STRICT = SchemaSupport("strict")
MAX_CATALOGUES = 32
MAX_SUPPORT_BYTES = 1024 * 1024
NUM_COUNTED = 8
"""Of the shortest and of the longest calls: how many are split into tokens."""
CHARS_PER_TOKEN = 2
"""Fewer than JSON has on average: what is estimated with it is rather too long."""


@dataclass(frozen=True, slots=True)
class TurnGrammar:
    """What a turn is decoded under.

    Attributes:
        compiled: the language.
        held: tools whose arguments are checked before they are given out.
        end: the shortest turn that is known; None where none was found.
        finder: finds others.
        reserve: by how much the shortest call of one tool may be longer than another's.
        longest: about as many tokens as it takes to say all that some schema lists.
    """

    compiled: CompiledGrammar
    held: frozenset[str]
    end: tuple[int, ...] | None
    finder: EndFinder
    reserve: int
    longest: int

    def constraint(
        self,
        max_tokens: int,
        kept: Sequence[int] = (),
        banned: Sequence[bytes] = (),
        first_tokens: Collection[int] = (),
    ) -> BudgetedConstraint:
        """What may be said, to its end within `max_tokens`.

        Args:
            max_tokens: of the whole turn.
            kept: tokens that were said already.
            banned: texts that must not come next.
            first_tokens: tokens that must not come next.
        """
        start = self.compiled.constraint()
        if not banned and not first_tokens:
            return self._budgeted(start, max_tokens, self.end)
        start.advance(kept)
        room = max_tokens - len(kept)
        again = BannedConstraint(start, self.compiled.vocabulary, banned, first_tokens)
        if again.state == "failed":  # nothing else can come first
            again = BannedConstraint(start, self.compiled.vocabulary, banned)
        end = self.finder.find(again, room)
        return self._budgeted(again, room, end)

    def _budgeted(
        self, inner: Closable, max_tokens: int, end: tuple[int, ...] | None
    ) -> BudgetedConstraint:
        return BudgetedConstraint(
            inner, max_tokens, self.finder, end, reserve=self.reserve, longest=self.longest
        )


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a turn: its grammar, if hints do not change it from turn to turn.

    It has the tools by whose identities it is found, if it is by them.
    """

    tools: tuple[ToolSpec, ...]
    grammar: TurnGrammar | None
    is_hinted: bool = False


class Grammars:
    """One model's grammars; safe to use from several threads.

    Args:
        bound: how the model writes its turns.
        tokenizer: its tokenizer.
        end_of_turn_id: the token that ends its turns.
    """

    def __init__(
        self,
        bound: BoundFormat,
        tokenizer: Tokenizer,
        end_of_turn_id: int,
    ) -> None:
        self._bound = bound
        self._tokenizer = tokenizer
        self._end_of_turn_id = end_of_turn_id
        self._cache: GrammarCache | None = None
        self._finder: EndFinder | None = None
        self._lock = threading.Lock()
        self._supports: BoundedCache[SchemaSupport] = BoundedCache(MAX_SUPPORT_BYTES)
        self._turns: OrderedDict[object, _Known] = OrderedDict()

    def compile(self, tools: Sequence[ToolSpec], shape: TurnShape) -> TurnGrammar | None:
        """Return the grammar of a turn; None where anything may be said.

        Tools seen before are known by their identity (microseconds), or by what they say (15
        microseconds each).

        Raises:
            InvalidRequestError: as `turn_grammar`; `UnsupportedSchemaError` names the tool,
                the keyword and its path.
        """
        # The tools' identities stand for their contents: who holds them here keeps them alive.
        asked = shape.choice, shape.output, shape.thinking
        key = (tuple(map(id, tools)), *asked)
        known = self._find(key)
        if known is None:
            known = self._learn(tools, shape, asked)
            self._keep(key, replace(known, tools=tuple(tools)))
        return self._compile(tools, shape, is_hinted=True) if known.is_hinted else known.grammar

    def _learn(
        self, tools: Sequence[ToolSpec], shape: TurnShape, asked: tuple[object, ...]
    ) -> _Known:
        """Compile what is not known by its content; what hints refer to changes every turn."""
        texts = [_write(tool) for tool in tools]
        if any(map(_is_hinted, tools, texts)):
            return _Known((), None, is_hinted=True)
        content = (_digest(tools, texts), *asked)
        known = self._find(content)
        if known is None:
            known = _Known((), self._compile(tools, shape, is_hinted=False))
            self._keep(content, known)
        return known

    def plain(self, output: OutputSchema | GrammarSource, max_tokens: int) -> BudgetedConstraint:
        """What a text may say that is no turn: all of it is the output, then the end.

        Raises:
            UnsupportedSchemaError: the output is no language, or costs too much.
        """
        source = self.output(output)[0] if isinstance(output, OutputSchema) else output
        shape = TurnShape(AUTO, source)
        return self._finish(source, (), shape, frozenset()).constraint(max_tokens)

    def output(self, output: OutputSchema) -> tuple[GrammarSource, SchemaSupport]:
        """The language of an answer; like a tool's arguments, its objects hold what they list.

        Raises:
            UnsupportedSchemaError: the schema is not supported; the message names the keyword.
        """
        cache = self._get_cache()
        text = write_schema(output.schema)
        if find_suspicion(output.schema, text) is not None:
            support = cache.grade(output.schema, text)
            return from_json_schema(close_objects(output.schema), level=support.level), support
        check_bounds(output.schema, text)
        schema = close_objects(output.schema)
        try:
            source = from_json_schema(schema)
            cache.get_or_compile(source)
        except UnsupportedSchemaError:
            support = cache.grade(output.schema, text)
            if support.level == "strict":
                raise
            return from_json_schema(schema, level=support.level), support
        return source, STRICT

    def support(self, tool: ToolSpec) -> SchemaSupport:
        """Return how much of a tool's schema its calls are decoded under.

        Raises:
            UnsupportedSchemaError: the tool cannot be called; the message names it.
        """
        try:
            schema = object_schema(tool)
            text = write_schema(schema)
            key = hashlib.blake2b(text.encode(), digest_size=16).digest()
            support = self._supports.get(key)
            if support is None:
                graded = self._get_cache().grade(schema, text)
                own = unenforced(self._bound, tool, graded.level, text)
                level = "lenient" if own else graded.level
                support = SchemaSupport(level, tuple(dict.fromkeys((*graded.dropped, *own))))
                self._supports.put(key, support, len(key) + len(str(support)))
        except UnsupportedSchemaError as exc:
            raise UnsupportedSchemaError(f"tool {tool.name!r}: {exc}") from exc
        return support

    def support_of(self, tools: Sequence[ToolSpec]) -> dict[str, ToolSupport]:
        """Return how strictly the calls of each tool are decoded, by the tool's name."""
        supports: dict[str, ToolSupport] = {}
        for tool in tools:
            try:
                graded = self.support(tool)
                supports[tool.name] = ToolSupport(graded.level, graded.dropped)
            except UnsupportedSchemaError as exc:
                supports[tool.name] = ToolSupport("refused", problem=str(exc))
        return supports

    def _find(self, key: object) -> _Known | None:
        with self._lock:
            if key in self._turns:
                self._turns.move_to_end(key)
            return self._turns.get(key)

    def _keep(self, key: object, known: _Known) -> None:
        with self._lock:
            self._turns[key] = known
            if len(self._turns) > 2 * MAX_CATALOGUES:
                self._turns.popitem(last=False)

    def _compile(
        self, tools: Sequence[ToolSpec], shape: TurnShape, *, is_hinted: bool
    ) -> TurnGrammar | None:
        callable_tools = choose_tools(tools, shape.choice)
        is_json = isinstance(self._bound.wire.arguments, JsonArguments)
        # A schema that may be costly is tried out by itself first, in another process.
        if not is_json or any(find_suspicion(tool.input_schema) for tool in callable_tools):
            return self._compile_degraded(tools, callable_tools, shape)
        try:
            source = turn_grammar(self._bound, tools, shape)
            held = frozenset(
                tool.name for tool in callable_tools if is_hinted and _is_hinted(tool, _write(tool))
            )
            return None if source is None else self._finish(source, callable_tools, shape, held)
        except UnsupportedSchemaError:
            if not callable_tools:
                raise
            return self._compile_degraded(tools, callable_tools, shape)

    def _compile_degraded(
        self, tools: Sequence[ToolSpec], callable_tools: Sequence[ToolSpec], shape: TurnShape
    ) -> TurnGrammar | None:
        """Grade each tool by itself: which is at fault, and what can be kept of it."""
        supports = {tool.name: self.support(tool) for tool in callable_tools}
        levels = {name: support.level for name, support in supports.items()}
        source = turn_grammar(self._bound, tools, replace(shape, levels=levels))
        held = {name for name, support in supports.items() if support.level != "strict"}
        if source is None:
            return None
        return self._finish(source, callable_tools, shape, frozenset(held))

    def _finish(
        self,
        source: GrammarSource,
        tools: Sequence[ToolSpec],
        shape: TurnShape,
        held: frozenset[str],
    ) -> TurnGrammar:
        compiled = self._get_cache().get_or_compile(source)
        with self._lock:
            if self._finder is None:
                self._finder = EndFinder(compiled.vocabulary, _closing_texts(self._bound))
        end = self._finder.get_end(compiled)
        schemas = [tool.input_schema for tool in tools]
        if shape.output is not None and shape.output.kind == "json_schema":
            schemas.append(json.loads(shape.output.text))
        longest = max(map(longest_chars, schemas), default=0) // CHARS_PER_TOKEN
        reserve = self._reserve(tools)
        return TurnGrammar(compiled, held, end, self._finder, reserve, longest)

    def _reserve(self, tools: Sequence[ToolSpec]) -> int:
        """How much longer the longest of the tools' shortest calls is, by their names and keys."""
        texts = sorted(
            (tool.name + dump_json(dict.fromkeys(_needed_of(tool), 0)) for tool in tools), key=len
        )
        # Tokens are about as long in one as in another: those between need not be counted.
        shortest, longest = texts[:NUM_COUNTED], texts[-NUM_COUNTED:]
        lengths = [len(self._tokenizer.encode(text)) for text in (*shortest, *longest)]
        return max(lengths, default=0) - min(lengths, default=0)

    def _get_cache(self) -> GrammarCache:
        with self._lock:
            if self._cache is None:
                tokenizer = self._tokenizer
                vocabulary = Vocabulary(
                    tokenizer.json,
                    tokenizer.vocab_size,
                    self._end_of_turn_id,
                    tokenizer.special_ids,
                    tokenizer.stop_ids,
                )
                self._cache = GrammarCache(vocabulary)
            return self._cache


def _write(tool: ToolSpec) -> str:
    try:
        return dump_json(tool.input_schema)
    except UnsupportedSchemaError as exc:
        raise UnsupportedSchemaError(f"tool {tool.name!r}: {exc}") from exc


def _is_hinted(tool: ToolSpec, text: str) -> bool:
    return HINT_OPENS in text and has_hints(tool.input_schema, tool.input_schema)


def _digest(tools: Sequence[ToolSpec], texts: Sequence[str]) -> bytes:
    """Stands for all of the tools that a grammar depends on: names and schemas as JSON."""
    digest = hashlib.blake2b(digest_size=16)
    for tool, text in zip(tools, texts, strict=True):
        digest.update(f"{tool.name!r} {text}\n".encode(errors="surrogatepass"))
    return digest.digest()


def _closing_texts(bound: BoundFormat) -> list[str]:
    """Spelled texts that end a free one."""
    wire = bound.wire
    texts = [wire.lead_closes, wire.reasoning.closes if wire.reasoning else ""]
    if isinstance(wire.arguments, FieldArguments):
        texts.append(wire.arguments.after_value)
    elif isinstance(wire.arguments, NotationArguments):
        texts.append(wire.arguments.quote)
    return [text for text in texts if text and text[0] not in bound.ids]


def _needed_of(tool: ToolSpec) -> list[str]:
    """Names of the arguments that a call must have."""
    return [name for name, _, must in properties_of(tool.input_schema) if must]
