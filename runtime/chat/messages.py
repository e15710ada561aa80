"""Messages of a conversation, and the events a model's turn produces."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from runtime.request import FinishReason, TokenScore, Usage
from tools.spec import JsonObject

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call a model issued; `call_id` is unique within the conversation."""

    call_id: str
    name: str
    arguments: JsonObject


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    Attributes:
        role: who speaks.
        content: the text. Of an assistant's turn, what it wrote beside its calls; of a
            tool's turn, the result as the model reads it.
        tool_calls: an assistant's calls.
        call_id: of a tool's turn, the call it answers.
        name: of a tool's turn, the tool's name.
        token_ids: the tokens an assistant's turn was decoded as, without the end-of-turn
            token; they are spliced verbatim when the conversation is rendered again.
        reasoning: what an assistant thought before it answered or called.
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None
    name: str | None = None
    token_ids: tuple[int, ...] = ()
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class TurnStart:
    """What was asked is sound, and is being computed; only for who asks to be told."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the visible answer, and the scores of its tokens where they were asked for.

    The scores of an answer that may yet be mended come with its end alone.
    """

    text: str
    scores: tuple[TokenScore, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of a call: the name once it is known, then its arguments as raw JSON text."""

    index: int
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The turn is over; `message` is complete and can be appended to the conversation.

    Attributes:
        message: what the model said.
        finish_reason: "tool_calls" exactly when it made a call.
        usage: tokens of the turn.
        error: why, where `finish_reason` is "error".
        rejected: the call whose arguments its schema refuses, if that is why; it is not among
            the message's and must not be made.
        scores: of the visible answer's tokens, where they were asked for.
        stopped_by: the stop string that ended the text; None where none did.
    """

    message: Message
    finish_reason: FinishReason
    usage: Usage
    error: str | None = None
    rejected: ToolCall | None = None
    scores: tuple[TokenScore, ...] = ()
    stopped_by: str | None = None


ChatEvent = TurnStart | ReasoningDelta | TextDelta | ToolCallDelta | TurnEnd

ToolChoiceMode = Literal["auto", "none", "required"]


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether and which tools may be called.

    Attributes:
        mode: whether a call may, may not or must be made.
        name: the one tool that must be called; None leaves that to `mode`.
        parallel: whether a turn may call more than once.
        allowed: names of the tools that may be called, of those that the model is told of;
            None allows all.
    """

    mode: ToolChoiceMode = "auto"
    name: str | None = None
    parallel: bool = True
    allowed: tuple[str, ...] | None = None


AUTO = ToolChoice()


@dataclass(frozen=True, slots=True)
class OutputSchema:
    """Constrains the visible answer to a JSON Schema."""

    schema: JsonObject = field(default_factory=dict)
