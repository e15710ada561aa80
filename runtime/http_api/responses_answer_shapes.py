"""What the routes of responses and conversations answer, as the API's document shows it.

Items are those that may be put in again: `responses_items`.
Source: openai-openapi 2.3.0.
"""

from __future__ import annotations

from typing import Literal

from pydantic import RootModel

from runtime.http_api.chat_shapes import Json, Shape
from runtime.http_api.responses_items import AnyItem, CompactionItem, MessageItem
from runtime.http_api.responses_shapes import ConversationId, Metadata


class InputDetails(Shape):
    """Of a response's prompts."""

    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(Shape):
    """Of what a response's turns wrote."""

    reasoning_tokens: int


class ResponseUsage(Shape):
    """Tokens that a response took."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseProblem(Shape):
    """Why a response failed."""

    code: str
    message: str


class Incomplete(Shape):
    """Why a response ends early."""

    reason: Literal["max_output_tokens"]


class ReasoningAnswer(Shape):
    """How thought was asked for."""

    effort: str | None
    summary: str | None


class ResponseAnswer(Shape):
    """A response, finished or not."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["completed", "failed", "in_progress", "cancelled", "queued", "incomplete"]
    error: ResponseProblem | None
    incomplete_details: Incomplete | None
    output: list[AnyItem]
    usage: ResponseUsage | None
    background: bool
    conversation: ConversationId | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: Metadata
    model: str
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ReasoningAnswer
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: Json
    tool_choice: str | Json
    tools: list[Json]
    top_logprobs: int
    top_p: float
    truncation: str
    user: str | None


class InputTokensAnswer(Shape):
    """How many tokens a response's input has."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class CompactedAnswer(Shape):
    """What stands for a conversation from now on."""

    id: str
    object: Literal["response.compaction"]
    created_at: int
    output: list[MessageItem | CompactionItem]
    usage: ResponseUsage


class ItemsPage(Shape):
    """Some of the items of a response's input or of a conversation."""

    object: Literal["list"]
    data: list[AnyItem]
    first_id: str
    last_id: str
    has_more: bool


class ItemAnswer(RootModel[AnyItem]):
    """An item of a conversation."""


class ConversationAnswer(Shape):
    """A conversation."""

    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: Metadata


class DeletedResponse(Shape):
    """That a response was deleted."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class DeletedConversation(Shape):
    """That a conversation was deleted."""

    id: str
    object: Literal["conversation.deleted"]
    deleted: Literal[True]
