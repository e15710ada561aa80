"""`chat`: a turn for callers that hold a transcript; calls come back and are not made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcp_servers.model_server.calls import (
    Model,
    compact,
    done,
    follow_turn,
    note_messages,
    sampling_of,
    usage_of,
)
from mcp_servers.model_server.schemas import (
    CLOSED,
    MAX_TOKENS,
    SEED,
    STOP,
    TEMPERATURE,
    USAGE,
    WAIT,
    object_schema,
    outcome_schema,
)
from runtime.agent.runs import Run
from runtime.chat.messages import Message, ToolCall, ToolChoice
from tools.errors import InvalidArgumentsError, suggest
from tools.spec import JsonObject, ToolResult, ToolSpec

MAX_MESSAGES = 512
MAX_TOOLS = 128

_CALL: JsonObject = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "name": {"type": "string"},
        "arguments": {"type": "object"},
    },
    "required": ["id", "name", "arguments"],
}
_MESSAGE: JsonObject = {
    "type": "object",
    "properties": {
        "role": {"type": "string", "enum": ["system", "user", "assistant", "tool"]},
        "content": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "type": {"type": "string", "enum": ["text"]},
                            "text": {"type": "string"},
                        },
                        "required": ["type", "text"],
                    },
                },
            ],
            "description": "A text, or blocks of text.",
        },
        "tool_calls": {"type": "array", "items": _CALL, "description": "Of an assistant."},
        "tool_call_id": {"type": "string", "description": "Of a tool: the call it answers."},
    },
    "required": ["role"],
}
_TOOL: JsonObject = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "description": {"type": "string"},
        "inputSchema": {"type": "object"},
    },
    "required": ["name", "inputSchema"],
}
CHATTED: JsonObject = {
    "message": {
        "type": "object",
        "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
        "required": ["role", "content"],
    },
    "tool_calls": {"type": "array", "items": _CALL},
    "finish_reason": {"type": "string", "enum": ["stop", "length", "tool_calls"]},
    "model": {"type": "string"},
    "usage": USAGE,
}


def chat_spec(model: JsonObject) -> ToolSpec:
    """Describe `chat`."""
    return ToolSpec(
        name="chat",
        title="Chat turn",
        description="Let a local model take the next turn of a conversation that you hold. Calls "
        "of your tools are valid by construction; they are returned, not made. Use generate for "
        "a single task.",
        input_schema=object_schema(
            {
                "messages": {
                    "type": "array",
                    "items": _MESSAGE,
                    "minItems": 1,
                    "maxItems": MAX_MESSAGES,
                    "description": "The conversation so far.",
                },
                "tools": {
                    "type": "array",
                    "items": _TOOL,
                    "maxItems": MAX_TOOLS,
                    "description": "What the model may call.",
                },
                "tool_choice": {
                    "type": "string",
                    "default": "auto",
                    "description": "auto, none, required, or the name of the tool to call.",
                },
                "model": model,
                "max_tokens": MAX_TOKENS,
                "temperature": TEMPERATURE,
                "seed": SEED,
                "stop": STOP,
                "wait_seconds": WAIT,
            },
            required=["messages"],
        ),
        output_schema=outcome_schema(CHATTED),
        annotations=CLOSED,
    )


async def chat(run: Run, model: Model, arguments: JsonObject) -> ToolResult:
    """Let the model take one turn.

    Raises:
        InvalidArgumentsError: a tool's answer without its call, or an unknown choice.
        GenerationError: the turn failed.
    """
    messages = _read_messages(arguments["messages"])
    tools = [_read_tool(tool) for tool in arguments.get("tools", ())]
    choice = _read_choice(arguments.get("tool_choice", "auto"), [tool.name for tool in tools])
    note_messages(run, messages)
    sampling = sampling_of(arguments)
    turn = model.stream(messages, tools=tools, tool_choice=choice, sampling=sampling)
    end, seconds = await follow_turn(run, turn, sampling.max_tokens)
    made = [
        {"id": call.call_id, "name": call.name, "arguments": call.arguments}
        for call in end.message.tool_calls
    ]
    for call in made:
        run.transcript.add("assistant", call=call)
    text = end.message.content
    return done(
        text or compact(made),
        message={"role": "assistant", "content": text},
        tool_calls=made,
        finish_reason=end.finish_reason,
        model=model.name,
        usage=usage_of(end.usage, seconds),
    )


def _read_messages(given: Sequence[JsonObject]) -> list[Message]:
    """The conversation; a tool's answer gets the name of the call it answers."""
    names: dict[str, str] = {}
    messages = []
    for index, one in enumerate(given):
        calls = tuple(
            ToolCall(call["id"], call["name"], call["arguments"])
            for call in one.get("tool_calls", ())
        )
        names |= {call.call_id: call.name for call in calls}
        call_id = str(one.get("tool_call_id"))
        if one["role"] == "tool" and call_id not in names:
            raise InvalidArgumentsError(
                f"message {index} is a tool's answer, but no call before it has the id {call_id!r}"
                f"{suggest(call_id, names)}"
            )
        name = names[call_id] if one["role"] == "tool" else None
        content = _read_text(one.get("content", ""))
        answered = call_id if one["role"] == "tool" else None
        messages.append(Message(one["role"], content, calls, call_id=answered, name=name))
    return messages


def _read_text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(block["text"] for block in content)


def _read_tool(tool: JsonObject) -> ToolSpec:
    return ToolSpec(tool["name"], tool.get("description", ""), tool["inputSchema"])


def _read_choice(choice: str, names: Sequence[str]) -> ToolChoice:
    if choice in names:
        return ToolChoice("required", name=choice)
    match choice:
        case "auto" | "none" | "required":
            return ToolChoice(choice)
    known = [*names, "auto", "none", "required"]
    raise InvalidArgumentsError(f"tool_choice {choice!r} is no choice{suggest(choice, known)}")
