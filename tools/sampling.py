"""What a tool server may ask our model to write, and what it gets; MCP's sampling in our words.

Source: Model Context Protocol 2025-11-25, `CreateMessageRequestParams`, `CreateMessageResult`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from tools.spec import JsonObject, ToolSpec

StopReason = Literal["endTurn", "stopSequence", "maxTokens", "toolUse"]


@dataclass(frozen=True, slots=True)
class SampledCall:
    """A call of one of the server's tools: the server makes it, not we."""

    call_id: str
    name: str
    arguments: JsonObject


@dataclass(frozen=True, slots=True)
class SampledMessage:
    """One turn of the conversation that a server holds.

    Attributes:
        calls: an assistant's calls.
        call_id: of a tool's turn, the call that it answers.
    """

    role: Literal["user", "assistant", "tool"]
    text: str = ""
    calls: tuple[SampledCall, ...] = ()
    call_id: str | None = None


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """A turn that a server asks for, within its budget.

    Attributes:
        server: its configured name.
        temperature: None leaves it to the model's own default.
        tools: what the model may call; the calls are part of the reply.
        tool_mode: whether it may, may not or must call.
    """

    server: str
    messages: tuple[SampledMessage, ...]
    max_tokens: int
    system: str | None = None
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[ToolSpec, ...] = ()
    tool_mode: Literal["auto", "none", "required"] = "auto"


@dataclass(frozen=True, slots=True)
class SamplingReply:
    """What the model wrote, and which model it was."""

    text: str
    model: str
    stop_reason: StopReason
    calls: tuple[SampledCall, ...] = ()


Sampler = Callable[[SamplingRequest], Awaitable[SamplingReply]]
"""Lets our model write; raises a `ZondaError` where it cannot."""
