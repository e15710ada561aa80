"""Tools' definitions as a model may be shown them: nothing hidden, nothing endless.

Whoever writes a definition writes into every prompt. A person who reviews it must see what the
model sees, so what no screen shows is taken out of texts; a tool whose names or values hide
something is not offered at all.

Source: Unicode 17, general categories Cc, Cf, Co and Cs, and `Default_Ignorable_Code_Point`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tools.spec import JsonObject, ToolSpec

MAX_TEXT_CHARS = 1024
"""Longest description inside a schema."""

MAX_DESCRIPTION_CHARS = 8192
"""Longest description of a tool."""

# Controls except tab and newline, direction marks, tags, private use, halves of characters.
_NEVER_SHOWN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb"
    "\ud800-\udfff\ue000-\uf8ff\U000e0000-\U000e0fff\U000f0000-\U0010ffff"
)
# Joiners, selectors and fillers: in words of some scripts and in emoji they have a place.
_RARELY_SHOWN = (
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2060-\u2065\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0"
)
_HIDDEN_IN_TEXT = re.compile(f"[{_NEVER_SHOWN}{_RARELY_SHOWN}]")
_HIDDEN_IN_VALUE = re.compile(f"[{_NEVER_SHOWN}]")
_ESCAPED = re.compile(r"\\[bfru]")  # how JSON spells some of them, besides much else

_TEXTS = frozenset({"description", "title", "$comment"})
_EXAMPLES = frozenset({"default", "examples"})
_VALUES = frozenset({"enum", "const", "required", "type", "dependentRequired"})
_BY_NAME = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
)
_MAX_LEVELS = 64


def clean_definition(tool: ToolSpec) -> ToolSpec:
    """Return the tool without what is hidden or too long in its texts; most are as they were."""
    told, schema = tool.description, tool.input_schema
    listed = _dump(schema)
    if len(listed) > MAX_TEXT_CHARS or _HIDDEN_IN_TEXT.search(listed) or _ESCAPED.search(listed):
        schema = _clean(schema, 0)
    description = _clean_text(told, MAX_DESCRIPTION_CHARS)
    if description == told and schema == tool.input_schema:
        return tool
    return replace(tool, description=description, input_schema=schema)


def hidden_place(tool: ToolSpec) -> str | None:
    """Where a cleaned tool's name or schema still hides something; None where it does not."""
    if _HIDDEN_IN_VALUE.search(tool.name):
        return "its name"
    listed = _dump(tool.input_schema)
    if listed and not (_HIDDEN_IN_VALUE.search(listed) or _ESCAPED.search(listed)):
        return None
    return next(_hidden(tool.input_schema, "$", 0), None)


def _dump(schema: JsonObject) -> str:
    """The schema as text; "" where it nests so deep that there is none."""
    try:
        return json.dumps(schema, ensure_ascii=False, default=str)
    except RecursionError:
        return ""


def _clean_text(text: str, max_chars: int) -> str:
    return _HIDDEN_IN_TEXT.sub("", text)[:max_chars]


def _clean(schema: Any, level: int) -> Any:
    """A schema with its texts cleaned, and without examples that hide something."""
    if isinstance(schema, list):
        return [_clean(part, level + 1) for part in schema]
    if not isinstance(schema, dict) or level > _MAX_LEVELS:
        return schema
    cleaned: JsonObject = {}
    for key, value in schema.items():
        if key in _TEXTS and isinstance(value, str):
            cleaned[key] = _clean_text(value, MAX_TEXT_CHARS)
        elif key in _BY_NAME and isinstance(value, dict):
            cleaned[key] = {name: _clean(part, level + 1) for name, part in value.items()}
        elif key not in _EXAMPLES:
            cleaned[key] = value if key in _VALUES else _clean(value, level + 1)
        elif not any(_HIDDEN_IN_TEXT.search(text) for text in _texts(value, level)):
            cleaned[key] = value
    return cleaned


def _hidden(value: Any, place: str, level: int) -> Iterator[str]:
    """Places of names and values that hide something."""
    if isinstance(value, str):
        if _HIDDEN_IN_VALUE.search(value):
            yield place
    elif level > _MAX_LEVELS:
        yield f"{place[:_MAX_LEVELS]}…, which nests too deep to be looked at"
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from _hidden(item, f"{place}[{at}]", level + 1)
    elif isinstance(value, dict):
        for name, part in value.items():
            if _HIDDEN_IN_VALUE.search(name):
                yield f"a name in {place}"
            yield from _hidden(part, f"{place}.{name}", level + 1)


def _texts(value: Any, level: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list) and level <= _MAX_LEVELS:
        for item in value.items() if isinstance(value, dict) else value:
            yield from _texts(list(item) if isinstance(item, tuple) else item, level + 1)
