"""From the events of a turn to a chat completion, whole or in chunks.

Source: openai-openapi 2.3.0, `CreateChatCompletionResponse` and its stream response; the order
of chunks is that of recorded streams.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from runtime.chat.messages import (
    ChatEvent,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    TurnEnd,
)
from runtime.errors import GenerationError
from runtime.http_api.custom_tools import InputReader, input_of
from runtime.http_api.logprobs import write_chat_logprobs
from runtime.request import TokenScore
from runtime.tokenizer.tokenizer import Tokenizer
from tools.spec import JsonObject


@dataclass(frozen=True, slots=True)
class Header:
    """What all chunks of a completion say alike."""

    model: str
    completion_id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(16)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def write(self, kind: str, **fields: object) -> JsonObject:
        return {
            "id": self.completion_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": None,
            **fields,
        }


def write_completion(
    header: Header,
    ends: list[TurnEnd],
    tokenizer: Tokenizer,
    *,
    is_legacy: bool,
    has_scores: bool,
    is_predicted: bool,
    custom: Collection[str] = (),
) -> JsonObject:
    """Write a whole completion of one turn for each choice; with scores, of each token, too.

    `custom` are the names of the tools that get a text.

    Raises:
        GenerationError: a turn failed.
    """
    choices = [
        {
            "index": index,
            "message": _message(end, custom, is_legacy=is_legacy),
            "logprobs": write_chat_logprobs(end.scores, tokenizer) if has_scores else None,
            "finish_reason": finish_reason(end, is_legacy=is_legacy),
        }
        for index, end in enumerate(ends)
    ]
    usage = write_usage(ends, tokenizer, is_predicted=is_predicted)
    return header.write("chat.completion", choices=choices, usage=usage)


def finish_reason(end: TurnEnd, *, is_legacy: bool) -> str:
    """OpenAI's word for how a turn ended.

    Raises:
        GenerationError: it failed.
    """
    if end.finish_reason == "error":
        raise GenerationError(end.error or "the turn failed")
    if end.finish_reason == "tool_calls" and is_legacy:
        return "function_call"
    return "stop" if end.finish_reason == "cancelled" else end.finish_reason


def write_totals(ends: list[TurnEnd]) -> JsonObject:
    """The tokens of all choices; the prompt counts once."""
    prompt = ends[0].usage.prompt_tokens
    completion = sum(end.usage.completion_tokens for end in ends)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def write_usage(ends: list[TurnEnd], tokenizer: Tokenizer, *, is_predicted: bool) -> JsonObject:
    """As `write_totals`, and what they were for; thoughts count as the tokens of their text.

    `is_predicted` tells, too, how many tokens were guessed, whatever from, and came out so.
    """
    tried = sum(end.usage.drafted_tokens for end in ends) if is_predicted else 0
    accepted = sum(end.usage.accepted_tokens for end in ends) if is_predicted else 0
    thoughts = [end.message.reasoning for end in ends if end.message.reasoning]
    return {
        **write_totals(ends),
        "prompt_tokens_details": {"cached_tokens": ends[0].usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": sum(len(tokenizer.encode(text)) for text in thoughts),
            "audio_tokens": 0,
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": tried - accepted,
        },
    }


class ChunkWriter:
    """Writes the chunks of one choice; the first event brings the assistant's role."""

    def __init__(
        self,
        header: Header,
        index: int,
        *,
        is_legacy: bool,
        has_usage: bool,
        scored_by: Tokenizer | None = None,
        custom: Collection[str] = (),
    ) -> None:
        self._header = header
        self._index = index
        self._is_legacy = is_legacy
        self._usage: JsonObject = {"usage": None} if has_usage else {}
        self._scored_by = scored_by
        self._num_scores = 0
        self._custom = custom
        self._inputs: dict[int, InputReader] = {}

    def begin(self) -> JsonObject:
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def push(self, event: ChatEvent) -> Iterator[JsonObject]:
        """Chunks for one event.

        Raises:
            GenerationError: the turn failed.
        """
        match event:
            case TextDelta():
                self._num_scores += len(event.scores)
                yield self._chunk({"content": event.text}, scores=event.scores)
            case ReasoningDelta():
                yield self._chunk({"reasoning": event.text, "reasoning_content": event.text})
            case ToolCallDelta():
                if event.name in self._custom:
                    self._inputs[event.index] = InputReader()
                reader = self._inputs.get(event.index)
                if reader is None:
                    yield self._chunk(self._call(event))
                elif (text := reader.push(event.arguments)) or event.name is not None:
                    yield self._chunk(self._custom_call(event, text))
            case TurnEnd():
                reason = finish_reason(event, is_legacy=self._is_legacy)
                yield self._chunk({}, reason, scores=event.scores[self._num_scores :])

    def _call(self, event: ToolCallDelta) -> JsonObject:
        function: JsonObject = {"arguments": event.arguments}
        if event.name is not None:
            function = {"name": event.name, "arguments": event.arguments}
        if self._is_legacy:
            return {"function_call": function}
        return self._tool_call(event, "function", function)

    def _custom_call(self, event: ToolCallDelta, text: str) -> JsonObject:
        name = {} if event.name is None else {"name": event.name}
        return self._tool_call(event, "custom", {**name, "input": text})

    def _tool_call(self, event: ToolCallDelta, kind: str, more: JsonObject) -> JsonObject:
        begun = {} if event.name is None else {"id": _new_call_id(), "type": kind}
        return {"tool_calls": [{"index": event.index, **begun, kind: more}]}

    def _chunk(
        self, delta: JsonObject, reason: str | None = None, scores: Sequence[TokenScore] = ()
    ) -> JsonObject:
        choice = {
            "index": self._index,
            "delta": delta,
            "logprobs": write_chat_logprobs(scores, self._scored_by)
            if scores and self._scored_by
            else None,
            "finish_reason": reason,
        }
        return self._header.write("chat.completion.chunk", choices=[choice], **self._usage)


def _new_call_id() -> str:
    """A name for a call that no other call of the conversation has."""
    return f"call_{secrets.token_hex(12)}"


def _message(end: TurnEnd, custom: Collection[str], *, is_legacy: bool) -> JsonObject:
    calls = end.message.tool_calls
    message: JsonObject = {
        "role": "assistant",
        "content": end.message.content or (None if calls else ""),
        "refusal": None,
        "annotations": [],
    }
    if end.message.reasoning:
        message["reasoning"] = message["reasoning_content"] = end.message.reasoning
    if calls and is_legacy:
        message["function_call"] = _function(calls[0])
    elif calls:
        message["tool_calls"] = [
            {"id": call.call_id, "type": "custom", "custom": _text_for(call)}
            if call.name in custom
            else {"id": call.call_id, "type": "function", "function": _function(call)}
            for call in calls
        ]
    return message


def _function(call: ToolCall) -> JsonObject:
    return {"name": call.name, "arguments": _dump(call.arguments)}


def _text_for(call: ToolCall) -> JsonObject:
    return {"name": call.name, "input": input_of(call.arguments)}


def _dump(arguments: JsonObject) -> str:
    return json.dumps(arguments, ensure_ascii=False)
