"""A chat model that plays back turns, and says what it was asked and what is still open."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

from runtime.chat.messages import (
    AUTO,
    ChatEvent,
    Message,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
    TurnEnd,
    TurnStart,
)
from runtime.chat.model import NO_CHOICES, Output
from runtime.chat.support import ToolSupport
from runtime.request import FinishReason, SamplingParams, Usage
from tools.spec import ToolSpec

GREEDY = SamplingParams()
TURN_USAGE = Usage(prompt_tokens=10, completion_tokens=5, forced_tokens=2, forward_passes=3)


@dataclass(frozen=True)
class ScriptedTurn:
    """What the model does in one turn: thoughts, text, calls, then an end, a failure or nothing.

    `rejected` is a call that its schema refuses, `error` says why. `begun` is the name of a call
    and the arguments it had when the turn was cut.
    """

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason | None = None
    error: str | None = None
    rejected: ToolCall | None = None
    raises: Exception | None = None
    hangs: bool = False
    breaks_off: bool = False
    reasoning: str = ""
    stopped_by: str | None = None
    usage: Usage = TURN_USAGE
    begun: tuple[str, str] | None = None


@dataclass(frozen=True)
class AskedTurn:
    """What the model was asked for."""

    messages: tuple[Message, ...]
    tools: tuple[str, ...]
    tool_choice: ToolChoice
    output: Output | None
    max_tokens: int
    conversation: str | None
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    admitted: tuple[str, ...] = ()
    sampling: SamplingParams = GREEDY
    thinks: bool | None = None


Script = Callable[[AskedTurn], ScriptedTurn]


def play(*turns: ScriptedTurn) -> Script:
    """Play these turns in order, the last one again and again."""
    left = list(turns)
    return lambda asked: left.pop(0) if len(left) > 1 else left[0]


@dataclass
class ScriptedChatModel:
    """Obeys the contract of `ChatModel.stream`; `num_open` counts streams not yet closed.

    `was_prepared` is set, and replaced, each time the model is prepared.
    """

    script: Script
    context_length: int = 8192
    asked: list[AskedTurn] = field(default_factory=list)
    num_open: int = 0
    unsupported: Mapping[str, str] = field(default_factory=dict)
    prepared: list[tuple[str, ...]] = field(default_factory=list)
    was_prepared: anyio.Event = field(default_factory=anyio.Event)

    async def support_of(self, tools: Sequence[ToolSpec]) -> Mapping[str, ToolSupport]:
        await anyio.lowlevel.checkpoint()
        return {
            tool.name: ToolSupport("refused", problem=self.unsupported[tool.name])
            if tool.name in self.unsupported
            else ToolSupport("strict")
            for tool in tools
        }

    async def prepare(self, tools: Sequence[ToolSpec]) -> None:
        await anyio.lowlevel.checkpoint()
        self.prepared.append(tuple(tool.name for tool in tools))
        self.was_prepared.set()
        self.was_prepared = anyio.Event()

    async def count_tokens(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        thinks: bool | None = None,
    ) -> int:
        """Count each tool as ten tokens and each character of a message as one."""
        await anyio.lowlevel.checkpoint()
        return 10 * len(tools) + sum(len(message.content) for message in messages)

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        tool_choice: ToolChoice = AUTO,
        output: Output | None = None,
        sampling: SamplingParams = GREEDY,
        conversation: str | None = None,
        choices: Mapping[str, Sequence[str]] = NO_CHOICES,
        admitted: Sequence[ToolSpec] = (),
        thinks: bool | None = None,
        tells_start: bool = False,
    ) -> AsyncGenerator[ChatEvent]:
        self.num_open += 1
        try:
            await anyio.lowlevel.checkpoint()
            names = tuple(tool.name for tool in tools)
            asked = AskedTurn(
                *(tuple(messages), names, tool_choice, output, sampling.max_tokens, conversation),
                choices=choices,
                admitted=tuple(tool.name for tool in admitted),
                sampling=sampling,
                thinks=thinks,
            )
            self.asked.append(asked)
            turn = self.script(asked)
            if tells_start:
                yield TurnStart(turn.usage.prompt_tokens)
            for word in re.findall(r"\S+\s*", turn.reasoning):
                yield ReasoningDelta(word)
                await anyio.lowlevel.checkpoint()
            for word in re.findall(r"\S+\s*", turn.text):
                yield TextDelta(word)
                await anyio.lowlevel.checkpoint()
            for index, call in enumerate(turn.calls):
                yield ToolCallDelta(index, name=call.name)
                await anyio.lowlevel.checkpoint()
            if turn.begun is not None:
                yield ToolCallDelta(0, name=turn.begun[0])
                yield ToolCallDelta(0, arguments=turn.begun[1])
            if turn.raises is not None:
                raise turn.raises
            if turn.hangs:
                await anyio.sleep_forever()
            if not turn.breaks_off:
                yield _end(turn)
        finally:
            self.num_open -= 1


def _end(turn: ScriptedTurn) -> TurnEnd:
    usual: FinishReason = "tool_calls" if turn.calls else "stop"
    reason = turn.finish_reason or ("error" if turn.rejected else usual)
    message = Message(
        role="assistant",
        content=turn.text,
        tool_calls=turn.calls,
        token_ids=(1, 2),
        reasoning=turn.reasoning,
    )
    return TurnEnd(
        message, reason, turn.usage, turn.error, turn.rejected, stopped_by=turn.stopped_by
    )
