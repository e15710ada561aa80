"""Follows the calls of a turn token by token: which tool's which argument is being written.

By what the turn's parser says, so it does so in every wire format.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from runtime.chat.messages import ToolCallDelta
from runtime.chat.parser import MarkedText, TurnParser
from runtime.chat.wire_formats.schemas import ITEM, Path


class TurnCursor:
    """Where a turn stands.

    Attributes:
        tool: the tool that is being called, or was called last.
        arguments: where in its arguments the turn stands.
        text: the turn so far.
    """

    def __init__(self, begin: Callable[[], tuple[TurnParser, MarkedText]]) -> None:
        """`begin` begins the turn anew."""
        self.tool: str | None = None
        self.arguments = JsonCursor()
        self.text = ""
        self._begin = begin
        self._parser, self._marked = begin()
        self._token_ids: list[int] = []

    def push(self, token_ids: Sequence[int]) -> None:
        """Take more tokens."""
        self._token_ids += token_ids
        text = self._marked.push(token_ids)
        self.text += text
        for event in self._parser.push(text):
            if isinstance(event, ToolCallDelta):
                if event.name is not None:
                    self.tool = event.name
                    self.arguments = JsonCursor()
                self.arguments.push(event.arguments)

    def rollback(self, num_tokens: int) -> None:
        """Untake the last tokens."""
        kept = self._token_ids[: len(self._token_ids) - num_tokens]
        self.tool, self.arguments, self.text = None, JsonCursor(), ""
        self._parser, self._marked = self._begin()
        self._token_ids = []
        self.push(kept)

    def fork(self) -> TurnCursor:
        """Return an independent copy."""
        copy = TurnCursor(self._begin)
        copy.push(self._token_ids)
        return copy


class JsonCursor:
    """Says where in a JSON text one is that comes bit by bit.

    Attributes:
        path: names, and `ITEM`s, that lead to the value which is being written.
        num_texts: how many values that are texts were begun.
        is_in_text: whether the value that is being written is a text, and not at its end.
        is_escaped: whether the last character was a backslash that escapes the next.
    """

    def __init__(self) -> None:
        self.num_texts = 0
        self.is_escaped = False
        self._names: list[str | int | None] = []
        self._in_string = False
        self._is_key = False
        self._key = ""

    @property
    def is_in_text(self) -> bool:
        return self._in_string and not self._is_key

    @property
    def path(self) -> Path:
        names = [name for name in self._names if name is not None]
        return tuple(names) if len(names) == len(self._names) else ()

    def push(self, text: str) -> None:
        """Take more text."""
        for char in text:
            if self._in_string:
                self._push_in_string(char)
            elif char == '"':
                self._in_string = True
                self._key = char
                self.num_texts += not self._is_key
            elif char in "{[":
                self._is_key = char == "{"
                self._names.append(None if char == "{" else ITEM)
            elif char in "}]":
                self._names.pop()
            elif char == ",":
                self._is_key = self._names[-1] != ITEM
                self._names[-1] = None if self._is_key else ITEM
            elif char == ":":
                self._is_key = False

    def _push_in_string(self, char: str) -> None:
        if self._is_key:
            self._key += char
        if self.is_escaped:
            self.is_escaped = False
        elif char == "\\":
            self.is_escaped = True
        elif char == '"':
            self._in_string = False
            if self._is_key:
                self._names[-1] = json.loads(self._key)
