"""Reads files under one folder; nothing outside of it, by `..` or by link, is reachable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tools.errors import InvalidArgumentsError
from tools.function import FunctionToolset, function_tool
from tools.spec import ToolAnnotations

_MAX_ENTRIES = 500
_MAX_READ_BYTES = 64 * 1024

_Path = Annotated[str, Field(description="Relative to the root folder.", max_length=1024)]


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in a folder; a link is "other"."""

    name: str
    kind: Literal["file", "folder", "other"]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Listing:
    """A folder in order of name; `left_out` entries did not fit."""

    entries: list[Entry]
    left_out: int


@dataclass(frozen=True, slots=True)
class FileText:
    """Text of a file; `next_offset` is None at its end."""

    text: str
    size_bytes: int
    next_offset: int | None


def files_toolset(root: Path) -> FunctionToolset:
    """Build the tools over the folder `root`."""
    folder = root.resolve()

    def list_files(path: _Path = ".") -> Listing:
        """List a folder."""
        target = _resolve(folder, path)
        if not target.is_dir():
            raise InvalidArgumentsError(f"{path!r} is not a folder; read_file reads files")
        entries = sorted(target.iterdir())
        shown = [_entry(entry) for entry in entries[:_MAX_ENTRIES]]
        return Listing(shown, len(entries) - len(shown))

    def read_file(path: _Path, offset: Annotated[int, Field(ge=0)] = 0) -> FileText:
        """Read a text file, at most 64 KiB from a byte offset; next_offset reads on."""
        target = _resolve(folder, path)
        if not target.is_file():
            raise InvalidArgumentsError(f"{path!r} is not a file; list_files lists folders")
        with target.open("rb") as file:
            file.seek(offset)
            data = file.read(_MAX_READ_BYTES)
        size = target.stat().st_size
        end = offset + len(data)
        return FileText(data.decode("utf-8", errors="replace"), size, end if end < size else None)

    hints = ToolAnnotations(read_only=True, open_world=False)
    return FunctionToolset(
        function_tool(list_files, annotations=hints), function_tool(read_file, annotations=hints)
    )


def _resolve(folder: Path, path: str) -> Path:
    """Return the real path, links followed, of something that exists inside `folder`.

    Raises:
        InvalidArgumentsError: it does not exist or lies outside.
    """
    try:
        target = (folder / path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as exc:
        raise InvalidArgumentsError(f"{path!r} does not exist under the root folder") from exc
    if not target.is_relative_to(folder):
        raise InvalidArgumentsError(f"{path!r} lies outside of the root folder")
    return target


def _entry(path: Path) -> Entry:
    status = path.lstat()
    kind: Literal["file", "folder", "other"] = "other"
    if not path.is_symlink():
        kind = "folder" if path.is_dir() else "file" if path.is_file() else "other"
    return Entry(path.name, kind, status.st_size)
