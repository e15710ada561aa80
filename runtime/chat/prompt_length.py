"""Refuses what is longer than a model's context before it waits for its turn.

Counts tokens only of what could fit and of what could not: a text of fewer bytes than the context
has tokens fits, for no token is shorter than a byte, and one of more bytes than that many of the
longest token does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from runtime.chat.messages import Message
from runtime.errors import PromptTooLongError
from runtime.grammar.schema import dump_json
from runtime.tokenizer.tokenizer import Tokenizer
from tools.spec import ToolSpec


class Counts(Protocol):
    """A model that can say how long a prompt is; `ChatModel` is one."""

    @property
    def context_length(self) -> int: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    async def count_tokens(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
    ) -> int: ...


async def check_length(
    model: Counts, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
) -> None:
    """Refuse a conversation that is too long.

    Raises:
        PromptTooLongError: the messages and tools fill the context.
    """
    num_bytes = sum(len(message.content.encode()) for message in messages)
    if num_bytes + sum(_size_around(messages, tools)) < model.context_length:
        return
    at_least = num_bytes // model.tokenizer.max_token_bytes
    is_known = at_least < model.context_length
    num_tokens = await model.count_tokens(messages, tools) if is_known else at_least
    if num_tokens >= model.context_length:
        raise PromptTooLongError(
            f"the prompt has {'' if is_known else 'at least '}{num_tokens} tokens, but the context "
            f"has {model.context_length}: shorten the messages or offer fewer tools"
        )


def _size_around(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Iterator[int]:
    """Bytes of what templates write in ways of their own, or leave out."""
    for message in messages:
        yield len(message.reasoning)
        yield from (len(dump_json(call.arguments)) for call in message.tool_calls)
    for tool in tools:
        yield len(tool.description) + len(dump_json(tool.input_schema))
