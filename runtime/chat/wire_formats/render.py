"""Conversations as the messages a template can render, its model's calls spelled out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from runtime.chat.messages import Message, ToolCall
from runtime.chat.wire_formats.format import CALL_ID, WireFormat, native_call_id
from tools.spec import JsonObject, ToolSpec

WriteJson = Callable[[Any], str]


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


def native_messages(wire_format: WireFormat, messages: Sequence[Message]) -> list[JsonObject]:
    """For a template that renders tools, calls and results by itself."""

    def own_id(call_id: str | None) -> str | None:
        return native_call_id(call_id) if call_id and wire_format.has_call_ids else call_id

    rendered: list[JsonObject] = []
    for message in messages:
        entry: JsonObject = {"role": message.role, "content": message.content}
        if message.tool_calls and not message.token_ids:
            entry["tool_calls"] = [
                {
                    "id": own_id(call.call_id),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in message.tool_calls
            ]
        if message.role == "tool":
            entry |= {"name": message.name, "tool_call_id": own_id(message.call_id)}
        rendered.append(entry)
    return rendered


def plain_messages(
    wire_format: WireFormat,
    messages: Sequence[Message],
    tools: Sequence[ToolSpec],
    write_json: WriteJson,
) -> list[JsonObject]:
    """For a template that knows only texts of system, user and assistant.

    Tools join the system turn, calls the assistant's text, results a user turn.
    """
    rendered: list[JsonObject] = []
    previous_role = None
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
                content = _with_calls(wire_format, content, message.tool_calls, write_json)
            rendered.append({"role": message.role, "content": content})
        previous_role = message.role
    if tools:
        listed = "".join("\n" + write_json(describe_tool(tool)) for tool in tools)
        _add_to_system(rendered, wire_format.tools_before + listed + wire_format.tools_after)
    return rendered


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


def write_calls(wire_format: WireFormat, calls: Sequence[ToolCall], write_json: WriteJson) -> str:
    """A turn's calls exactly as the grammar lets a model write them."""
    written = (_write_call(wire_format, call, write_json) for call in calls)
    return wire_format.opens + (wire_format.between_calls or "").join(written) + wire_format.closes


def dump_compact(value: Any) -> str:
    """Compact JSON, as generated arguments are written."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _with_calls(
    wire_format: WireFormat, content: str, calls: Sequence[ToolCall], write_json: WriteJson
) -> str:
    written = write_calls(wire_format, calls, write_json)
    return "\n".join(filter(None, [content, written]))


def _write_call(wire_format: WireFormat, call: ToolCall, write_json: WriteJson) -> str:
    call_id = native_call_id(call.call_id)
    return (
        wire_format.before_name
        + call.name
        + wire_format.before_arguments.replace(CALL_ID, call_id)
        + write_json(call.arguments)
        + wire_format.after_arguments.replace(CALL_ID, call_id)
    )


def _add_to_system(messages: list[JsonObject], text: str) -> None:
    if messages and messages[0]["role"] == "system":
        messages[0]["content"] = "\n\n".join(filter(None, [messages[0]["content"], text]))
    else:
        messages.insert(0, {"role": "system", "content": text})
