"""Tools that do not fit the prompt: the model finds them by words and may call what it found.

The prompt lists one tool, whatever stands behind it, so all runs share its beginning. What is
found is told in results and admitted to the grammar; the prompt only grows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from runtime.agent.ranking import ToolIndex
from runtime.chat.messages import Message
from tools.spec import JsonObject, ToolAnnotations, ToolResult, ToolSpec

MAX_ADMITTED = 32
"""Most tools that may be called at a time; those found longest ago go first."""

MAX_FOUND = 5
"""Most tools that one search finds."""

_MAX_LINE_CHARS = 400
_MAX_SERVERS_NAMED = 12
_READS = ToolAnnotations(read_only=True, destructive=False, idempotent=True, open_world=False)


def search_spec(tools: Sequence[ToolSpec]) -> ToolSpec:
    """The tool that searches these tools; all that the prompt says of them."""
    servers = sorted({tool.server for tool in tools if tool.server is not None})
    of = f" of {', '.join(servers[:_MAX_SERVERS_NAMED])}" if servers else ""
    more = " and others" if len(servers) > _MAX_SERVERS_NAMED else ""
    return ToolSpec(
        _free_name("search_tools", tools),
        f"Find a tool by what it does, then call it. {len(tools)} tools{of}{more} can be found.",
        _texts(query="a few words: what the tool should do"),
        annotations=_READS,
    )


def _describe_spec(tools: Sequence[ToolSpec]) -> ToolSpec:
    """The tool that tells all of one of these; results of searches speak of it."""
    return ToolSpec(
        _free_name("describe_tool", tools),
        "Show the whole definition of a tool.",
        _texts(name="the tool's name"),
        annotations=_READS,
    )


def definition(tool: ToolSpec) -> JsonObject:
    """What a model is told of a tool."""
    return {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}


class ToolSearch:
    """Finds tools for one run, and remembers which.

    Invariant: found are some of the tools, each once, at most `MAX_ADMITTED`, the one that
    was found last at the end.
    """

    def __init__(self, tools: Sequence[ToolSpec], max_chars: int) -> None:
        """Search these; a result has about `max_chars` / 2 characters at most."""
        self._found: list[ToolSpec] = []
        self._tools = {tool.name: tool for tool in tools}
        self._index = ToolIndex(tools)
        self._search, self._describe = search_spec(tools), _describe_spec(tools)
        self._line_chars = min(_MAX_LINE_CHARS, max(40, max_chars // (2 * MAX_FOUND)))

    @property
    def admitted(self) -> Sequence[ToolSpec]:
        """What the model may call, for the conversation tells of it."""
        return (*self._found, self._describe) if self._found else ()

    def has(self, name: str) -> bool:
        """Whether this tool is answered here."""
        return name in {self._search.name, self._describe.name}

    def recall(self, messages: Sequence[Message]) -> None:
        """Admit what the conversation so far has found, described or called."""
        for call in (call for message in messages for call in message.tool_calls):
            if self.has(call.name):
                self.call(call.name, call.arguments)
            elif call.name in self._tools:
                self._admit([self._tools[call.name]])

    def call(self, name: str, arguments: JsonObject) -> ToolResult:
        """Answer a call of one of the two tools."""
        if name == self._search.name:
            return self._find(str(arguments.get("query", "")))
        wanted = str(arguments.get("name", ""))
        if (tool := self._tools.get(wanted)) is None:
            return self._find(wanted)
        self._admit([tool])
        return ToolResult.from_text(json.dumps(definition(tool), ensure_ascii=False))

    def _find(self, query: str) -> ToolResult:
        found = self._index.find(query, MAX_FOUND)
        if not found:
            return ToolResult.from_text("no tool is found by these words; try others")
        self._admit(found)
        lines = [self._line(tool) for tool in found]
        if any(line.endswith("…") for line in lines):
            lines.append(f"{self._describe.name} with the name of a tool tells all of it.")
        return ToolResult.from_text("\n".join(lines))

    def _line(self, tool: ToolSpec) -> str:
        """How a tool is called and what it does; what is cut ends the line."""
        told = " ".join(tool.description.split())
        return _clip(f"{tool.name}({_signature(tool.input_schema)}) {told}", self._line_chars)

    def _admit(self, found: Sequence[ToolSpec]) -> None:
        names = {tool.name for tool in found}
        kept = [tool for tool in self._found if tool.name not in names]
        self._found = [*kept, *reversed(found)][-MAX_ADMITTED:]


def _texts(**parameters: str) -> JsonObject:
    """The schema of an object with these texts, all of which must be there."""
    return {
        "type": "object",
        "properties": {
            name: {"type": "string", "maxLength": 200, "description": told}
            for name, told in parameters.items()
        },
        "required": list(parameters),
    }


def _free_name(name: str, tools: Sequence[ToolSpec]) -> str:
    taken = {tool.name for tool in tools}
    while name in taken:
        name += "_"
    return name


def _signature(schema: JsonObject) -> str:
    """The parameters as `city: string, unit?: "c"|"f"`, those that must be there first."""
    required = schema.get("required")
    needed = set(map(str, required)) if isinstance(required, list) else set()
    properties = schema.get("properties")
    found = properties.items() if isinstance(properties, dict) else ()
    parameters = sorted(found, key=lambda one: one[0] not in needed)
    return ", ".join(
        f"{name}{'' if name in needed else '?'}: {_type(part)}" for name, part in parameters
    )


def _type(schema: Any) -> str:
    if not isinstance(schema, dict):
        return "any"
    if isinstance(schema.get("enum"), list):
        return "|".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    kinds = schema.get("type")
    if kinds == "array" and "|" not in (item := _type(schema.get("items"))):
        return f"{item}[]"
    if isinstance(kinds, str):
        return kinds
    if isinstance(kinds, list):
        return "|".join(map(str, kinds))
    parts = schema.get("anyOf", schema.get("oneOf"))
    return "|".join(map(_type, parts)) if isinstance(parts, list) and parts else "any"


def _clip(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else text[: max(0, max_chars - 1)] + "…"
