"""Conversations as the messages a template can render, its model's calls spelled out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.chat.messages import Message, ToolCall
from runtime.chat.wire_formats.format import (
    CALL_ID,
    CALL_INDEX,
    FieldArguments,
    JsonArguments,
    WireFormat,
    native_call_id,
)
from runtime.chat.wire_formats.notation import hide_name, write_notation
from tools.spec import JsonObject, ToolSpec

WriteJson = Callable[[Any], str]
Hide = Callable[[str], str]
"""Keeps what a model or tool wrote from being read as the template's own text."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a chat template wants of a turn with calls.

    Attributes:
        takes_arguments_as_text: arguments are JSON text, not an object.
        takes_no_content: a turn without text has no content at all.
    """

    takes_arguments_as_text: bool = False
    takes_no_content: bool = False


def describe_tool(tool: ToolSpec) -> JsonObject:
    """A tool as chat templates expect it."""
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.input_schema,
        },
    }


def native_messages(
    wire_format: WireFormat,
    messages: Sequence[Message],
    *,
    dialect: Dialect = Dialect(),
    hide: Hide = str,
) -> list[JsonObject]:
    """For a template that renders calls and results by itself."""
    ids = _native_ids(wire_format, messages)
    rendered: list[JsonObject] = []
    for message in messages:
        entry: JsonObject = {"role": message.role, "content": message.content}
        if message.reasoning and not message.token_ids:
            entry["reasoning_content"] = message.reasoning
        if message.tool_calls and not message.token_ids:
            entry["tool_calls"] = [
                {
                    "id": ids.get(call.call_id, call.call_id),
                    "type": "function",
                    "function": {
                        "name": call.name,
                        "arguments": hide(dump_spaced(call.arguments))
                        if dialect.takes_arguments_as_text
                        else _hide_texts(wire_format, call.arguments, hide),
                    },
                }
                for call in message.tool_calls
            ]
            if dialect.takes_no_content and not message.content:
                entry["content"] = None
        if message.role == "tool":
            call_id = message.call_id or ""
            entry |= {"name": message.name, "tool_call_id": ids.get(call_id, message.call_id)}
        rendered.append(entry)
    return rendered


def _hide_texts(wire_format: WireFormat, arguments: JsonObject, hide: Hide) -> JsonObject:
    """Hide the texts that a template writes as they are; those in JSON it escapes."""
    style = wire_format.arguments
    if isinstance(style, JsonArguments):
        return arguments
    hidden: JsonObject = map_texts(arguments, hide, is_deep=not isinstance(style, FieldArguments))
    return hidden


def map_texts(value: Any, hide: Hide, *, is_deep: bool) -> Any:
    """Apply `hide` to the texts and names of an object, or of all that is in it."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, dict):
        return {
            hide_name(name, hide): map_texts(item, hide, is_deep=is_deep)
            if is_deep or isinstance(item, str)
            else item
            for name, item in value.items()
        }
    if isinstance(value, list) and is_deep:
        return [map_texts(item, hide, is_deep=True) for item in value]
    return value


def _native_ids(wire_format: WireFormat, messages: Sequence[Message]) -> dict[str, str]:
    """Calls' ids as the family writes them, where it does."""
    calls = [call for message in messages for call in message.tool_calls]
    if wire_format.has_call_ids:
        return {call.call_id: native_call_id(call.call_id) for call in calls}
    if wire_format.has_call_indices:
        return {call.call_id: f"functions.{call.name}:{at}" for at, call in enumerate(calls)}
    return {}


def plain_messages(
    wire_format: WireFormat, messages: Sequence[Message], hide: Hide = str
) -> list[JsonObject]:
    """For a template that knows only texts of system, user and assistant.

    Calls join the assistant's text, results a user turn.
    """
    rendered: list[JsonObject] = []
    previous_role, num_calls = None, 0
    for message in messages:
        if message.role == "tool":
            result = wire_format.result_open + message.content + wire_format.result_close
            if previous_role == "tool":
                rendered[-1]["content"] += "\n" + result
            else:
                rendered.append({"role": "user", "content": result})
        else:
            content = message.content
            if message.tool_calls and not message.token_ids:
                calls = write_calls(
                    wire_format, message.tool_calls, first_index=num_calls, hide=hide
                )
                content = "\n".join(filter(None, [content, calls]))
            num_calls += len(message.tool_calls)
            rendered.append({"role": message.role, "content": content})
        previous_role = message.role
    return rendered


