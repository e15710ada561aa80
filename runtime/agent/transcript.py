"""What a run has said and done so far, for whoever reads along; bounded, in memory only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tools.spec import JsonObject

MAX_CHARS = 256 * 1024
"""Most characters of one run's transcript; what comes later is left out."""

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(slots=True)
class Entry:
    """One part: a text, or what a call was made with; text comes in pieces."""

    role: Role
    pieces: list[str] = field(default_factory=list)
    call: JsonObject | None = None

    def to_json(self) -> JsonObject:
        entry: JsonObject = {"role": self.role}
        if self.call is not None:
            entry["call"] = self.call
        if self.pieces or self.call is None:
            entry["text"] = "".join(self.pieces)
        return entry


class Transcript:
    """Grows only; `version` is another number after each growth.

    Invariant: no more than `MAX_CHARS` characters are kept.
    """

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._num_chars = 0
        self.version = 0
        self.is_cut = False

    def add(self, role: Role, text: str = "", call: JsonObject | None = None) -> None:
        """Begin another part."""
        self._entries.append(Entry(role, call=call))
        self._take(text)

    def extend(self, text: str) -> None:
        """Go on with what the assistant writes, in a part of its own."""
        if not self._entries or (last := self._entries[-1]).role != "assistant" or last.call:
            self._entries.append(Entry("assistant"))
        self._take(text)

    def to_json(self) -> list[JsonObject]:
        """All parts so far, each with its role."""
        return [entry.to_json() for entry in self._entries]

    def _take(self, text: str) -> None:
        kept = text[: MAX_CHARS - self._num_chars]
        self.is_cut = self.is_cut or len(kept) < len(text)
        self._num_chars += len(kept)
        if kept:
            self._entries[-1].pieces.append(kept)
        self.version += 1
