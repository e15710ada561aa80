"""What a tool is and what a call returns, in MCP's terms; the one vocabulary for all tools.

Source: Model Context Protocol 2026-07-28, `Tool`, `ToolAnnotations`, `CallToolResult`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolAnnotations:
    """Hints about a tool's behaviour; None where its author said nothing.

    They are claims of the tool's author: policy decides how far to trust them.
    """

    read_only: bool | None = None
    destructive: bool | None = None
    idempotent: bool | None = None
    open_world: bool | None = None


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """One tool as it is offered to a model or a host.

    `name` is unique within its toolset; `server` is the configured name of the external
    server behind it, or None for a local function. Schemas are JSON Schema objects
    (2020-12 unless `$schema` says otherwise) and must not be changed.
    """

    name: str
    description: str
    input_schema: JsonObject
    output_schema: JsonObject | None = None
    title: str | None = None
    annotations: ToolAnnotations = field(default_factory=ToolAnnotations)
    server: str | None = None


@dataclass(frozen=True, slots=True)
class TextContent:
    """Text a model can read."""

    text: str

    @property
    def as_text(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class MediaContent:
    """An image or a sound; `data` is the decoded bytes."""

    kind: Literal["image", "audio"]
    data: bytes
    mime_type: str

    @property
    def as_text(self) -> str:
        return f"[{self.kind} {self.mime_type}, {len(self.data)} bytes, not shown]"


@dataclass(frozen=True, slots=True)
class ResourceLink:
    """A pointer to a resource of the server; never fetched on its own."""

    uri: str
    name: str
    mime_type: str | None = None

    @property
    def as_text(self) -> str:
        kind = f", {self.mime_type}" if self.mime_type else ""
        return f"[resource {self.name} at {self.uri}{kind}]"


Content = TextContent | MediaContent | ResourceLink


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call returned; a tool that failed returns one with `is_error` set."""

    content: tuple[Content, ...] = ()
    structured: JsonObject | None = None
    is_error: bool = False

    @property
    def text(self) -> str:
        """What a model reads: the content, its texts as the structured value where there is one."""
        blocks = self.content
        if self.structured is None or self.is_error:
            return "\n".join(block.as_text for block in blocks)
        value = json.dumps(self.structured, ensure_ascii=False, separators=(",", ":"))
        others = [block.as_text for block in blocks if not isinstance(block, TextContent)]
        return "\n".join([value, *others])

    @classmethod
    def from_text(cls, text: str, *, is_error: bool = False) -> ToolResult:
        return cls(content=(TextContent(text),), is_error=is_error)
