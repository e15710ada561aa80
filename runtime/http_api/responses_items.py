"""The items of a conversation as the Responses API writes them, in and out.

What a response puts out can be put in again: both sides are read by these shapes.

Source: openai-openapi 2.3.0, `InputItem` and `OutputItem`.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, TypeAdapter

from runtime.http_api.chat_shapes import Json, RefusalPart, Shape
from tools.spec import JsonObject

Status = Literal["in_progress", "completed", "incomplete"]

_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcpa",
    "mcp_call": "mcp",
    "compaction": "cmp",
}


class InputText(Shape):
    """A text that was given."""

    type: Literal["input_text", "text"]
    text: str
    prompt_cache_breakpoint: Json | None = None


class OutputText(Shape):
    """A text that the model wrote."""

    type: Literal["output_text"]
    text: str
    annotations: list[Json] | None = None
    logprobs: list[Json] | None = None
    parsed: Any = None


Part = Annotated[InputText | OutputText | RefusalPart, Field(discriminator="type")]


class MessageItem(Shape):
    """What somebody said."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Part]
    id: str | None = None
    status: Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class ReasoningText(Shape):
    """A piece of what the model thought."""

    type: Literal["reasoning_text", "summary_text", "text"]
    text: str


class ReasoningItem(Shape):
    """What the model thought; `encrypted_content` is the same text, carried by the client."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[ReasoningText] | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None
    status: Status | None = None


class FunctionCallItem(Shape):
    """A call of one of the client's functions."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None
    namespace: str | None = None
    caller: Json | None = None
    parsed_arguments: Any = None


class FunctionOutputItem(Shape):
    """What a call of the client's function returned."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[InputText]
    id: str | None = None
    name: str | None = None
    namespace: str | None = None
    caller: Json | None = None
    status: Status | None = None


class CustomCallItem(Shape):
    """A call of one of the client's custom tools."""

    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    input: str
    id: str | None = None
    status: Status | None = None
    namespace: str | None = None
    caller: Json | None = None


class CustomOutputItem(Shape):
    """What a call of the client's custom tool returned."""

    type: Literal["custom_tool_call_output"]
    call_id: str
    output: str | list[InputText]
    id: str | None = None
    name: str | None = None
    caller: Json | None = None
    status: Status | None = None


class ListedTool(Shape):
    """A tool of a tool server."""

    name: str
    input_schema: Json
    description: str | None = None
    annotations: Json | None = None


class McpListItem(Shape):
    """What a tool server offers."""

    type: Literal["mcp_list_tools"]
    server_label: str
    tools: list[ListedTool]
    id: str | None = None
    error: str | None = None


class McpApprovalRequestItem(Shape):
    """A call that waits until the client allows it."""

    type: Literal["mcp_approval_request"]
    id: str
    server_label: str
    name: str
    arguments: str


class McpApprovalResponseItem(Shape):
    """The client's answer to a request."""

    type: Literal["mcp_approval_response"]
    approval_request_id: str
    approve: bool
    id: str | None = None
    reason: str | None = None


class McpCallItem(Shape):
    """A call of a tool server's tool, and what it returned."""

    type: Literal["mcp_call"]
    server_label: str
    name: str
    arguments: str
    id: str | None = None
    approval_request_id: str | None = None
    output: str | None = None
    error: str | Json | None = None
    status: Literal["in_progress", "completed", "incomplete", "calling", "failed"] | None = None


class CompactionItem(Shape):
    """A summary of what was said before, carried by the client."""

    type: Literal["compaction"]
    encrypted_content: str
    id: str | None = None
    created_by: str | None = None


class ReferenceItem(Shape):
    """An item that the server still has."""

    type: Literal["item_reference"] | None = None
    id: str


def _kind(value: object) -> str | None:
    """The type of an item; a message need not name it."""
    if isinstance(value, dict):
        found = value.get("type") or ("message" if "role" in value else "item_reference")
        return found if isinstance(found, str) else None
    return getattr(value, "type", None) or "item_reference"


AnyItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionOutputItem, Tag("function_call_output")]
    | Annotated[CustomCallItem, Tag("custom_tool_call")]
    | Annotated[CustomOutputItem, Tag("custom_tool_call_output")]
    | Annotated[McpListItem, Tag("mcp_list_tools")]
    | Annotated[McpApprovalRequestItem, Tag("mcp_approval_request")]
    | Annotated[McpApprovalResponseItem, Tag("mcp_approval_response")]
    | Annotated[McpCallItem, Tag("mcp_call")]
    | Annotated[CompactionItem, Tag("compaction")]
    | Annotated[ReferenceItem, Tag("item_reference")],
    Discriminator(
        _kind,
        custom_error_type="unknown_item",
        custom_error_message=f"Input should have a type, one of {', '.join(_PREFIXES)}",
    ),
]


def _from_text(value: object) -> object:
    """A text alone is what the user says."""
    return (
        [{"type": "message", "role": "user", "content": value}]
        if isinstance(value, str)
        else (value)
    )


Items = Annotated[
    list[AnyItem], BeforeValidator(_from_text, json_schema_input_type=str | list[AnyItem])
]

_ITEMS: TypeAdapter[list[AnyItem]] = TypeAdapter(list[AnyItem])


def new_id(kind: str) -> str:
    """A name for an item that nobody can guess."""
    return f"{_PREFIXES[kind]}_{secrets.token_hex(24)}"


def read_items(items: list[JsonObject]) -> list[AnyItem]:
    """Read items that this server wrote or took before."""
    return _ITEMS.validate_python(items)


def write_item(item: AnyItem) -> JsonObject:
    """An item as it is kept and listed: with an id, a text as a part."""
    assert not isinstance(item, ReferenceItem)
    written = item.model_dump(exclude_unset=True)
    written["type"] = item.type
    written["id"] = item.id or new_id(item.type)
    if isinstance(item, MessageItem):
        written["status"] = item.status or "completed"
        kind = "output_text" if item.role == "assistant" else "input_text"
        if isinstance(item.content, str):
            part: JsonObject = {"type": kind, "text": item.content}
            written["content"] = [part]
        for part in written["content"]:
            if part["type"] == "text":
                part["type"] = "input_text"
            if part["type"] == "output_text":
                part["annotations"] = part.get("annotations") or []
    elif isinstance(
        item, FunctionCallItem | FunctionOutputItem | CustomCallItem | CustomOutputItem
    ):
        written["status"] = item.status or "completed"
    elif isinstance(item, ReasoningItem):
        written["summary"] = written.get("summary") or []
    return written
