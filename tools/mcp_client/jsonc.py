"""JSON with comments and trailing commas, as editors and MCP hosts write it: read and edited.

An edit changes the member it is about and keeps everything else as it stands, comments,
order and indentation included. Knows nothing of what the members mean.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tools.errors import ConfigurationError

_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_TRAILING_COMMA = re.compile(r'"(?:[^"\\\n]|\\.)*"|,(?=\s*[}\]])')
_SPACE = re.compile(r"\s*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class _Member:
    """Where a member of an object stands: from its name to the end of its value."""

    name: str
    start: int
    value_start: int
    end: int


def parse_jsonc(text: str) -> Any:
    """Return the value of a text that may hold comments, trailing commas and a byte order mark.

    Raises:
        ConfigurationError: it is something else; the message starts with line and column.
    """
    try:
        return json.loads(_to_json(text))
    except json.JSONDecodeError as exc:
        raise ConfigurationError(
            f"line {exc.lineno}, column {exc.colno}: not JSON: {exc.msg}"
        ) from exc
    except RecursionError as exc:
        raise ConfigurationError("not usable: nested too deeply") from exc


def set_member(text: str, section: str, name: str, value: Any) -> str:
    """Return `text` with `value` as member `name` of its object `section`, made where absent.

    Raises:
        ConfigurationError: the text is not JSON, or it or its section is no object.
    """
    text = text if text.strip("\ufeff \t\r\n") else "{}\n"
    root = _root(text)
    unit = _unit(text, root)
    found = _find(text, root, section)
    if found is None:
        return _insert(text, root, section, {name: value}, unit, depth=1)
    member = _find(text, found.value_start, name)
    if member is None:
        return _insert(text, found.value_start, name, value, unit, depth=2)
    written = _dump(text, value, unit, depth=2)
    return text[: member.value_start] + written + text[member.end :]


def remove_member(text: str, section: str, name: str) -> str:
    """Return `text` without member `name` of its object `section`; as it is where that is absent.

    Raises:
        ConfigurationError: the text is not JSON, or it or its section is no object.
    """
    if not text.strip("\ufeff \t\r\n"):
        return text
    found = _find(text, _root(text), section)
    member = None if found is None else _find(text, found.value_start, name)
    if member is None:
        return text
    bare = _without_comments(text)
    start = len(text[: member.start].rstrip(" \t\r\n"))
    after = _skip_space(bare, member.end)
    if bare[after] == ",":
        return text[:start] + text[after + 1 :]
    before = len(bare[: member.start].rstrip()) - 1
    if bare[before] == ",":
        return text[:before] + text[before + 1 : start] + text[member.end :]
    return text[:start] + text[member.end :]


def _to_json(text: str) -> str:
    """Blank what JSON does not know; every character keeps its place."""
    bare = _without_comments(text)

    def blank(match: re.Match[str]) -> str:
        if match[0] != ",":
            return match[0]
        before = match.start() - 1
        while before > 0 and bare[before].isspace():
            before -= 1
        return "," if bare[before] in "{[,:" else " "  # a comma that trails nothing stays wrong

    return _TRAILING_COMMA.sub(blank, bare)


def _without_comments(text: str) -> str:
    def blank(match: re.Match[str]) -> str:
        return match[0] if match[0].startswith('"') else re.sub(r"[^\n]", " ", match[0])

    return _COMMENT.sub(blank, " " + text[1:] if text.startswith("\ufeff") else text)


def _root(text: str) -> int:
    if not isinstance(parse_jsonc(text), dict):
        raise ConfigurationError("expected an object at the top")
    return _skip_space(_to_json(text), 0)


def _find(text: str, start: int, name: str) -> _Member | None:
    """Return a member of the object that begins at `start`; of two, the last, which counts."""
    plain = _to_json(text)
    if plain[start] != "{":
        line = plain.count("\n", 0, start) + 1
        raise ConfigurationError(f"line {line}: expected an object, to hold {name!r}")
    named = [member for member in _members(plain, start) if member.name == name]
    return named[-1] if named else None


def _members(plain: str, start: int) -> list[_Member]:
    members: list[_Member] = []
    place = _skip_space(plain, start + 1)
    while plain[place] != "}":
        name, colon = _DECODER.raw_decode(plain, place)
        value_start = _skip_space(plain, _skip_space(plain, colon) + 1)
        _, end = _DECODER.raw_decode(plain, value_start)
        members.append(_Member(name, place, value_start, end))
        place = _skip_space(plain, end)
        if plain[place] == ",":
            place = _skip_space(plain, place + 1)
    return members


def _insert(text: str, start: int, name: str, value: Any, unit: str, *, depth: int) -> str:
    """Put a member at the end of the object that begins at `start`."""
    newline = _newline(text)
    member = f"{json.dumps(name)}: {_dump(text, value, unit, depth=depth)}"
    members = _members(_to_json(text), start)
    if members:
        end = members[-1].end
        return f"{text[:end]},{newline}{unit * depth}{member}{text[end:]}"
    rest = text[start + 1 :]
    closing = "" if rest.lstrip(" \t").startswith(("\n", "\r")) else newline + unit * (depth - 1)
    return f"{text[: start + 1]}{newline}{unit * depth}{member}{closing}{rest}"


def _dump(text: str, value: Any, unit: str, *, depth: int) -> str:
    written = json.dumps(value, indent=unit, ensure_ascii=False)
    return written.replace("\n", _newline(text) + unit * depth)


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _unit(text: str, root: int) -> str:
    """Return what the file indents its first level with."""
    members = _members(_to_json(text), root)
    if not members:
        return "  "
    line = text[: members[0].start].rpartition("\n")[2]
    return line if line and not line.strip() else "  "


def _skip_space(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    assert match is not None
    return match.end()
