"""How a model family writes its turns: a frozen row of data that three functions read.

Rendering, grammar and parser are functions of the same row, so they cannot disagree.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

CALL_ID = "\0"
"""Stands in a format's texts where a call's id of `CALL_ID_CHARS` letters and digits stands."""

CALL_ID_CHARS = 9

CALL_INDEX = "\1"
"""Stands where the call's number in the conversation stands, counted from 0."""

_WRITTEN_ID = re.compile(rf"([A-Za-z0-9]{{{CALL_ID_CHARS}}})(?:-.*)?")
_FIRST_MARKER = 0xD800  # no text decoded from UTF-8 holds a lone surrogate


@dataclass(frozen=True, slots=True)
class JsonArguments:
    """All arguments as one JSON object.

    `is_spaced` says that the family puts blanks behind its commas and colons.
    """

    is_spaced: bool = True


@dataclass(frozen=True, slots=True)
class FieldArguments:
    """Each argument by itself: a text as it is, unescaped, any other value as JSON.

    An argument reads `before_key + KEY + before_value + VALUE + after_value`.
    """

    before_key: str
    before_value: str
    after_value: str


@dataclass(frozen=True, slots=True)
class NotationArguments:
    """Gemma's notation of a JSON object: bare names, texts unescaped between two `quote`s."""

    quote: str


Arguments = JsonArguments | FieldArguments | NotationArguments


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What stands around a turn's thoughts, which come before all else."""

    opens: str
    closes: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """How a turn may begin with thoughts: `is_open` where the prompt ends inside of them."""

    reasoning: Reasoning
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class WireFormat:
    """The punctuation of a turn.

    The calls of a turn read `opens + CALL + between_calls + CALL … + closes`, each call
    `before_name + NAME + before_arguments + ARGUMENTS + after_arguments`. Whatever of these
    texts is one of `markers` is a single token where the vocabulary has it.

    Attributes:
        name: how logs and reports call the format.
        markers: pieces of the other texts that vocabularies of the family have as tokens.
        between_calls: None where a turn has one call at most.
        vocabulary: control tokens that only this family has; they tell it where the model's
            template renders no calls.
        tools_before: introduces the tools in the system turn, where the model's template
            renders none; one JSON line per tool follows.
        tools_after: closes that list and tells how to call.
        result_open: stands before a tool's result, and `result_close` after it, in the user
            turn that carries results where the template renders no calls.
        arguments: how arguments are written.
        reasoning: what is around thoughts; None where the model's vocabulary or template
            decides that.
        answer_opens: stands before a turn's answer.
        lead_opens: stands before the text that comes ahead of calls, `lead_closes` after it.
    """

    name: str
    markers: tuple[str, ...]
    opens: str
    before_name: str
    before_arguments: str
    after_arguments: str
    between_calls: str | None
    closes: str
    vocabulary: tuple[str, ...]
    tools_before: str
    tools_after: str
    result_open: str
    result_close: str
    arguments: Arguments = JsonArguments()
    reasoning: Reasoning | None = None
    answer_opens: str = ""
    lead_opens: str = ""
    lead_closes: str = ""

    @property
    def trigger(self) -> str:
        """What no free text may hold: the marker that `opens` begins with, or all of it."""
        begun = [marker for marker in self.markers if self.opens.startswith(marker)]
        return begun[0] if begun else self.opens

    @property
    def has_call_ids(self) -> bool:
        """Whether the model names its calls itself."""
        return CALL_ID in self.before_arguments + self.after_arguments

    @property
    def has_call_indices(self) -> bool:
        """Whether the model numbers its calls."""
        return CALL_INDEX in self.before_arguments


@dataclass(frozen=True, slots=True)
class BoundFormat:
    """A format in one model's vocabulary.

    Attributes:
        wire: the format, each marker that the vocabulary has as a token replaced by a
            character that no text holds.
        ids: token ids of these characters.
        spellings: what the family calls them.
    """

    wire: WireFormat
    ids: Mapping[str, int]
    spellings: Mapping[str, str]

    def spell(self, text: str) -> str:
        """A text with its markers spelled."""
        return "".join(self.spellings.get(char, char) for char in text)


def bind(wire_format: WireFormat, marker_ids: Mapping[str, int]) -> BoundFormat:
    """Put one character for each marker of `marker_ids`, by its spelling, into the format."""
    chars = {text: chr(_FIRST_MARKER + at) for at, text in enumerate(marker_ids)}
    longest_first = sorted(chars, key=len, reverse=True)
    spelled = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def mark(value: Any) -> Any:
        if isinstance(value, str):
            return spelled.sub(lambda found: chars[found[0]], value)
        if isinstance(value, Reasoning | FieldArguments | NotationArguments):
            marked = {field.name: mark(getattr(value, field.name)) for field in fields(value)}
            return replace(value, **marked)
        return value

    kept = {"name", "vocabulary"}
    texts = {
        field.name: mark(getattr(wire_format, field.name))
        for field in fields(wire_format)
        if field.name not in kept
    }
    texts["markers"] = tuple(mark(marker) for marker in wire_format.markers)
    ids = {chars[text]: token_id for text, token_id in marker_ids.items()}
    spellings = {char: text for text, char in chars.items()}
    return BoundFormat(replace(wire_format, **texts), ids, spellings)


def own_call_id(written: str, new_id: str) -> str:
    """Return an id that no other call has; it holds the one that the model wrote, if any."""
    return f"{written}-{new_id}" if written else new_id


def native_call_id(call_id: str) -> str:
    """Return the id that the model wrote, or of another's id one that looks like it."""
    if found := _WRITTEN_ID.fullmatch(call_id):
        return found[1]
    return hashlib.blake2b(call_id.encode()).hexdigest()[:CALL_ID_CHARS]
