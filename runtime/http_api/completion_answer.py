"""Completions as OpenAI writes them, whole or in pieces.

Source: openai-openapi 2.3.0, `CreateCompletionResponse`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from runtime.request import FinishReason, Usage
from tools.spec import JsonObject


@dataclass(frozen=True, slots=True)
class CompletionHeader:
    """What all pieces of a completion say alike."""

    model: str
    completion_id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def write(self, **fields: object) -> JsonObject:
        return {
            "id": self.completion_id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            **fields,
        }


def write_choice(
    index: int, text: str, logprobs: JsonObject | None, reason: FinishReason | None
) -> JsonObject:
    """Write one text, or a piece of it."""
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": "stop" if reason == "cancelled" else reason,
    }


def write_usage(usages: Sequence[Sequence[Usage]]) -> JsonObject:
    """The tokens of all texts of each prompt; a prompt counts once, a text that lost too."""
    prompt = sum(texts[0].prompt_tokens for texts in usages)
    completion = sum(one.completion_tokens for texts in usages for one in texts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "cached_tokens": sum(texts[0].cached_tokens for texts in usages),
            "audio_tokens": 0,
        },
    }
