"""What an agent run tells whoever watches it, in order; the last event is `AgentEnd`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runtime.chat.messages import Message, TextDelta, ToolCall, ToolChoice
from runtime.request import FinishReason, Usage
from tools.errors import ZondaError
from tools.spec import ToolResult

StoppedBy = Literal["done", "steps", "calls", "time", "tokens", "denied", "error", "cancelled"]
"""Why a run ended. done: the model answered. steps, calls, time, tokens: that limit was
reached (a call repeated too often counts as calls). denied: policy refused too many calls
in a row. error: too many calls in a row failed, or the model did (`AgentEnd.error`)."""

ApprovedBy = Literal["policy", "user"]


@dataclass(frozen=True, slots=True)
class StepStarted:
    """The model's turn number `step` (from 1) begins."""

    step: int
    tool_choice: ToolChoice


@dataclass(frozen=True, slots=True)
class StepFinished:
    """The model's turn is over; its calls, if any, come next. `seconds` includes prefill."""

    step: int
    finish_reason: FinishReason
    usage: Usage
    seconds: float


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """A call is taken up; policy may still refuse it. Exactly one finish follows."""

    step: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class ToolCallFinished:
    """A call's result, whole; `approved_by` is None when the tool was not called."""

    step: int
    call: ToolCall
    result: ToolResult
    seconds: float
    approved_by: ApprovedBy | None


@dataclass(frozen=True, slots=True)
class AgentEnd:
    """The run is over.

    Attributes:
        answer: the text of the model's last turn; empty when there was none.
        stopped_by: why the run ended.
        usage: the sum over all turns.
        num_steps: turns the model took.
        calls: every call in order, refused ones included.
        messages: the conversation with what this run added; goes on in another run.
        error: what failed, when it was the model.
    """

    answer: str
    stopped_by: StoppedBy
    usage: Usage
    num_steps: int
    calls: tuple[ToolCallFinished, ...]
    messages: tuple[Message, ...]
    error: ZondaError | None = None


AgentEvent = StepStarted | TextDelta | StepFinished | ToolCallStarted | ToolCallFinished | AgentEnd
