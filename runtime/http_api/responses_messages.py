"""From the items of a conversation to the messages that a model reads, and to what is left to do.

Items come one by one, a model's turn is one message: what stands together is joined, and each
call's result follows its turn.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from runtime.chat.messages import Message, ToolCall
from runtime.http_api.chat_request import read_arguments
from runtime.http_api.chat_shapes import RefusalPart
from runtime.http_api.custom_tools import arguments_of
from runtime.http_api.faults import bad_request
from runtime.http_api.responses_items import (
    AnyItem,
    CompactionItem,
    CustomCallItem,
    CustomOutputItem,
    FunctionCallItem,
    FunctionOutputItem,
    McpApprovalRequestItem,
    McpApprovalResponseItem,
    McpCallItem,
    McpListItem,
    MessageItem,
    ReasoningItem,
    ReferenceItem,
)
from tools.mcp_client.names import exposed_name, server_prefix
from tools.spec import JsonObject

_SUMMARY = "Summary of our conversation so far:\n"


@dataclass(frozen=True, slots=True)
class Transcript:
    """A conversation, in our terms.

    Attributes:
        messages: what the model reads.
        approved: calls that the client has allowed and that are still to be made; each has the
            id of the request that it answers.
        listed: labels of the servers whose tools the conversation has listed already.
    """

    messages: tuple[Message, ...]
    approved: tuple[ToolCall, ...]
    listed: frozenset[str]


def read_transcript(items: Sequence[AnyItem], instructions: str | None) -> Transcript:
    """Translate the items of a conversation, the oldest first.

    Raises:
        FaultError: an answer to a call that nobody made, or a call without one.
    """
    reader = _Reader()
    for item in items:
        reader.read(item)
    return reader.finish(instructions)


def offered_name(label: str, name: str) -> str:
    """What the model knows a server's tool by."""
    return name if name.startswith(server_prefix(label)) else exposed_name(label, name)


def own_name(label: str, offered: str) -> str:
    """What the server calls a tool, where its name can be told from what the model knows."""
    name = offered.removeprefix(server_prefix(label))
    return name if exposed_name(label, name) == offered else offered


def seal_text(text: str) -> str:
    """A text as `encrypted_content`: for clients to carry, and no secret from them."""
    return base64.urlsafe_b64encode(text.encode()).decode()


def unseal_text(sealed: str) -> str | None:
    """The text that was sealed; None where this server did not seal it."""
    try:
        return base64.b64decode(sealed, altchars=b"-_", validate=True).decode()
    except ValueError:
        return None


def read_thought(item: ReasoningItem) -> str:
    """What the model thought, from whichever form of it the client has sent back."""
    if parts := item.content or item.summary:
        return "\n".join(part.text for part in parts)
    return unseal_text(item.encrypted_content or "") or ""


