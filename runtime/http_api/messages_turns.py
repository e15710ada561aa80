"""From Anthropic's turns of blocks to messages.

A call's result is a turn of its own here, and instructions in the middle of a conversation become
a part of the user's turn there: few chat templates have a place for them. Turns of one role that
follow each other are one. Results come in the order of the calls, not in that in which a client
had them: many templates leave their ids out.

Claude Code begins its system prompt with a line that names its version and may differ from request
to request. It says nothing to a model and would keep the whole prompt from being found in the
prefix cache, so it is left out.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from runtime.agent.search import definition
from runtime.chat.messages import Message, ToolCall
from runtime.http_api.faults import bad_request
from runtime.http_api.messages_shapes import (
    AssistantTurn,
    BlocksSource,
    CountRequest,
    DocumentBlock,
    KeptThoughts,
    PlainSource,
    RedactedThinkingBlock,
    SearchResultBlock,
    SystemTurn,
    TextBlock,
    ThinkingBlock,
    ToolChangeBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
    UnreadableBlock,
    UserTurn,
)
from tools.spec import ToolSpec

SIGNATURE = "zonda."
"""How our signatures begin; thoughts that were not shown follow in base64."""

_ATTRIBUTION = re.compile(r"\A\s*x-anthropic-billing-header:[^\n]*\n?")

_ReadBlock = (
    TextBlock
    | DocumentBlock
    | SearchResultBlock
    | ToolReferenceBlock
    | ToolChangeBlock
    | UnreadableBlock
)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said.

    Attributes:
        messages: the system prompt and the turns.
        available: names of the declared tools that may be called now.
    """

    messages: tuple[Message, ...]
    available: frozenset[str]


def read_turns(
    request: CountRequest, declared: Mapping[str, ToolSpec], deferred: Collection[str]
) -> Conversation:
    """Translate a request's system prompt and turns.

    Args:
        request: what was asked.
        declared: its tools by their names.
        deferred: names of those that may be called only once the conversation tells of them.

    Raises:
        FaultError: names the block that cannot be read.
    """
    reader = _Reader(declared, deferred)
    messages = _system_prompt(request)
    turns = request.messages
    last_user = max((at for at, turn in enumerate(turns) if turn.role == "user"), default=0)
    for at, turn in enumerate(turns):
        where = f"messages[{at}].content"
        if isinstance(turn, UserTurn):
            messages += reader.read_user(turn, where)
        elif isinstance(turn, AssistantTurn):
            messages.append(reader.read_assistant(turn, where))
        else:
            text = reader.read_system(turn, where)
            is_shown = turn.clear_at != "next_user_message" or at > last_user
            messages += [_instruct(text, is_first=not messages)] if text and is_shown else []
    joined = _join_turns(_order_results(messages, list(reader.called)))
    if not joined or joined[-1].role in {"assistant", "system"}:
        text = "the last turn must be the user's: an answer cannot be begun for this model"
        raise bad_request(text, "messages")
    return Conversation(_clear_thoughts(joined, request), frozenset(reader.available))


def sign_thoughts(thoughts: str) -> str:
    """Return the signature of thoughts that are not shown: what comes back is read from it."""
    return SIGNATURE + base64.urlsafe_b64encode(thoughts.encode()).decode()