def describe_tools(
    wire_format: WireFormat, tools: Sequence[ToolSpec], write_json: WriteJson
) -> str:
    """What tells a model of its tools where its template doesn't."""
    listed = "".join("\n" + write_json(describe_tool(tool)) for tool in tools)
    return wire_format.tools_before + listed + wire_format.tools_after


def fold_system(messages: list[JsonObject]) -> list[JsonObject]:
    """For a template without a system role: put system texts before the next user's."""
    folded: list[JsonObject] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
        elif waiting and message["role"] == "user":
            folded.append({**message, "content": "\n\n".join([*waiting, message["content"]])})
            waiting = []
        else:
            folded.append(message)
    if waiting:
        folded.append({"role": "user", "content": "\n\n".join(waiting)})
    return folded


def one_call_a_turn(messages: Sequence[Message]) -> list[Message]:
    """Give each call of a turn a turn of its own, with its result after it."""
    results = {message.call_id: message for message in messages if message.role == "tool"}
    split: list[Message] = []
    moved: set[str | None] = set()
    for message in messages:
        if len(message.tool_calls) < 2:
            split += [message] if message.call_id is None or message.call_id not in moved else []
            continue
        content = message.content
        for call in message.tool_calls:
            split.append(Message("assistant", content, (call,)))
            split += [results[call.call_id]] if call.call_id in results else []
            moved.add(call.call_id)
            content = ""
    return split


def write_calls(
    wire_format: WireFormat,
    calls: Sequence[ToolCall],
    *,
    first_index: int = 0,
    hide: Hide = str,
) -> str:
    """A turn's calls exactly as the grammar lets a model write them.

    `first_index` is the number of calls in the conversation before these. What is not the
    format's own text goes through `hide`.
    """
    written = (
        _write_call(wire_format, call, first_index + at, hide) for at, call in enumerate(calls)
    )
    return wire_format.opens + (wire_format.between_calls or "").join(written) + wire_format.closes


def write_arguments(wire_format: WireFormat, arguments: JsonObject, hide: Hide = str) -> str:
    """A call's arguments as the family writes them."""
    style = wire_format.arguments
    if isinstance(style, JsonArguments):
        return hide(dump_spaced(arguments) if style.is_spaced else dump_compact(arguments))
    if isinstance(style, FieldArguments):
        return "".join(
            style.before_key
            + hide_name(name, hide)
            + style.before_value
            + hide(value if isinstance(value, str) else dump_compact(value))
            + style.after_value
            for name, value in arguments.items()
        )
    return write_notation(style, arguments, hide)


def dump_spaced(value: Any) -> str:
    """JSON with a blank behind each comma and colon, as Python writes it."""
    return json.dumps(value, ensure_ascii=False)


def dump_compact(value: Any) -> str:
    """Compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _write_call(wire_format: WireFormat, call: ToolCall, index: int, hide: Hide) -> str:
    call_id = native_call_id(call.call_id)

    def fill(text: str) -> str:
        return text.replace(CALL_ID, call_id).replace(CALL_INDEX, str(index))

    return (
        wire_format.before_name
        + call.name
        + fill(wire_format.before_arguments)
        + write_arguments(wire_format, call.arguments, hide)
        + fill(wire_format.after_arguments)
    )


def add_to_system(messages: list[JsonObject], text: str) -> None:
    """Put a text at the end of the system turn, or into a new one."""
    if messages and messages[0]["role"] == "system":
        messages[0]["content"] = "\n\n".join(filter(None, [messages[0]["content"], text]))
    else:
        messages.insert(0, {"role": "system", "content": text})
