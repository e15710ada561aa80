"""Custom tools: the model writes a text to them, not arguments.

To the model such a tool is a function with one argument, a text; its grammar is that text's
`pattern`. Clients see the text alone.

Source: openai-python 3.54, `types/shared/custom_tool_input_format.py`.
"""

from __future__ import annotations

import json
import re

from runtime.errors import UnsupportedSchemaError
from runtime.grammar.compile import from_regex
from runtime.grammar.patterns import portable_pattern
from runtime.http_api.chat_shapes import InputGrammar
from runtime.http_api.faults import bad_request
from tools.spec import JsonObject, ToolSpec
from tools.validation import schema_problem

_INPUT = "input"
_BEGIN = re.compile(rf'\s*\{{\s*"{_INPUT}"\s*:\s*"')
_WHOLE = re.compile(
    r'(?:[^"\\]|\\["\\/bfnrt]|\\u(?![dD][89abAB])[0-9a-fA-F]{4}'
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4})*"
)
"""Of a JSON text, what will not change whatever comes after it."""

_END = re.compile(r"(?<!\\)((?:\\\\)*)\$$")


def custom_tool(name: str, description: str, grammar: InputGrammar | None, where: str) -> ToolSpec:
    """What the model is told of a custom tool, whose grammar stands at `where`.

    Raises:
        FaultError: the grammar is in Lark, or an expression that cannot be enforced exactly.
    """
    text: JsonObject = {"type": "string"}
    if grammar is not None:
        if grammar.syntax != "regex":
            told = "a tool's input can have the form of a regex, or none: its syntax is 'regex'"
            raise bad_request(told, f"{where}.syntax")
        text["pattern"] = _pattern(grammar.definition, f"{where}.definition")
    schema = {
        "type": "object",
        "properties": {_INPUT: text},
        "required": [_INPUT],
        "additionalProperties": False,
    }
    return ToolSpec(name, description, schema)


def _pattern(regex: str, where: str) -> str:
    """A schema's pattern of the texts which an expression matches as a whole."""
    try:
        from_regex(regex)
    except UnsupportedSchemaError as exc:
        raise bad_request(str(exc), where, exc.code) from exc
    inner = _END.sub(r"\1", regex.removeprefix("^"))  # they say of a whole text what is so
    pattern = f"^(?:{inner})$"
    if portable_pattern(pattern) is None or schema_problem({"pattern": pattern}) is not None:
        told = r"no flags, Unicode classes such as \p{L}, set operations, or anchors amid it"
        raise bad_request(f"the expression may have {told}", where)
    return pattern


def input_of(arguments: JsonObject) -> str:
    """The text that a call of a custom tool gives it."""
    return str(arguments[_INPUT])


def arguments_of(text: str) -> JsonObject:
    """A text for a custom tool as the model writes it."""
    return {_INPUT: text}


class InputReader:
    """Reads the text for a custom tool out of the JSON of its arguments, bit by bit."""

    def __init__(self) -> None:
        self._rest = ""
        self._is_begun = False

    def push(self, arguments: str) -> str:
        """Take more JSON; return more of the text, whole characters only."""
        self._rest += arguments
        if not self._is_begun:
            begin = _BEGIN.match(self._rest)
            if begin is None:
                return ""
            self._is_begun = True
            self._rest = self._rest[begin.end() :]
        found = _WHOLE.match(self._rest)
        assert found is not None  # it matches nothing, too
        self._rest = self._rest[found.end() :]
        text: str = json.loads(f'"{found[0]}"', strict=False)
        return text