class _Reader:
    """Reads turns in their order.

    Attributes:
        available: names of the tools that may be called after the turns read so far.
        called: the tool of each call, in their order.
    """

    def __init__(self, declared: Mapping[str, ToolSpec], deferred: Collection[str]) -> None:
        self.available = set(declared) - set(deferred)
        self._declared = declared
        self.called: dict[str, str] = {}

    def read_user(self, turn: UserTurn, where: str) -> list[Message]:
        """Return what calls returned, then what was said."""
        if isinstance(turn.content, str):
            return [Message("user", turn.content)]
        found = [
            self._read_result(block, f"{where}[{at}]")
            if isinstance(block, ToolResultBlock)
            else Message("user", self._read(block, f"{where}[{at}]"))
            for at, block in enumerate(turn.content)
        ]
        return sorted(found, key=lambda message: message.role != "tool")

    def read_assistant(self, turn: AssistantTurn, where: str) -> Message:
        if isinstance(turn.content, str):
            return Message("assistant", turn.content)
        text, thoughts = "", ""
        calls: list[ToolCall] = []
        for at, block in enumerate(turn.content):
            match block:
                case TextBlock():
                    text += block.text
                case ThinkingBlock():
                    thoughts += _read_thoughts(block, f"{where}[{at}]")
                case ToolUseBlock():
                    calls.append(ToolCall(block.id, block.name, block.input))
                case RedactedThinkingBlock():
                    pass  # nobody here can read it
                case UnreadableBlock():
                    raise _unreadable(block.type, f"{where}[{at}]")
        self.called |= {call.call_id: call.name for call in calls}
        return Message("assistant", text, tuple(calls), reasoning=thoughts)

    def read_system(self, turn: SystemTurn, where: str) -> str:
        if isinstance(turn.content, str):
            return turn.content
        return self._read_all(turn.content, where)

    def _read_result(self, block: ToolResultBlock, where: str) -> Message:
        name = self.called.get(block.tool_use_id)
        if name is None:
            text = f"no tool_use before it has the id {block.tool_use_id!r}"
            raise bad_request(text, f"{where}.tool_use_id")
        given = block.content or ""
        text = given if isinstance(given, str) else self._read_all(given, f"{where}.content")
        text = f"error: {text}" if block.is_error else text
        return Message("tool", text, call_id=block.tool_use_id, name=name)

    def _read_all(self, blocks: Sequence[_ReadBlock], where: str) -> str:
        return "\n".join(self._read(block, f"{where}[{at}]") for at, block in enumerate(blocks))

    def _read(self, block: _ReadBlock, where: str) -> str:
        match block:
            case TextBlock():
                return block.text
            case DocumentBlock():
                return self._read_document(block, where)
            case SearchResultBlock():
                _refuse_citations(block, where)
                texts = (part.text for part in block.content)
                return "\n".join([block.title, block.source, *texts])
            case ToolReferenceBlock():
                return self._tell(block.tool_name, f"{where}.tool_name")
            case ToolChangeBlock(type="tool_addition"):
                return self._tell(block.tool.name, f"{where}.tool.name")
            case ToolChangeBlock():
                self._find(block.tool.name, f"{where}.tool.name")
                self.available.discard(block.tool.name)
                return f"The tool {block.tool.name} may no longer be called."
            case UnreadableBlock():
                raise _unreadable(block.type, where)

    def _read_document(self, block: DocumentBlock, where: str) -> str:
        _refuse_citations(block, where)
        source = block.source
        if isinstance(source, PlainSource):
            text = source.data
        elif isinstance(source, BlocksSource):
            given = source.content
            place = f"{where}.source.content"
            text = given if isinstance(given, str) else self._read_all(given, place)
        else:
            raise bad_request("only documents of plain text are read", f"{where}.source.type")
        return "\n".join(filter(None, [block.title, block.context, text]))

    def _tell(self, name: str, where: str) -> str:
        """Let a tool be called from here on, and say how."""
        tool = self._find(name, where)
        self.available.add(name)
        return json.dumps(definition(tool), ensure_ascii=False)

    def _find(self, name: str, where: str) -> ToolSpec:
        if name not in self._declared:
            raise bad_request(f"tools declares none named {name!r}", where)
        return self._declared[name]


def _system_prompt(request: CountRequest) -> list[Message]:
    given = request.system or ""
    texts = [given] if isinstance(given, str) else [block.text for block in given]
    text = "\n".join(filter(None, (_ATTRIBUTION.sub("", text) for text in texts)))
    return [Message("system", text)] if text else []


def _instruct(text: str, *, is_first: bool) -> Message:
    if is_first:
        return Message("system", text)
    return Message("user", f"<system-reminder>\n{text}\n</system-reminder>")


def _order_results(messages: Sequence[Message], call_ids: Sequence[str]) -> list[Message]:
    place = {call_id: at for at, call_id in enumerate(call_ids)}
    ordered: list[Message] = []
    for _, turns in groupby(messages, key=lambda message: message.role):
        ordered += sorted(turns, key=lambda turn: place.get(turn.call_id or "", 0))
    return ordered


def _join_turns(messages: Sequence[Message]) -> list[Message]:
    """Make one of turns of one role that follow each other, results apart."""
    joined: list[Message] = []
    for message in messages:
        last = joined[-1] if joined else None
        if last is None or last.role != message.role or message.role == "tool":
            joined.append(message)
            continue
        joined[-1] = replace(
            last,
            content="\n".join(filter(None, [last.content, message.content])),
            tool_calls=last.tool_calls + message.tool_calls,
            reasoning="\n".join(filter(None, [last.reasoning, message.reasoning])),
        )
    return joined


def _clear_thoughts(messages: Sequence[Message], request: CountRequest) -> tuple[Message, ...]:
    """Leave out the thoughts of older turns than those that are to keep them."""
    edits = request.context_management.edits if request.context_management else ()
    kept = [
        edit.keep.value
        for edit in edits
        if isinstance(edit.keep, KeptThoughts) and edit.keep.value is not None
    ]
    if not kept:
        return tuple(messages)
    said = [at for at, message in enumerate(messages) if message.role == "assistant"]
    old = set(said[: -min(kept)])
    return tuple(
        replace(message, reasoning="") if at in old else message
        for at, message in enumerate(messages)
    )


def _read_thoughts(block: ThinkingBlock, where: str) -> str:
    if block.thinking or not block.signature.startswith(SIGNATURE):
        return block.thinking
    try:
        given = block.signature.removeprefix(SIGNATURE).encode()
        return base64.b64decode(given, altchars=b"-_", validate=True).decode()
    except ValueError as exc:
        text = "it is no signature of this server's; send thinking blocks back as they came"
        raise bad_request(text, f"{where}.signature") from exc


def _refuse_citations(block: DocumentBlock | SearchResultBlock, where: str) -> None:
    if block.citations is not None and block.citations.enabled:
        raise bad_request("answers cite nothing", f"{where}.citations.enabled")


def _unreadable(kind: str, where: str) -> Exception:
    if kind == "image":
        return bad_request("this model reads text, no image", f"{where}.type")
    return bad_request(f"{kind} blocks are of Anthropic's service only", f"{where}.type")
