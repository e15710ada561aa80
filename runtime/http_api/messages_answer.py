"""From the events of a turn to an Anthropic message, whole or as its stream of events.

Source: anthropic 2.14, `types/message.py` and `types/raw_message_stream_event.py`; the order of
events is that of Anthropic's API reference, "Streaming messages".
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from runtime.chat.messages import (
    ChatEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    TurnEnd,
    TurnStart,
)
from runtime.errors import GenerationError
from runtime.http_api.messages_turns import SIGNATURE, sign_thoughts
from tools.spec import JsonObject


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a message before it is made.

    Attributes:
        max_tokens: most tokens that were asked for.
        context_length: most tokens of prompt and answer together.
        shows_thoughts: as in `MessageTurn`.
    """

    model: str
    max_tokens: int
    context_length: int
    shows_thoughts: bool | None
    message_id: str = field(default_factory=lambda: _new_id("msg"))

    def write(self, content: list[JsonObject], usage: JsonObject, end: JsonObject) -> JsonObject:
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            **end,
            "usage": usage,
        }


def write_message(answer: Answer, end: TurnEnd) -> JsonObject:
    """Write a whole message.

    Raises:
        GenerationError: the turn failed.
    """
    message = end.message
    content: list[JsonObject] = []
    if message.reasoning and answer.shows_thoughts is not False:
        content.append(_thoughts(answer, message.reasoning))
    if message.content:
        content.append({"type": "text", "text": message.content, "citations": None})
    content += [{**_call(call.name), "input": call.arguments} for call in message.tool_calls]
    return answer.write(
        content, {**write_usage(end), "service_tier": "standard"}, _end(answer, end)
    )


def write_usage(end: TurnEnd) -> JsonObject:
    """The tokens of a turn; those found in the prefix cache are counted apart."""
    usage = end.usage
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


class EventWriter:
    """Writes the events of one message; text, thoughts and each call are a block of their own."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._num_blocks = 0
        self._open: ChatEvent | None = None
        self._thoughts = ""

    def push(self, event: ChatEvent) -> Iterator[JsonObject]:
        """Events for one of ours.

        Raises:
            GenerationError: the turn failed.
        """
        match event:
            case TurnStart():
                yield self._begin(event.prompt_tokens)
                yield {"type": "ping"}
            case TextDelta():
                yield from self._begin_block(event, {"type": "text", "text": ""})
                yield self._delta({"type": "text_delta", "text": event.text})
            case ReasoningDelta():
                yield from self._think(event)
            case ToolCallDelta():
                if event.name is not None:
                    yield from self._begin_block(event, _call(event.name))
                if event.arguments:
                    yield self._delta({"type": "input_json_delta", "partial_json": event.arguments})
            case TurnEnd():
                end = _end(self._answer, event)
                yield from self._end_block()
                yield {"type": "message_delta", "delta": end, "usage": write_usage(event)}
                yield {"type": "message_stop"}

    def _begin(self, num_prompt_tokens: int) -> JsonObject:
        usage = {
            "input_tokens": num_prompt_tokens,  # how many are cached shows when they are read
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
            "service_tier": "standard",
        }
        end = {"stop_reason": None, "stop_sequence": None}
        return {"type": "message_start", "message": self._answer.write([], usage, end)}

    def _think(self, event: ReasoningDelta) -> Iterator[JsonObject]:
        if self._answer.shows_thoughts is False:
            return
        self._thoughts += event.text
        block = {"type": "thinking", "thinking": "", "signature": ""}
        yield from self._begin_block(event, block)
        if self._answer.shows_thoughts:
            yield self._delta({"type": "thinking_delta", "thinking": event.text})

    def _begin_block(self, event: ChatEvent, block: JsonObject) -> Iterator[JsonObject]:
        """Begin a block, unless the event goes on with the one that is open."""
        if type(self._open) is type(event) and not isinstance(event, ToolCallDelta):
            return
        yield from self._end_block()
        self._open = event
        yield {"type": "content_block_start", "index": self._num_blocks, "content_block": block}

    def _end_block(self) -> Iterator[JsonObject]:
        if self._open is None:
            return
        if isinstance(self._open, ReasoningDelta):
            signature = _thoughts(self._answer, self._thoughts)["signature"]
            yield self._delta({"type": "signature_delta", "signature": signature})
            self._thoughts = ""
        yield {"type": "content_block_stop", "index": self._num_blocks}
        self._num_blocks += 1
        self._open = None

    def _delta(self, delta: JsonObject) -> JsonObject:
        return {"type": "content_block_delta", "index": self._num_blocks, "delta": delta}


def _end(answer: Answer, end: TurnEnd) -> JsonObject:
    return {"stop_reason": _stop_reason(answer, end), "stop_sequence": end.stopped_by}


def _stop_reason(answer: Answer, end: TurnEnd) -> str:
    num_tokens = end.usage.completion_tokens
    is_over = num_tokens >= answer.max_tokens
    is_full = num_tokens + end.usage.prompt_tokens >= answer.context_length
    # A call that the limit broke off is an error of ours, and none of Anthropic's.
    is_cut = end.finish_reason == "error" and end.rejected is None and (is_over or is_full)
    if end.finish_reason == "error" and not is_cut:
        raise GenerationError(end.error or "the turn failed")
    if end.finish_reason == "length" or is_cut:
        return "max_tokens" if is_over else "model_context_window_exceeded"
    if end.stopped_by is not None:
        return "stop_sequence"
    return "tool_use" if end.finish_reason == "tool_calls" else "end_turn"


def _thoughts(answer: Answer, text: str) -> JsonObject:
    if answer.shows_thoughts is None:
        return {"type": "thinking", "thinking": "", "signature": sign_thoughts(text)}
    return {"type": "thinking", "thinking": text, "signature": SIGNATURE}


def _call(name: str) -> JsonObject:
    return {"type": "tool_use", "id": _new_id("toolu"), "name": name, "input": {}}


def _new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(12)}"