def without_old_thoughts(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Drop what the model thought before the user spoke last."""
    spoke = max((at for at, one in enumerate(messages) if one.role == "user"), default=0)
    return tuple(
        replace(one, reasoning="") if at < spoke else one for at, one in enumerate(messages)
    )


def put_summary(messages: Sequence[Message], summary: str) -> list[Message]:
    """Let a summary stand for what a model said and found; what the user said stays.

    What the user said last stays last where nobody has answered it. Summaries of before go.
    """
    kept = [
        one
        for one in messages
        if one.role == "system" or (one.role == "user" and not one.content.startswith(_SUMMARY))
    ]
    is_asked = len(kept) < len(messages) and messages[-1].role == "user"
    kept.insert(len(kept) - is_asked, Message("user", f"{_SUMMARY}{summary}"))
    return kept


@dataclass
class _Reader:
    """Joins items to messages; `turn` is the assistant's that is not finished yet."""

    messages: list[Message] = field(default_factory=list)
    turn: Message | None = None
    results: list[Message] = field(default_factory=list)  # of the turn's calls
    open_calls: dict[str, str] = field(default_factory=dict)  # of functions: id to name
    requests: dict[str, McpApprovalRequestItem] = field(default_factory=dict)
    approved: dict[str, ToolCall] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)

    def read(self, item: AnyItem) -> None:
        match item:
            case MessageItem():
                self._message(item)
            case ReasoningItem():
                self._begin_turn()
                self._add(reasoning=read_thought(item))
            case FunctionCallItem():
                self._own_call(item, read_arguments(item.arguments, "input"))
            case CustomCallItem():
                self._own_call(item, arguments_of(item.input))
            case FunctionOutputItem() | CustomOutputItem():
                self._output(item)
            case McpApprovalRequestItem():
                self.requests[item.id] = item
            case McpApprovalResponseItem():
                self._answer(item)
            case McpCallItem():
                self._mcp_call(item)
            case CompactionItem():
                self._summary(item)
            case McpListItem(error=None):
                self.listed.add(item.server_label)
            case ReferenceItem():
                raise bad_request(f"there is no item {item.id!r}", "input")

    def finish(self, instructions: str | None) -> Transcript:
        self._end_turn()
        if self.open_calls:
            call_id = next(iter(self.open_calls))
            raise bad_request(f"no output is given for the call {call_id!r}", "input")
        messages = self.messages
        if instructions:
            messages = [Message("system", instructions), *messages]
        messages = _join_system(messages)
        return Transcript(
            tuple(messages or [Message("user")]),
            tuple(self.approved.values()),
            frozenset(self.listed),
        )

    def _own_call(self, item: FunctionCallItem | CustomCallItem, arguments: JsonObject) -> None:
        if item.call_id in self.open_calls:
            raise bad_request(f"two calls have the id {item.call_id!r}", "input")
        name = item.name
        if item.namespace is not None:
            name = exposed_name(item.namespace, name)
        self.open_calls[item.call_id] = name
        self._call(ToolCall(item.call_id, name, arguments))

    def _message(self, item: MessageItem) -> None:
        text = _text(item)
        if item.role == "assistant":
            self._begin_turn()
            self._add(content=text)
        else:
            self._end_turn()
            self.messages.append(Message("user" if item.role == "user" else "system", text))

    def _summary(self, item: CompactionItem) -> None:
        text = unseal_text(item.encrypted_content)
        if text is None:
            raise bad_request("this server did not write this compaction", "input")
        self._end_turn()
        self.messages = put_summary(self.messages, text)

    def _begin_turn(self) -> None:
        """What is said after calls that have results belongs to the next turn."""
        if self.turn is not None and self.results:
            self._end_turn()

    def _add(self, content: str = "", reasoning: str = "") -> None:
        turn = self.turn or Message("assistant")
        self.turn = replace(
            turn,
            content="\n".join(filter(None, (turn.content, content))),
            reasoning="\n".join(filter(None, (turn.reasoning, reasoning))),
        )

    def _call(self, call: ToolCall) -> None:
        turn = self.turn or Message("assistant")
        self.turn = replace(turn, tool_calls=(*turn.tool_calls, call))

    def _end_turn(self) -> None:
        if self.turn is not None:
            self.messages.append(self.turn)
        self.messages += self.results
        self.turn, self.results = None, []

    def _output(self, item: FunctionOutputItem | CustomOutputItem) -> None:
        name = self.open_calls.pop(item.call_id, None)
        if name is None:
            raise bad_request(f"no call before it has the id {item.call_id!r}", "input")
        parts = item.output
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        self.results.append(Message("tool", text, call_id=item.call_id, name=name))

    def _answer(self, item: McpApprovalResponseItem) -> None:
        request = self.requests.pop(item.approval_request_id, None)
        if request is None:
            text = f"no request for approval has the id {item.approval_request_id!r}"
            raise bad_request(text, "input")
        call = _call_of(request.id, request)
        if item.approve:
            self.approved[request.id] = call
            return
        why = f": {item.reason}" if item.reason else ""
        text = f"error: {call.name} was not called: the user declined{why}"
        self._made(call, text)

    def _mcp_call(self, item: McpCallItem) -> None:
        if item.approval_request_id is not None:
            self.requests.pop(item.approval_request_id, None)
            self.approved.pop(item.approval_request_id, None)
        text = item.output or ""
        if item.error is not None:
            text = f"error: {error_text(item.error)}"
        self._made(_call_of(item.id or f"call_{len(self.messages)}", item), text)

    def _made(self, call: ToolCall, text: str) -> None:
        self._call(call)
        self.results.append(Message("tool", text, call_id=call.call_id, name=call.name))


def error_text(error: str | JsonObject) -> str:
    """What an error of a call says."""
    if isinstance(error, str):
        return error
    content = error.get("content")
    parts = content if isinstance(content, list) else []
    texts = [str(part.get("text", "")) for part in parts if isinstance(part, dict)]
    return "\n".join(texts) or str(error.get("message", "it failed"))


def _call_of(call_id: str, item: McpApprovalRequestItem | McpCallItem) -> ToolCall:
    name = offered_name(item.server_label, item.name)
    return ToolCall(call_id, name, read_arguments(item.arguments, "input"))


def _text(item: MessageItem) -> str:
    if isinstance(item.content, str):
        return item.content
    return "".join(
        part.refusal if isinstance(part, RefusalPart) else part.text for part in item.content
    )


def _join_system(messages: list[Message]) -> list[Message]:
    """Make one message of the instructions at the top, as most templates want it."""
    num_system = next((at for at, one in enumerate(messages) if one.role != "system"), None)
    top = messages[:num_system]
    if len(top) < 2:
        return messages
    text = "\n\n".join(one.content for one in top)
    return [Message("system", text), *messages[len(top) :]]
