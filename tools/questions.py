"""What a tool may ask the person behind its caller, and what comes back; MCP's elicitation.

Source: Model Context Protocol 2026-07-28, `ElicitRequestFormParams`, `ElicitResult`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from tools.spec import JsonObject


@dataclass(frozen=True, slots=True)
class Question:
    """A form to fill in, or with `url` a page to go to.

    Attributes:
        message: what the person reads; it says who asks.
        schema: a flat JSON Schema object of what the answer's content must be: strings, numbers,
            booleans and choices, none of them secret.
        url: where the person has to go by themselves; no program opens it. The answer then has
            no content.
    """

    message: str
    schema: JsonObject
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a question: accepted with `content`, declined, or left without a choice."""

    action: Literal["accept", "decline", "cancel"]
    content: JsonObject | None = None


Ask = Callable[[Question], Awaitable[Answer]]
"""Puts a question to the person behind a call; whoever cannot reach one declines."""


async def decline(question: Question) -> Answer:
    """Answer for nobody."""
    return Answer("decline")
