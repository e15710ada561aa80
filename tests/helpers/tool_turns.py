"""Turns of a chat model that may call tools, and what holds for each of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import anyio
import jsonschema

from runtime.chat.messages import AUTO, ChatEvent, Message, TextDelta, ToolChoice, TurnEnd
from runtime.chat.messages import ToolCallDelta as Delta
from runtime.chat.model import ChatModel
from runtime.chat.wire_formats.grammar import choose_tools
from runtime.request import SamplingParams
from tools.spec import JsonObject, ToolSpec


@dataclass(frozen=True)
class Ask:
    """One turn that is asked for."""

    tools: Sequence[ToolSpec]
    sampling: SamplingParams
    choice: ToolChoice = AUTO
    text: str = "What will the weather be in Oslo, in celsius?"


@dataclass(frozen=True)
class Turn:
    """What came of it."""

    ask: Ask
    events: Sequence[ChatEvent]
    end: TurnEnd

    @property
    def calls(self) -> list[tuple[str, JsonObject]]:
        return [(call.name, call.arguments) for call in self.end.message.tool_calls]

    @property
    def streamed(self) -> list[tuple[str, str]]:
        """Names and arguments of the calls as they came piece by piece."""
        joined: dict[int, tuple[str, str]] = {}
        for event in self.events:
            if isinstance(event, Delta):
                name, arguments = joined.get(event.index, ("", ""))
                joined[event.index] = name + (event.name or ""), arguments + event.arguments
        return [joined[index] for index in sorted(joined)]


async def take(model: ChatModel, ask: Ask) -> Turn:
    messages = [Message("user", ask.text)]
    stream = model.stream(messages, tools=ask.tools, tool_choice=ask.choice, sampling=ask.sampling)
    *events, end = [event async for event in stream]
    assert isinstance(end, TurnEnd)
    return Turn(ask, events, end)


async def take_all(model: ChatModel, asks: Sequence[Ask]) -> list[Turn]:
    """Take turns side by side; each one is checked."""
    turns: dict[int, Turn] = {}

    async def take_one(index: int) -> None:
        turns[index] = await take(model, asks[index])

    async with anyio.create_task_group() as group:
        for index in range(len(asks)):
            group.start_soon(take_one, index)
    for turn in turns.values():
        check(turn)
    return [turns[index] for index in range(len(asks))]


def check(turn: Turn) -> None:
    """What holds for every turn, whatever the model makes of it."""
    ask, end = turn.ask, turn.end
    tools = {tool.name: tool for tool in choose_tools(ask.tools, ask.choice)}
    for name, arguments in turn.calls:
        validate(tools[name], arguments)
    is_error = end.finish_reason == "error"
    assert (end.error is not None) == is_error, end
    assert (end.rejected is not None) == is_error, end
    assert is_error or (end.finish_reason == "tool_calls") == bool(turn.calls), end
    streamed = turn.streamed
    if end.rejected is not None:  # its arguments were held back
        assert (end.rejected.name, "") == streamed.pop()
    assert [(name, json.loads(written)) for name, written in streamed] == turn.calls
    text = "".join(event.text for event in turn.events if isinstance(event, TextDelta))
    assert text == end.message.content
    assert end.usage.completion_tokens <= ask.sampling.max_tokens


def validate(tool: ToolSpec, arguments: JsonObject) -> None:
    """Hold arguments against the whole schema, formats too."""
    schema_class = jsonschema.Draft202012Validator
    checker = schema_class(tool.input_schema, format_checker=schema_class.FORMAT_CHECKER)
    checker.validate(arguments)
