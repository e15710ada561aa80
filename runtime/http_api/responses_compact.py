"""Makes a long conversation short: what the user said, and the model's summary of all the rest.

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
from runtime.http_api.responses_run import fit_messages
from runtime.request import SamplingParams, Usage
from tools.spec import JsonObject

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
    """Let a model summarise a conversation; return what stands for it from then on.

    Raises:
        ZondaError: the model failed.
    """
    summary, usage = "", Usage()
    if items:
        summary, usage = await _summarise(model, transcript.messages)
    said = [item for item in items if item["type"] == "message" and item["role"] == "user"]
    kind = "compaction"
    item = {"id": new_id(kind), "type": kind, "encrypted_content": seal_text(summary)}
    return {
        "id": f"resp_{secrets.token_hex(24)}",
        "object": "response.compaction",
        "created_at": int(time.time()),
        "output": [*said, item],
        "usage": write_usage(usage, 0),
    }


async def _summarise(model: AgentModel, messages: Sequence[Message]) -> tuple[str, Usage]:
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
