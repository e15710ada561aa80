"""Turns a model's output into events as it arrives, however it is cut into chunks.

The text comes from under a turn grammar of the same `WireFormat`, so every call in it is
complete and legal up to the point where the text ends; the parser only has to know where it
is, not whether.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from runtime.chat.messages import TextDelta, ToolCall, ToolCallDelta
from runtime.chat.wire_formats.format import (
    CALL_ID,
    CALL_ID_CHARS,
    WireFormat,
    own_call_id,
)
from runtime.tokenizer.decoder import overlap
from runtime.tokenizer.tokenizer import Tokenizer
from tools.spec import JsonObject

ParserEvent = TextDelta | ToolCallDelta


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


class MarkerSpeller:
    """Puts the spelling of marker tokens, which have no text, back into the engine's text.

    The engine may hold text back (a stop string may have begun), so markers wait until the
    text before them has come.
    """

    def __init__(self, marker_ids: Mapping[str, int], tokenizer: Tokenizer) -> None:
        self._markers = {
            token_id: text
            for text, token_id in marker_ids.items()
            if not tokenizer.decode([token_id])
        }
        self._decoder = tokenizer.decoder()
        self._waiting: deque[tuple[int, str]] = deque()
        self._num_decoded = 0
        self._num_given = 0

    def push(self, token_ids: Sequence[int], text: str) -> str:
        """Return `text` with the markers among `token_ids`, or earlier ones, spelled."""
        if not self._markers:
            return text
        for token_id in token_ids:
            if token_id in self._markers:
                self._waiting.append((self._num_decoded, self._markers[token_id]))
            else:
                self._num_decoded += len(self._decoder.push([token_id]))
        spelled = ""
        while self._waiting and self._waiting[0][0] <= self._num_given + len(text):
            offset, marker = self._waiting.popleft()
            cut = offset - self._num_given
            spelled += text[:cut] + marker
            text = text[cut:]
            self._num_given = offset
        self._num_given += len(text)
        return spelled + text


class TurnParser:
    """Follows one turn.

    Args:
        wire_format: how calls are written, or None when the turn cannot call.
        has_free_text: text may stand before the first call; without it, a call is one only
            at the very start and everything else is the answer.
        make_call_id: names the calls.

    Attributes:
        text: the visible text so far.
        calls: the calls completed so far.
        problem: why a completed call is not among them; None when all are.
    """

    def __init__(
        self,
        wire_format: WireFormat | None,
        *,
        has_free_text: bool = True,
        make_call_id: Callable[[], str] = new_call_id,
    ) -> None:
        self.text = ""
        self.calls: list[ToolCall] = []
        self.problem: str | None = None
        self._format = wire_format
        self._make_call_id = make_call_id
        self._step: Callable[[], bool] = self._read_answer
        if wire_format is not None:
            self._step = self._read_text if has_free_text else self._read_start
        self._buffer = ""
        self._events: list[ParserEvent] = []
        self._name = ""
        self._call_id = ""
        self._arguments = ""
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    @property
    def is_cut(self) -> bool:
        """A call was begun that is not complete."""
        if self._step == self._read_between:
            return self._buffer != self._wire.closes
        return self._step in {
            self._read_open,
            self._read_name,
            self._read_arguments,
            self._read_close,
        }

    def push(self, text: str) -> list[ParserEvent]:
        """Take more text; return what it says."""
        self._buffer += text
        while (self._buffer or self._step == self._read_close) and self._step():
            pass
        events, self._events = self._events, []
        return events

    def finish(self) -> list[ParserEvent]:
        """Take the end of the text; return what was held back."""
        if self._step in {self._read_text, self._read_start}:
            self._emit_text(len(self._buffer))
        events, self._events = self._events, []
        return events

    # Each step consumes from the buffer and returns whether the next one can go on.

    def _read_answer(self) -> bool:
        self._emit_text(len(self._buffer))
        return False

    def _read_start(self) -> bool:
        opens = self._wire.opens
        if self._buffer.startswith(opens):
            self._take(len(opens))
            self._step = self._read_name
            return True
        if opens.startswith(self._buffer):
            return False
        self._step = self._read_answer
        return True

    def _read_text(self) -> bool:
        trigger = self._wire.trigger
        start = self._buffer.find(trigger)
        if start < 0:
            self._emit_text(len(self._buffer) - overlap(self._buffer, trigger))
            return False
        self._emit_text(start)
        self._step = self._read_open
        return True

    def _read_open(self) -> bool:
        if not self._expect(self._wire.opens):
            return False
        self._step = self._read_name
        return True

    def _read_name(self) -> bool:
        head, tail = self._wire.before_name, self._wire.before_arguments
        end = self._buffer.find(tail.partition(CALL_ID)[0], len(head))
        if end < 0 or len(self._buffer) < end + _length(tail):
            return False
        self._name = self._take(end)[len(head) :]
        self._call_id = ""
        self._expect(tail)
        self._events.append(ToolCallDelta(index=len(self.calls), name=self._name))
        self._arguments = ""
        self._step = self._read_arguments
        return True

    def _read_arguments(self) -> bool:
        end = self._scan_json()
        arguments = self._take(len(self._buffer) if end is None else end)
        self._arguments += arguments
        self._events.append(ToolCallDelta(index=len(self.calls), arguments=arguments))
        if end is not None:
            self._step = self._read_close
        return end is not None

    def _read_close(self) -> bool:
        if not self._expect(self._wire.after_arguments):
            return False
        try:
            arguments = load_arguments(self._arguments)
        except RecursionError:
            self.problem = f"the arguments of {self._name!r} nest too deep to be read"
        else:
            call_id = own_call_id(self._call_id, self._make_call_id())
            self.calls.append(ToolCall(call_id, self._name, arguments))
        self._step = self._read_between
        return True

    def _read_between(self) -> bool:
        between = self._wire.between_calls
        if between is None or not self._buffer.startswith(between):
            return False
        self._take(len(between))
        self._step = self._read_name
        return True

    @property
    def _wire(self) -> WireFormat:
        assert self._format is not None
        return self._format

    def _expect(self, literal: str) -> bool:
        if len(self._buffer) < _length(literal):
            return False
        before, placeholder, after = literal.partition(CALL_ID)
        taken = self._take(len(before))
        if placeholder:
            self._call_id = self._take(CALL_ID_CHARS)
            taken += placeholder + self._take(len(after))
        assert taken == literal, f"the grammar let {taken!r} pass for {literal!r}"
        return True

    def _scan_json(self) -> int | None:
        """Return where the JSON object in the buffer ends, or None when it goes on."""
        for index, char in enumerate(self._buffer):
            if self._in_string:
                if self._is_escaped:
                    self._is_escaped = False
                elif char == "\\":
                    self._is_escaped = True
                elif char == '"':
                    self._in_string = False
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return index + 1
        return None

    def _emit_text(self, length: int) -> None:
        text = self._take(length)
        if text:
            self.text += text
            self._events.append(TextDelta(text))

    def _take(self, length: int) -> str:
        taken, self._buffer = self._buffer[:length], self._buffer[length:]
        return taken


def _length(literal: str) -> int:
    """How many characters `literal` takes, with the call's id in it."""
    return len(literal) + literal.count(CALL_ID) * (CALL_ID_CHARS - 1)
