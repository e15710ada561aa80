"""How a model family writes tool calls: a frozen row of data that three functions read.

Rendering, grammar and parser are functions of the same row, so they cannot disagree.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

CALL_ID = "\0"
"""Stands in a format's texts where a call's id of `CALL_ID_CHARS` letters and digits stands."""

CALL_ID_CHARS = 9

_WRITTEN_ID = re.compile(rf"([A-Za-z0-9]{{{CALL_ID_CHARS}}})(?:-.*)?")


@dataclass(frozen=True, slots=True)
class WireFormat:
    """The punctuation of tool calls with JSON arguments.

    The calls of a turn read `opens + CALL + between_calls + CALL … + closes`, each call
    `before_name + NAME + before_arguments + ARGUMENTS + after_arguments`. Whatever of these
    texts is one of `markers` is a single token where the vocabulary has it.

    Attributes:
        name: how logs and reports call the format.
        markers: pieces of the other texts that vocabularies of the family have as tokens.
        between_calls: None where a turn has one call at most.
        vocabulary: control tokens that only this family has; they tell it where the model's
            template renders no tools.
        tools_before: introduces the tools in the system turn, where the model's template
            renders none; one JSON line per tool follows.
        tools_after: closes that list and tells how to call.
        result_open: stands before a tool's result, and `result_close` after it, in the user
            turn that carries results where the template renders no tools.
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

    @property
    def trigger(self) -> str:
        """What no free text may hold: the marker that `opens` begins with, or all of it."""
        begun = [marker for marker in self.markers if self.opens.startswith(marker)]
        return begun[0] if begun else self.opens

    @property
    def has_call_ids(self) -> bool:
        """Whether the model names its calls itself."""
        return CALL_ID in self.before_arguments + self.after_arguments


def own_call_id(written: str, new_id: str) -> str:
    """Return an id that no other call has; it holds the one that the model wrote, if any."""
    return f"{written}-{new_id}" if written else new_id


def native_call_id(call_id: str) -> str:
    """Return the id that the model wrote, or of another's id one that looks like it."""
    if found := _WRITTEN_ID.fullmatch(call_id):
        return found[1]
    return hashlib.blake2b(call_id.encode()).hexdigest()[:CALL_ID_CHARS]
