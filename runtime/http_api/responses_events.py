"""Writes a response: its items as they come about, and the events that tell of them.

The response that the last event bears is what a request without a stream is answered with.

Source: openai-openapi 2.3.0, `ResponseStreamEvent`; the order of events is that of recorded
streams.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from runtime.chat.messages import (
    ChatEvent,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    TurnEnd,
    TurnStart,
)
from runtime.http_api.custom_tools import InputReader, input_of
from runtime.http_api.logprobs import write_scores
from runtime.http_api.responses_items import new_id
from runtime.http_api.responses_messages import seal_text
from runtime.request import TokenScore, Usage
from runtime.tokenizer.tokenizer import Tokenizer
from tools.spec import JsonObject, ToolResult

Emit = Callable[[JsonObject], Awaitable[None]]

_OBFUSCATION_CHARS = 16


async def emit_nothing(event: JsonObject) -> None:
    """Where nobody reads a stream."""


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """How a response is written.

    Attributes:
        has_summary: write thoughts as summaries, not as what they are.
        seals_thought: give thoughts as `encrypted_content` too.
        obfuscates: fill deltas up, so that their size does not tell their text.
        is_queued: begin with the time in the queue.
        begins_early: begin once the model computes, before it says anything.
    """

    has_summary: bool = False
    seals_thought: bool = False
    obfuscates: bool = False
    is_queued: bool = False
    begins_early: bool = False


@dataclass(slots=True)
class _Open:
    """An item that grows: what it is so far, and the text of its last part."""

    item: JsonObject
    index: int
    text: str = ""
    logprobs: list[JsonObject] = field(default_factory=list)
    reader: InputReader | None = None  # of a call of a custom tool

    @property
    def place(self) -> JsonObject:
        return {"item_id": self.item["id"], "output_index": self.index}


class ResponseWriter:
    """Keeps one response and emits its events.

    Invariant: at most one of message and thought is open; `output` holds every item, open ones
    as they stand.

    Attributes:
        scored_by: the tokenizer of the model that writes, by which log-probabilities are told.
    """

    def __init__(self, settings: JsonObject, emit: Emit, options: WriterOptions) -> None:
        self.response_id = f"resp_{secrets.token_hex(24)}"
        self.output: list[JsonObject] = []
        self.is_begun = False
        self.is_over = False
        self.thoughts: list[str] = []
        self.scored_by: Tokenizer | None = None
        self._settings = settings
        self._emit = emit
        self._options = options
        self._created_at = int(time.time())
        self._number = 0
        self._beginning = anyio.Lock()
        self._status = "queued" if options.is_queued else "in_progress"
        self._ending: JsonObject = {}
        self._open: _Open | None = None
        self._calls: dict[int, _Open] = {}
        self._functions: Mapping[str, JsonObject] = {}
        self._mcp: dict[str, _Open] = {}
        self._said: _Open | None = None  # the last message of this turn
        self._num_scores = 0  # that were told of this turn

    @property
    def response(self) -> JsonObject:
        """The response as it stands."""
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": self._created_at,
            "completed_at": None,
            "status": self._status,
            "error": None,
            "incomplete_details": None,
            "output": list(self.output),
            "usage": None,
            **self._settings,
            **self._ending,
        }

    async def queue(self) -> None:
        """Tell that the response waits for its turn."""
        await self._send("response.created", response=self.response)
        await self._send("response.queued", response=self.response)

    async def begin(self) -> None:
        """Tell that the model is at work, unless that is told; others may tell it meanwhile."""
        async with self._beginning:
            if self.is_begun:
                return
            self._status = "in_progress"
            if not self._options.is_queued:
                await self._send("response.created", response=self.response)
            await self._send("response.in_progress", response=self.response)
            self.is_begun = True

    async def begin_after(self, seconds: float) -> None:
        """Begin even where nothing is written yet, so that a client that waits sees a stream."""
        await anyio.sleep(seconds)
        with anyio.CancelScope(shield=True):  # no stream has half a beginning
            await self.begin()

    def begin_turn(self, functions: Mapping[str, JsonObject]) -> None:
        """A turn of the model begins, in which calls of these become items that say this."""
        self._functions = functions
        self._calls = {}
        self._said = None
        self._num_scores = 0

    async def push(self, event: ChatEvent) -> None:
        """Write one event of a model's turn."""
        if isinstance(event, TurnStart) and not self._options.begins_early:
            return
        await self.begin()
        match event:
            case TextDelta():
                await self._push_text(event)
            case ReasoningDelta():
                await self._push_thought(event.text)
            case ToolCallDelta():
                await self._push_call(event)
            case TurnEnd():
                await self._end_turn(event)

    async def put_item(self, item: JsonObject) -> None:
        """Put out an item that is whole."""
        await self.begin()
        await self._done(await self._add(item))

    async def list_tools(self, label: str, tools: list[JsonObject], error: str | None) -> None:
        """Tell what a server offers, or why that is not known."""
        await self.begin()
        item = {"id": new_id("mcp_list_tools"), "type": "mcp_list_tools", "server_label": label}
        opened = await self._add({**item, "tools": [], "error": None})
        await self._send("response.mcp_list_tools.in_progress", **opened.place)
        opened.item |= {"tools": tools, "error": error}
        ending = "failed" if error else "completed"
        await self._send(f"response.mcp_list_tools.{ending}", **opened.place)
        await self._done(opened)

    async def request_approval(self, label: str, name: str, arguments: str) -> None:
        """Ask the client whether a call may be made."""
        kind = "mcp_approval_request"
        item = {"id": new_id(kind), "type": kind, "server_label": label, "name": name}
        await self._done(await self._add({**item, "arguments": arguments}))

    async def begin_mcp_call(
        self, call_id: str, label: str, name: str, arguments: str, approval_id: str | None
    ) -> None:
        """Tell that a server's tool is called."""
        await self.begin()
        item = {"id": new_id("mcp_call"), "type": "mcp_call", "server_label": label, "name": name}
        more = {"approval_request_id": approval_id, "output": None, "error": None}
        opened = await self._add({**item, **more, "arguments": "", "status": "in_progress"})
        self._mcp[call_id] = opened
        await self._send("response.mcp_call.in_progress", **opened.place)
        kind = "response.mcp_call_arguments"
        await self._send_delta(f"{kind}.delta", arguments, **opened.place)
        opened.item["arguments"] = arguments
        await self._send(f"{kind}.done", arguments=arguments, **opened.place)

    def has_mcp_call(self, call_id: str) -> bool:
        """Whether this call was told of and is not over."""
        return call_id in self._mcp

    async def finish_mcp_call(self, call_id: str, result: ToolResult) -> None:
        """Tell what the call returned."""
        opened = self._mcp.pop(call_id)
        if result.is_error:
            content = [{"type": "text", "text": result.text, "annotations": None}]
            error = {"type": "mcp_tool_execution_error", "content": content}
            opened.item |= {"status": "failed", "error": error}
            await self._send("response.mcp_call.failed", **opened.place)
        else:
            opened.item |= {"status": "completed", "output": result.text}
            await self._send("response.mcp_call.completed", **opened.place)
        await self._done(opened)

    async def complete(self, usage: Usage, num_thought_tokens: int, *, is_cut: bool) -> None:
        """End the response; `is_cut` where the tokens it may take are used up."""
        await self.begin()
        kind = "incomplete" if is_cut else "completed"
        details = {"incomplete_details": {"reason": "max_output_tokens"}} if is_cut else {}
        ending = {"usage": write_usage(usage, num_thought_tokens), **details}
        await self._end(f"response.{kind}", kind, ending)

    async def fail(self, code: str, message: str) -> None:
        """End the response with an error; what was written stays."""
        await self._abandon()
        await self._end("response.failed", "failed", {"error": {"code": code, "message": message}})

    async def cancel(self) -> None:
        """End the response because the client wants no more of it."""
        await self._abandon()
        await self._end("response.incomplete", "cancelled", {})

    async def _abandon(self) -> None:
        """Leave every item that is open as it is."""
        await self._close(status="incomplete")
        left = sorted([*self._calls.values(), *self._mcp.values()], key=lambda one: one.index)
        self._calls, self._mcp = {}, {}
        for opened in left:
            opened.item["status"] = "incomplete"
            await self._done(opened)

    async def _end(self, kind: str, status: str, ending: JsonObject) -> None:
        self.is_over = True
        self._status = status
        done = {"completed_at": int(time.time())} if status == "completed" else {}
        self._ending = {**ending, **done}
        await self._send(kind, response=self.response)

    async def _push_text(self, event: TextDelta) -> None:
        opened = self._open
        if opened is None or opened.item["type"] != "message":
            await self._close()
            item: JsonObject = {"id": new_id("message"), "type": "message", "role": "assistant"}
            opened = self._open = await self._add({**item, "status": "in_progress", "content": []})
            await self._part("content_part.added", opened, _text_part("", []))
        self._said = opened
        opened.text += event.text
        told = self._score(event.scores)
        opened.logprobs += told
        place = {**opened.place, "content_index": 0, "logprobs": told}
        await self._send_delta("response.output_text.delta", event.text, **place)

    def _score(self, scores: Sequence[TokenScore]) -> list[JsonObject]:
        """Tell of the next tokens of the turn's text."""
        self._num_scores += len(scores)
        return write_scores(scores, self.scored_by) if self.scored_by is not None else []

    async def _push_thought(self, text: str) -> None:
        opened = self._open
        is_summary = self._options.has_summary
        if opened is None or opened.item["type"] != "reasoning":
            await self._close()
            item: JsonObject = {"id": new_id("reasoning"), "type": "reasoning", "summary": []}
            item |= {"status": "in_progress", **({} if is_summary else {"content": []})}
            opened = self._open = await self._add(item)
            if is_summary:
                await self._part("reasoning_summary_part.added", opened, _summary_part(""))
        opened.text += text
        kind = "reasoning_summary_text" if is_summary else "reasoning_text"
        place = {**opened.place, "summary_index" if is_summary else "content_index": 0}
        await self._send_delta(f"response.{kind}.delta", text, **place)

    async def _push_call(self, event: ToolCallDelta) -> None:
        if event.name is not None and event.name in self._functions:
            await self._close()
            said = self._functions[event.name]
            kind = said.get("type", "function_call")
            is_custom = kind == "custom_tool_call"
            item = {"id": new_id(kind), "type": kind, "call_id": f"call_{secrets.token_hex(12)}"}
            item |= {**said, "input" if is_custom else "arguments": "", "status": "in_progress"}
            opened = self._calls[event.index] = await self._add(item)
            opened.reader = InputReader() if is_custom else None
        if event.arguments and event.index in self._calls:
            opened = self._calls[event.index]
            reader = opened.reader
            await self._grow_call(
                opened, reader.push(event.arguments) if reader else event.arguments
            )

    async def _grow_call(self, opened: _Open, text: str) -> None:
        opened.text += text
        kind = "custom_tool_call_input" if opened.reader else "function_call_arguments"
        if text:
            await self._send_delta(f"response.{kind}.delta", text, **opened.place)

    async def _end_call(self, opened: _Open, made: ToolCall | None) -> None:
        """Tell the whole of a call; None is made of one that was cut."""
        is_custom = opened.reader is not None
        if made is not None and not opened.text:
            arguments = made.arguments
            await self._grow_call(opened, input_of(arguments) if is_custom else dump(arguments))
        fields = {"input": opened.text} if is_custom else {"arguments": opened.text}
        opened.item |= {**fields, "status": "incomplete" if made is None else "completed"}
        if not is_custom:
            fields["name"] = opened.item["name"]
        kind = "custom_tool_call_input" if is_custom else "function_call_arguments"
        await self._send(f"response.{kind}.done", **opened.place, **fields)
        await self._done(opened)

    async def _end_turn(self, end: TurnEnd) -> None:
        if self._said is not None:  # a message that a call has closed has the same list
            self._said.logprobs += self._score(end.scores[self._num_scores :])
        is_whole = end.finish_reason in {"stop", "tool_calls"}
        await self._close(status="completed" if is_whole else "incomplete")
        for index, opened in sorted(self._calls.items()):
            made = end.message.tool_calls
            await self._end_call(opened, made[index] if index < len(made) else None)
        self._calls = {}

    async def _close(self, status: str = "completed") -> None:
        """End the message or thought that is open."""
        opened, self._open = self._open, None
        if opened is None:
            return
        opened.item["status"] = status
        place = {**opened.place, "text": opened.text}
        if opened.item["type"] == "message":
            part = _text_part(opened.text, opened.logprobs)
            place |= {"content_index": 0, "logprobs": opened.logprobs}
            await self._send("response.output_text.done", **place)
            opened.item["content"] = [part]
            await self._part("content_part.done", opened, part)
        else:
            await self._close_thought(opened, place)
        await self._done(opened)

    async def _close_thought(self, opened: _Open, place: JsonObject) -> None:
        self.thoughts.append(opened.text)
        if self._options.seals_thought:
            opened.item["encrypted_content"] = seal_text(opened.text)
        if not self._options.has_summary:
            opened.item["content"] = [{"type": "reasoning_text", "text": opened.text}]
            await self._send("response.reasoning_text.done", **place, content_index=0)
            return
        part = _summary_part(opened.text)
        await self._send("response.reasoning_summary_text.done", **place, summary_index=0)
        opened.item["summary"] = [part]
        await self._part("reasoning_summary_part.done", opened, part)

    async def _add(self, item: JsonObject) -> _Open:
        await self._close()
        opened = _Open(item, len(self.output))
        self.output.append(item)
        await self._send("response.output_item.added", output_index=opened.index, item=dict(item))
        return opened

    async def _done(self, opened: _Open) -> None:
        item = dict(opened.item)
        self.output[opened.index] = item
        await self._send("response.output_item.done", output_index=opened.index, item=item)

    async def _part(self, kind: str, opened: _Open, part: JsonObject) -> None:
        index = "summary_index" if kind.startswith("reasoning") else "content_index"
        await self._send(f"response.{kind}", **opened.place, **{index: 0}, part=part)

    async def _send_delta(self, kind: str, delta: str, **fields: object) -> None:
        if self._options.obfuscates:
            num_chars = _OBFUSCATION_CHARS - len(delta) % _OBFUSCATION_CHARS
            fields["obfuscation"] = secrets.token_urlsafe(_OBFUSCATION_CHARS)[:num_chars]
        await self._send(kind, delta=delta, **fields)

    async def _send(self, kind: str, **fields: object) -> None:
        number = self._number
        self._number += 1
        await self._emit({"type": kind, "sequence_number": number, **fields})


def write_usage(usage: Usage, num_thought_tokens: int) -> JsonObject:
    """The tokens of all turns of a response."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": num_thought_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def dump(arguments: JsonObject) -> str:
    """A call's arguments as text."""
    return json.dumps(arguments, ensure_ascii=False)


def _text_part(text: str, logprobs: list[JsonObject]) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _summary_part(text: str) -> JsonObject:
    return {"type": "summary_text", "text": text}
