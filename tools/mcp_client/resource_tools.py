"""Two tools with which a model reads the resources of tool servers; nothing else fetches them.

They are offered where a server has resources, and only for those servers.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence

from tools.resources import Resource
from tools.spec import Content, JsonObject, ToolAnnotations, ToolResult, ToolSpec

LIST_RESOURCES = "list_resources"
READ_RESOURCE = "read_resource"
MAX_LISTED = 200
"""Most resources of a server that one result names."""


def resource_tools(servers: Sequence[str]) -> list[ToolSpec]:
    """Return the tools for these servers; none where there is no server."""
    if not servers:
        return []
    server = {"type": "string", "enum": list(servers)}
    hints = ToolAnnotations(read_only=True, destructive=False, idempotent=True, open_world=True)
    return [
        ToolSpec(
            LIST_RESOURCES,
            "List what a tool server has to read: files, tables, pages, by URI. A URI with"
            " {braces} is a template: fill it in to read one.",
            {
                "type": "object",
                "properties": {"server": server, "containing": {"type": "string"}},
                "required": ["server"],
                "additionalProperties": False,
            },
            annotations=hints,
        ),
        ToolSpec(
            READ_RESOURCE,
            "Read one resource of a tool server by the URI that a list or a link names.",
            {
                "type": "object",
                "properties": {"server": server, "uri": {"type": "string", "minLength": 1}},
                "required": ["server", "uri"],
                "additionalProperties": False,
            },
            annotations=hints,
        ),
    ]


async def call_resource_tool(
    name: str,
    arguments: JsonObject,
    list_resources: Callable[[str], Awaitable[Sequence[Resource]]],
    read_resource: Callable[[str, str], Awaitable[Sequence[Content]]],
) -> ToolResult:
    """Call one of the two, with arguments that fit its schema.

    Raises:
        ToolServerError: the server cannot be asked.
    """
    server = arguments["server"]
    if name == READ_RESOURCE:
        contents = await read_resource(server, arguments["uri"])
        return ToolResult(tuple(contents))
    wanted = arguments.get("containing", "").lower()
    found = [
        one
        for one in await list_resources(server)
        if wanted in f"{one.uri} {one.name} {one.description}".lower()
    ]
    lines = [_line(one) for one in found[:MAX_LISTED]]
    if len(found) > MAX_LISTED:
        lines.append(f"[{MAX_LISTED} of {len(found)}; `containing` narrows the list]")
    return ToolResult.from_text("\n".join(lines) or f"{server} has no such resource.")


def _line(one: Resource) -> str:
    told = {"uri": one.uri, "name": one.name, "description": one.description, "type": one.mime_type}
    return json.dumps({key: value for key, value in told.items() if value}, ensure_ascii=False)
