"""Turns a model's output into events as it arrives, however it is cut into chunks.

The text comes from under a turn grammar of the same `WireFormat`: the parser walks through
what the grammar let pass, position by position, and only has to know where it is, not whether.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from runtime.chat.messages import ReasoningDelta, TextDelta, ToolCall, ToolCallDelta
from runtime.chat.wire_formats.format import (
    CALL_ID,
    CALL_ID_CHARS,
    CALL_INDEX,
    BoundFormat,
    FieldArguments,
    JsonArguments,
    Thinking,
    own_call_id,
)
from runtime.chat.wire_formats.notation import read_notation
from runtime.chat.wire_formats.readers import (
    EndOfTurn,
    Field,
    Reader,
    Wait,
    read_fields,
    read_json,
)
from runtime.chat.wire_formats.schemas import fits, object_of, properties_of, types_of
from runtime.grammar.locate import locate_value
from runtime.tokenizer.tokenizer import Tokenizer
from tools.spec import JsonObject, ToolSpec
from tools.validation import Problem

ParserEvent = ReasoningDelta | TextDelta | ToolCallDelta


def new_call_id() -> str:
    """Return a name for a call that no other call has."""
    return f"call_{uuid.uuid4().hex[:24]}"


def load_arguments(text: str) -> JsonObject:
    """Read generated arguments; numbers past what JSON peers can hold become the nearest one.

    Raises:
        RecursionError: the arguments nest too deep.
    """
    arguments: JsonObject = json.loads(text, parse_int=_read_int, parse_float=_read_float)
    return arguments


def _read_int(digits: str) -> int | float:
    return int(digits) if len(digits) <= sys.float_info.max_10_exp else _read_float(digits)


def _read_float(digits: str) -> float:
    largest = sys.float_info.max
    return max(-largest, min(largest, float(digits)))


def locate_text(text: str, path: Sequence[str | int]) -> tuple[int, int]:
    """Return between which characters of a JSON text the value at `path` stands.

    Raises:
        ValueError: the text is not JSON, or has no value there.
    """
    written = text.encode()
    start, end = locate_value(written, path)
    return len(written[:start].decode()), len(written[:end].decode())


class MarkedText:
    """Text of tokens as it comes, with a character for each marker (`BoundFormat`).

    Attributes:
        ends: how much text there was after each token.
    """

    def __init__(self, ids: Mapping[str, int], tokenizer: Tokenizer) -> None:
        self._markers = {token_id: char for char, token_id in ids.items()}
        self._tokenizer = tokenizer
        self._decoder = tokenizer.decoder()
        self.ends: list[int] = []

    def push(self, token_ids: Sequence[int]) -> str:
        """Return the text that these tokens complete."""
        pieces = []
        length = self.ends[-1] if self.ends else 0
        for token_id in token_ids:
            if (marker := self._markers.get(token_id)) is not None:
                piece = self.flush() + marker
            else:
                piece = self._decoder.push((token_id,))
            pieces.append(piece)
            length += len(piece)
            self.ends.append(length)
        return "".join(pieces)

    def flush(self) -> str:
        """Return what an unfinished character became."""
        text = self._decoder.flush()
        self._decoder = self._tokenizer.decoder()
        return text


@dataclass(frozen=True, slots=True)
class RejectedCall:
    """A complete call that its schema refuses.

    Attributes:
        call: what was written.
        problem: what is wrong with it.
        start: characters of the turn's text before the value at fault.
        end: characters up to its end.
    """

    call: ToolCall
    problem: Problem
    start: int
    end: int


class TurnParser:
    """Follows one turn.

    Args:
        bound: how calls are written.
        tools: what may be called; none where the turn cannot call.
        has_free_text: text may stand before the first call; without it, a call is one only
            at the very start and everything else is the answer.
        thinking: how thoughts are marked, or None when the model has none.
        held: names of tools whose arguments are given out when they are complete and checked.
        check: says what is wrong with a call's arguments, if anything.
        make_call_id: names the calls.

    Attributes:
        text: the visible text so far.
        reasoning: the thoughts so far.
        calls: the calls completed so far.
        is_cut: a call was begun that is not complete.
        text_start: characters of the turn before the answer's; None before it began.
        rejected: the call at which the parser stopped, as `check` refused it.
        problem: why a completed call is not among `calls`; None when all are.
    """

    def __init__(
        self,
        bound: BoundFormat,
        tools: Sequence[ToolSpec],
        *,
        has_free_text: bool = True,
        thinking: Thinking | None = None,
        held: Collection[str] = (),
        check: Callable[[ToolSpec, JsonObject], Problem | None] = lambda tool, arguments: None,
        make_call_id: Callable[[], str] = new_call_id,
    ) -> None:
        self.text = ""
        self.reasoning = ""
        self.calls: list[ToolCall] = []
        self.is_cut = False
        self.text_start: int | None = None
        self.rejected: RejectedCall | None = None
        self.problem: str | None = None
        self._wire = bound.wire
        self._tools = tools
        self._has_free_text = has_free_text
        self._thinking = thinking
        self._held = held
        self._check = check
        self._make_call_id = make_call_id
        self._reader = Reader()
        self._events: list[ParserEvent] = []
        self._turn = self._read_turn()
        self._is_done = False

    def push(self, text: str) -> list[ParserEvent]:
        """Take more text; return what it says."""
        self._reader.text += text
        if self._reader.text and not self._is_done:
            self._go_on()
        events, self._events = self._events, []
        return events

    def finish(self) -> list[ParserEvent]:
        """Take the end of the text; return what was held back."""
        self._reader.is_over = True
        if not self._is_done:
            self._go_on()
        events, self._events = self._events, []
        return events

    def _go_on(self) -> None:
        try:
            next(self._turn)
        except (StopIteration, EndOfTurn):
            self._is_done = True

    def _read_turn(self) -> Wait[None]:
        yield from self._read_thoughts()
        if (yield from self._reaches_calls()):
            yield from self._read_calls()
        else:
            yield from self._read_rest()

    def _read_thoughts(self) -> Wait[None]:
        if self._thinking is None:
            return
        opens, closes = self._thinking.reasoning.opens, self._thinking.reasoning.closes
        if not self._thinking.is_open:
            if (yield from self._reader.which([blank + opens for blank in _BLANKS])) is None:
                return
            self._skip_blanks()
            yield from self._reader.expect(opens)
        pieces = _Trimmed(self._emit_reasoning)
        yield from self._reader.until(closes, pieces.push)
        while (yield from self._reader.which(["\n"])) == 0:
            self._reader.take(1)

    def _skip_blanks(self) -> None:
        self._reader.take(len(self._reader.text) - len(self._reader.text.lstrip("\n")))

    def _reaches_calls(self) -> Wait[bool]:
        """Read the text before the first call; False where the rest is the answer."""
        wire, reader = self._wire, self._reader
        opens = [wire.opens] if self._tools else []
        if wire.answer_opens:
            channels = [wire.answer_opens, wire.lead_opens]
            while (at := (yield from reader.which([*channels, *opens]))) == 1:
                reader.take(len(wire.lead_opens))
                yield from reader.until(wire.lead_closes, self._emit_text)
            if at == 0:
                reader.take(len(wire.answer_opens))
            return at == len(channels)
        if not opens:
            return False
        if not self._has_free_text:
            return (yield from reader.which(opens)) == 0
        yield from reader.up_to(wire.trigger, self._emit_text)
        return True

    def _read_rest(self) -> Wait[None]:
        self.text_start = self._reader.position
        while True:
            if self._reader.text:
                self._emit_text(self._reader.take(len(self._reader.text)))
            yield from self._reader.more()

    def _read_calls(self) -> Wait[None]:
        wire, reader = self._wire, self._reader
        self.is_cut = True
        yield from reader.expect(wire.opens)
        while True:
            yield from self._read_call()
            if self.rejected is not None:
                return
            if wire.between_calls is None:
                break
            self.is_cut = bool(wire.closes)
            following = [wire.between_calls + wire.before_name, wire.closes]
            if (yield from reader.which(following)) != 0:
                break
            self.is_cut = True
            yield from reader.expect(wire.between_calls)
        yield from reader.expect(wire.closes)
        self.is_cut = bool(reader.text)

    def _read_call(self) -> Wait[None]:
        wire, reader = self._wire, self._reader
        head, tail = _before_placeholder(wire.before_arguments)
        leads = [wire.before_name + tool.name + head for tool in self._tools]
        at = yield from reader.which(leads)
        if at is None:
            raise EndOfTurn
        reader.take(len(leads[at]))
        tool, index = self._tools[at], len(self.calls)
        call_id = yield from self._read_literal(tail)
        self._events.append(ToolCallDelta(index, tool.name))
        pieces: list[str] = []

        def emit(text: str) -> None:
            pieces.append(text)
            if tool.name not in self._held:
                self._events.append(ToolCallDelta(index, arguments=text))

        start = reader.position
        spans = yield from self._read_arguments(tool, emit)
        end = reader.position
        call_id += yield from self._read_literal(wire.after_arguments)
        written = "".join(pieces)
        try:
            arguments = load_arguments(written)
        except RecursionError:
            self.problem = f"the arguments of {tool.name!r} nest too deep to be read"
            return
        call = ToolCall(own_call_id(call_id, self._make_call_id()), tool.name, arguments)
        if (problem := self._check(tool, arguments)) is not None:
            if isinstance(wire.arguments, JsonArguments):
                at, to = locate_text(written, problem.path)
                start, end = start + at, start + to
            elif problem.path:
                start, end = spans.get(str(problem.path[0]), (start, end))
            self.rejected = RejectedCall(call, problem, start, end)
            return
        if tool.name in self._held:
            self._events.append(ToolCallDelta(index, arguments=written))
        self.calls.append(call)

    def _read_arguments(
        self, tool: ToolSpec, emit: Callable[[str], None]
    ) -> Wait[Mapping[str, tuple[int, int]]]:
        """Return where each argument's value stood, where the style has them one by one."""
        style = self._wire.arguments
        if isinstance(style, FieldArguments):
            closing = self._wire.after_arguments
            return (yield from read_fields(style, closing, _fields(tool), self._reader, emit))
        if isinstance(style, JsonArguments):
            yield from read_json(self._reader, emit)
            return {}
        return (yield from read_notation(style, self._reader, emit))

    def _read_literal(self, literal: str) -> Wait[str]:
        """Read a text of the format; return the id that stands in it, if any."""
        written = ""
        while literal:
            text, literal = _before_placeholder(literal)
            yield from self._reader.expect(text)
            if literal.startswith(CALL_ID):
                while len(self._reader.text) < CALL_ID_CHARS:
                    yield from self._reader.more()
                written = self._reader.take(CALL_ID_CHARS)
            elif literal.startswith(CALL_INDEX):
                written = yield from self._reader.digits()
            literal = literal[1:]
        return written

    def _emit_text(self, text: str) -> None:
        self.text += text
        self._events.append(TextDelta(text))

    def _emit_reasoning(self, text: str) -> None:
        self.reasoning += text
        self._events.append(ReasoningDelta(text))


_BLANKS = ("", "\n", "\n\n")


class _Trimmed:
    """Passes text on without the line breaks at its ends."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._has_begun = False
        self._held = ""

    def push(self, text: str) -> None:
        text = self._held + text
        if not self._has_begun:
            text = text.lstrip("\n")
        certain = text.rstrip("\n")
        self._held = text[len(certain) :]
        if certain:
            self._has_begun = True
            self._emit(certain)


def _before_placeholder(literal: str) -> tuple[str, str]:
    """Split before the first placeholder."""
    places = [literal.find(one) for one in (CALL_ID, CALL_INDEX) if one in literal]
    at = min(places, default=len(literal))
    return literal[:at], literal[at:]


def _fields(tool: ToolSpec) -> dict[str, Field]:
    """What is known of a tool's arguments by their names."""
    root = tool.input_schema
    return {
        name: (types_of(schema, root), partial(fits, schema, root))
        for name, schema, _ in properties_of(object_of(root, root, []))
    }
