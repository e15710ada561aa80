"""Makes a long conversation short: without what is oldest, or with the model's summary of it.

Source: openai-openapi 2.3.0, `/responses/compact`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Literal

from runtime.agent.loop import AgentModel
from runtime.chat.messages import Message, TurnEnd
from runtime.errors import GenerationError
from runtime.http_api.chat_shapes import Json, Shape
from runtime.http_api.responses_events import write_usage
from runtime.http_api.responses_items import Items, new_id
from runtime.http_api.responses_messages import Transcript, seal_text
from runtime.request import SamplingParams, Usage
from tools.spec import JsonObject, ToolSpec

MAX_SUMMARY_TOKENS = 512

_REQUEST = (
    "Summarise this conversation for somebody who goes on with it and has read nothing of it: what"
    " is wanted, what was done and found, what is decided and what is left. Write the summary only."
)


class CompactRequest(Shape):
    """The body of `POST /v1/responses/compact`."""

    model: str
    input: Items | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Json | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    service_tier: str | None = None
    image: Json | None = None


async def compact(
    model: AgentModel, transcript: Transcript, items: Sequence[JsonObject]
) -> JsonObject:
    """Let a model summarise a conversation; return what stands for it: what the user said, too.

    Raises:
        ZondaError: the model failed.
    """
    summary, usage = "", Usage()
    if items:
        summary, usage = await summarise(model, transcript.messages)
    said = [item for item in items if item["type"] == "message" and item["role"] == "user"]
    return {
        "id": f"resp_{secrets.token_hex(24)}",
        "object": "response.compaction",
        "created_at": int(time.time()),
        "output": [*said, write_summary(summary)],
        "usage": write_usage(usage, 0),
    }


def write_summary(summary: str) -> JsonObject:
    """The item that bears a summary."""
    kind = "compaction"
    return {"id": new_id(kind), "type": kind, "encrypted_content": seal_text(summary)}


async def fit_messages(
    messages: Sequence[Message], tools: Sequence[ToolSpec], model: AgentModel, max_tokens: int
) -> tuple[Message, ...]:
    """Drop what is oldest, whole exchanges at a time, until the prompt has room.

    Instructions at the top stay, and so does what the user said last.
    """
    if await model.count_tokens(messages, tools) <= max_tokens:
        return tuple(messages)
    top = next((at for at, one in enumerate(messages) if one.role != "system"), len(messages))
    cuts = [at for at, one in enumerate(messages) if at > top and one.role == "user"]
    low, high = 0, len(cuts) - 1
    while low < high:  # the first cut that leaves room; the last one whatever it leaves
        middle = (low + high) // 2
        shown = [*messages[:top], *messages[cuts[middle] :]]
        if await model.count_tokens(shown, tools) <= max_tokens:
            high = middle
        else:
            low = middle + 1
    return (*messages[:top], *messages[cuts[low] :]) if cuts else tuple(messages)


async def summarise(model: AgentModel, messages: Sequence[Message]) -> tuple[str, Usage]:
    """Let a model summarise messages; of those that don't fit, what is oldest is dropped.

    Raises:
        ZondaError: the model failed.
    """
    max_tokens = min(MAX_SUMMARY_TOKENS, model.context_length // 4)
    asked = await fit_messages(
        [*messages, Message("user", _REQUEST)], (), model, model.context_length - max_tokens
    )
    sampling = SamplingParams(max_tokens=max_tokens)
    async with aclosing(model.stream(asked, sampling=sampling, thinks=False)) as events:
        async for event in events:
            if isinstance(event, TurnEnd) and event.finish_reason in {"stop", "length"}:
                return event.message.content, event.usage
            if isinstance(event, TurnEnd):
                raise GenerationError(event.error or "the turn failed")
    raise GenerationError("the model's turn broke off without an end")
