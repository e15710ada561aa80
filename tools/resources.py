"""What servers offer beside tools, to be read or to begin a conversation with; in MCP's terms.

Source: Model Context Protocol 2026-07-28, `Resource`, `ResourceTemplate`, `Prompt`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tools.spec import Content


@dataclass(frozen=True, slots=True)
class Resource:
    """Something of a server's that can be read; `uri` may be a template such as `db://{table}`.

    Attributes:
        size: of what it holds, in bytes, where the server says so.
    """

    uri: str
    name: str
    description: str = ""
    mime_type: str | None = None
    size: int | None = None
    is_template: bool = False


@dataclass(frozen=True, slots=True)
class PromptArgument:
    """A text that a prompt is made with."""

    name: str
    description: str = ""
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages that a server makes for a person who picks it."""

    name: str
    description: str = ""
    arguments: tuple[PromptArgument, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """One turn of a prompt."""

    role: Literal["user", "assistant"]
    content: Content
