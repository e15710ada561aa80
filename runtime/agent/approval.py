"""Asks a person about tool calls: one form for all calls of a turn that policy asks about.

Knows neither why policy asks nor how the form reaches the person.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from runtime.agent.limits import clip
from tools.questions import Ask, Question
from tools.spec import JsonObject, ToolSpec

MAX_ARGUMENT_CHARS = 4_000
"""Longer arguments are cut in the form, which then says so."""


@dataclass(frozen=True, slots=True)
class PendingCall:
    """A call that is made only if a person allows it; `reason` ends "…, because it …"."""

    tool: ToolSpec
    arguments: JsonObject
    reason: str


Approver = Callable[[Sequence[PendingCall]], Awaitable[Sequence[bool] | None]]
"""Asks a person which of a turn's calls may be made; None when nobody answered."""


def approve_by_form(ask: Ask) -> Approver:
    """Ask by a form.

    Only a switch that is on allows a call: a form that was accepted unread allows nothing.
    """

    async def approve(calls: Sequence[PendingCall]) -> list[bool] | None:
        answer = await ask(make_question(calls))
        if answer.action == "cancel":
            return None
        content = answer.content or {} if answer.action == "accept" else {}
        return [content.get(f"call_{number}") is True for number in range(1, len(calls) + 1)]

    return approve


def make_question(calls: Sequence[PendingCall]) -> Question:
    """Make a form with a switch for each call, which shows the exact arguments."""
    which = "this call" if len(calls) == 1 else f"these {len(calls)} calls"
    lines = [f"The local model wants to make {which}. Which may it make?"]
    properties: JsonObject = {}
    for number, call in enumerate(calls, 1):
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        shown = clip(arguments, MAX_ARGUMENT_CHARS)
        lines.append(f"{number}. {call.tool.name} {shown}\n   asks because it {call.reason}")
        properties[f"call_{number}"] = {
            "type": "boolean",
            "title": f"Allow {number}. {call.tool.name}",
        }
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return Question("\n".join(lines), schema)
