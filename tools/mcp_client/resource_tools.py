"""Two tools of ours with which a model reads a server's resources; nothing else fetches them.

They bear the server's name like its own tools, so that the operator's rules hold for them.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence

from tools.mcp_client.names import exposed_name
from tools.resources import Resource
from tools.spec import Content, JsonObject, ToolAnnotations, ToolResult, ToolSpec

LIST_RESOURCES = "list_resources"
READ_RESOURCE = "read_resource"
MAX_LISTED = 200
"""Most resources that one result names."""

_HINTS = ToolAnnotations(read_only=True, destructive=False, idempotent=True, open_world=True)
_LIST_SCHEMA: JsonObject = {
    "type": "object",
    "properties": {"containing": {"type": "string"}},
    "additionalProperties": False,
}
_READ_SCHEMA: JsonObject = {
    "type": "object",
    "properties": {"uri": {"type": "string", "minLength": 1}},
    "required": ["uri"],
    "additionalProperties": False,
}


def resource_tools(server: str) -> list[ToolSpec]:
    """Return the two tools for a server."""
    return [
        ToolSpec(
            exposed_name(server, LIST_RESOURCES),
            "List what this server has to read: files, tables, pages, by URI. A URI with {braces}"
            " is a template: fill it in to read one.",
            _LIST_SCHEMA,
            annotations=_HINTS,
            server=server,
        ),
        ToolSpec(
            exposed_name(server, READ_RESOURCE),
            "Read what is at a URI of this server, as a list or a link names it.",
            _READ_SCHEMA,
            annotations=_HINTS,
            server=server,
        ),
    ]


async def call_resource_tool(
    spec: ToolSpec,
    arguments: JsonObject,
    list_resources: Callable[[], Awaitable[Sequence[Resource]]],
    read_resource: Callable[[str], Awaitable[Sequence[Content]]],
) -> ToolResult:
    """Call one of the two, with arguments that fit its schema.

    Raises:
        ToolServerError: the server cannot be asked, or refuses.
    """
    if spec.input_schema is _READ_SCHEMA:
        return ToolResult(tuple(await read_resource(arguments["uri"])))
    wanted = arguments.get("containing", "").lower()
    found = [
        one
        for one in await list_resources()
        if wanted in f"{one.uri} {one.name} {one.description}".lower()
    ]
    lines = [_line(one) for one in found[:MAX_LISTED]]
    if len(found) > MAX_LISTED:
        lines.append(f"[{MAX_LISTED} of {len(found)}; `containing` narrows the list]")
    return ToolResult.from_text("\n".join(lines) or f"{spec.server} has no such resource.")


def _line(one: Resource) -> str:
    told = {"uri": one.uri, "name": one.name, "description": one.description, "type": one.mime_type}
    return json.dumps({key: value for key, value in told.items() if value}, ensure_ascii=False)
