"""What the routes of Anthropic's API answer, as the API's document shows it.

Source: anthropic 2.14, `types/message.py`, `types/model_info.py` and `types/shared`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, RootModel

from runtime.http_api.answer_shapes import ErrorAnswer
from runtime.http_api.chat_shapes import Json, Shape


class AnsweredText(Shape):
    """A text that the model wrote."""

    type: Literal["text"]
    text: str
    citations: None


class AnsweredThinking(Shape):
    """What the model thought."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class AnsweredToolUse(Shape):
    """A call that the model wants made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: Json


class MessageUsage(Shape):
    """Tokens that a message took."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    service_tier: Literal["standard"]


class MessageAnswer(Shape):
    """A message."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[
        Annotated[AnsweredText | AnsweredThinking | AnsweredToolUse, Field(discriminator="type")]
    ]
    stop_reason: Literal[
        "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
    ]
    stop_sequence: str | None
    usage: MessageUsage


class CountAnswer(Shape):
    """How many tokens a message's prompt has."""

    input_tokens: int


class ModelInfo(Shape):
    """A model that is served."""

    id: str
    type: Literal["model"]
    display_name: str
    created_at: str
    lifecycle: Literal["active"]


class ModelInfoPage(Shape):
    """All models that are served."""

    data: list[ModelInfo]
    has_more: Literal[False]
    first_id: str | None
    last_id: str | None


class MessageProblem(Shape):
    """What went wrong."""

    type: str
    message: str


class MessageErrorAnswer(Shape):
    """An error."""

    type: Literal["error"]
    error: MessageProblem
    request_id: str


class EitherErrorAnswer(RootModel[ErrorAnswer | MessageErrorAnswer]):
    """An error at an address that OpenAI's API and Anthropic's both have."""
