"""Notes that live as long as the toolset, in memory only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tools.errors import UnavailableError
from tools.function import FunctionToolset, function_tool
from tools.spec import ToolAnnotations

_MAX_NOTES = 1000


@dataclass(frozen=True, slots=True)
class Note:
    """One note."""

    id: int
    text: str


@dataclass(frozen=True, slots=True)
class NoteList:
    """Every note, oldest first."""

    notes: list[Note]


def notes_toolset() -> FunctionToolset:
    """Build the tools over an empty list of notes."""
    notes: list[Note] = []

    async def add_note(
        text: Annotated[str, Field(description="The note.", min_length=1, max_length=4000)],
    ) -> Note:
        """Keep a note until the server ends."""
        if len(notes) >= _MAX_NOTES:
            raise UnavailableError(f"there are {_MAX_NOTES} notes already; no more can be kept")
        notes.append(Note(len(notes) + 1, text))
        return notes[-1]

    async def list_notes() -> NoteList:
        """List every note, oldest first."""
        return NoteList(list(notes))

    return FunctionToolset(
        function_tool(
            add_note,
            annotations=ToolAnnotations(read_only=False, destructive=False, open_world=False),
        ),
        function_tool(list_notes, annotations=ToolAnnotations(read_only=True, open_world=False)),
    )
