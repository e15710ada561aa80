"""Our tools and results to MCP's types and back; the only place where both are known."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

import mcp_types as types

from tools.spec import (
    Content,
    MediaContent,
    ResourceLink,
    TextContent,
    ToolAnnotations,
    ToolResult,
    ToolSpec,
)

_MAX_DESCRIPTION_CHARACTERS = 8192
# Controls except tab and newline, zero-width and direction marks, and the tag block: they
# hide text from whoever reviews a definition, not from the model.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"
    "\U000e0000-\U000e007f]"
)


_MEDIA: Mapping[str, Literal["image", "audio"]] = {"image": "image", "audio": "audio"}


def clean_text(text: str, max_characters: int) -> str:
    """Return a text of a server's without what hides in it, and no longer than that."""
    return _INVISIBLE.sub("", text)[:max_characters]


def to_mcp_tool(spec: ToolSpec) -> types.Tool:
    """Offer one of our tools to an MCP client."""
    hints = spec.annotations
    return types.Tool(
        name=spec.name,
        title=spec.title,
        description=spec.description,
        input_schema=spec.input_schema,
        output_schema=spec.output_schema,
        annotations=types.ToolAnnotations(
            read_only_hint=hints.read_only,
            destructive_hint=hints.destructive,
            idempotent_hint=hints.idempotent,
            open_world_hint=hints.open_world,
        ),
    )


def from_mcp_tool(tool: types.Tool, *, name: str, server: str) -> ToolSpec:
    """Take a server's tool under the name `name`; its description is cleaned and bounded."""
    hints = tool.annotations or types.ToolAnnotations()
    description = clean_text(tool.description or "", _MAX_DESCRIPTION_CHARACTERS)
    return ToolSpec(
        name=name,
        description=description,
        input_schema=tool.input_schema,
        output_schema=tool.output_schema,
        title=tool.title or hints.title,
        annotations=ToolAnnotations(
            read_only=hints.read_only_hint,
            destructive=hints.destructive_hint,
            idempotent=hints.idempotent_hint,
            open_world=hints.open_world_hint,
        ),
        server=server,
    )


def to_mcp_result(result: ToolResult) -> types.CallToolResult:
    """Answer an MCP client with one of our results."""
    return types.CallToolResult(
        content=[to_mcp_content(block) for block in result.content],
        structured_content=result.structured,
        is_error=result.is_error,
    )


def from_mcp_result(result: types.CallToolResult) -> ToolResult:
    """Take a server's result; a structured value that is no object becomes text."""
    content = [from_mcp_content(block) for block in result.content]
    structured: Any = result.structured_content
    if structured is not None and not isinstance(structured, dict):
        if not content:
            content.append(TextContent(json.dumps(structured, ensure_ascii=False)))
        structured = None
    return ToolResult(tuple(content), structured, result.is_error)


def to_mcp_content(block: Content) -> types.ContentBlock:
    """Answer an MCP client with a block of ours."""
    if isinstance(block, TextContent):
        return types.TextContent(text=block.text)
    if isinstance(block, ResourceLink):
        return types.ResourceLink(uri=block.uri, name=block.name, mime_type=block.mime_type)
    data = base64.b64encode(block.data).decode("ascii")
    if block.kind == "image":
        return types.ImageContent(data=data, mime_type=block.mime_type)
    return types.AudioContent(data=data, mime_type=block.mime_type)


def from_mcp_content(block: types.ContentBlock) -> Content:
    """Take a block of a result or of a prompt."""
    if isinstance(block, types.TextContent):
        return TextContent(block.text)
    if isinstance(block, types.ResourceLink):
        return ResourceLink(str(block.uri), block.name, block.mime_type)
    if isinstance(block, types.EmbeddedResource):
        return from_mcp_resource(block.resource)
    return _decode(block.type, block.data, block.mime_type)


def from_mcp_resource(
    resource: types.TextResourceContents | types.BlobResourceContents,
) -> Content:
    """Take the text of a resource, or its picture or sound; other data is only told of."""
    if isinstance(resource, types.TextResourceContents):
        return TextContent(resource.text)
    mime_type = resource.mime_type or "application/octet-stream"
    if (kind := _MEDIA.get(mime_type.partition("/")[0])) is not None:
        return _decode(kind, resource.blob, mime_type)
    num_bytes = len(resource.blob) * 3 // 4 - resource.blob[-2:].count("=")
    return TextContent(f"[data of {resource.uri}, {mime_type}, {num_bytes} bytes, not shown]")


def _decode(kind: Literal["image", "audio"], text: str, mime_type: str) -> Content:
    try:
        return MediaContent(kind, base64.b64decode(text, validate=True), mime_type)
    except binascii.Error:
        return TextContent(f"[{kind} {mime_type}, damaged: not base64]")
