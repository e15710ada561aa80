"""Lets a loaded model answer the sampling requests of tool servers.

Budgets are `tools.mcp_client`'s; nothing of a conversation of ours is part of a request.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from runtime.agent.loop import AgentModel
from runtime.chat.messages import ChatEvent, Message, ToolCall, ToolChoice, TurnEnd
from runtime.errors import GenerationError
from runtime.request import FinishReason, SamplingParams
from tools.sampling import (
    SampledCall,
    SampledMessage,
    Sampler,
    SamplingReply,
    SamplingRequest,
    StopReason,
)

_STOP_REASONS: Mapping[FinishReason, StopReason] = {
    "stop": "endTurn",
    "length": "maxTokens",
    "tool_calls": "toolUse",
}


class NamedModel(AgentModel, Protocol):
    """A chat model that a server can be told the name of."""

    @property
    def name(self) -> str: ...


def model_sampler(hold: Callable[[], AbstractAsyncContextManager[NamedModel]]) -> Sampler:
    """Answer with the model that `hold` gives, or waits for; it is held while it answers."""

    async def sample(request: SamplingRequest) -> SamplingReply:
        """Let the model take one turn.

        Raises:
            ZondaError: there is no model, the request cannot be met, or the turn failed.
        """
        params = SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature or 0.0,
            stop=request.stop,
        )
        async with hold() as model:
            stream = model.stream(
                _messages(request),
                tools=request.tools,
                tool_choice=ToolChoice(mode=request.tool_mode if request.tools else "none"),
                sampling=params,
            )
            return _reply(model.name, await _last(stream))

    return sample


async def _last(stream: AsyncIterator[ChatEvent]) -> TurnEnd:
    try:
        async for event in stream:
            if isinstance(event, TurnEnd):
                return event
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
    raise GenerationError("the model's turn broke off without an end")


def _messages(request: SamplingRequest) -> list[Message]:
    names = {call.call_id: call.name for said in request.messages for call in said.calls}
    first = [] if request.system is None else [Message("system", request.system)]
    return [*first, *(_message(said, names) for said in request.messages)]


def _message(said: SampledMessage, names: Mapping[str, str]) -> Message:
    calls = tuple(ToolCall(call.call_id, call.name, call.arguments) for call in said.calls)
    name = names.get(said.call_id or "")
    return Message(said.role, said.text, calls, call_id=said.call_id, name=name)


def _reply(model: str, end: TurnEnd) -> SamplingReply:
    reason = _STOP_REASONS.get(end.finish_reason)
    if reason is None:
        raise GenerationError(end.error or f"the model's turn was {end.finish_reason}")
    calls = tuple(
        SampledCall(call.call_id, call.name, call.arguments) for call in end.message.tool_calls
    )
    return SamplingReply(end.message.content, model, reason, calls)
