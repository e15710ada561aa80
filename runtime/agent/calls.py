"""Makes the tool calls of a run: admits them by limits and policy, runs them, counts them.

Knows nothing of the model; the loop decides what a run that has to end still does.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import anyio

from runtime.agent.approval import Approver, PendingCall
from runtime.agent.audit import CallRecord, Outcome
from runtime.agent.events import ApprovedBy, StoppedBy, ToolCallFinished
from runtime.agent.limits import Limits
from runtime.agent.policy import Policy, Verdict, denial
from runtime.chat.messages import Message, ToolCall
from tools.errors import UnknownToolError, ZondaError
from tools.questions import Ask, decline
from tools.spec import ToolResult, ToolSpec
from tools.toolset import CallContext, Toolset

logger = logging.getLogger(__name__)

RecordCall = Callable[[CallRecord], None]
"""Told of each call when it is over, made or not."""


def in_groups(
    calls: Sequence[ToolCall], specs: Mapping[str, ToolSpec]
) -> list[tuple[ToolCall, ...]]:
    """Split a turn's calls into groups: calls of one group may run at the same time.

    All together when every tool is read-only or each belongs to another server, else one
    by one.
    """
    known = [specs[call.name] for call in calls if call.name in specs]
    if len(known) == len(calls):
        read_only = all(spec.annotations.read_only for spec in known)
        if read_only or len({spec.server for spec in known}) == len(known):
            return [tuple(calls)]
    return [(call,) for call in calls]


@dataclass(slots=True)
class _Attempt:
    """One call on its way; without a result it was not finished, or not even made."""

    call: ToolCall
    approved_by: ApprovedBy | None = None
    verdict: Verdict | None = None
    result: ToolResult | None = None
    seconds: float = 0.0
    is_denied: bool = False
    refusal: str = ""

    def refuse(self, why: str, *, is_denied: bool = False, reason: str = "") -> None:
        """Give the call a result of ours; `reason` says why without what was in the call."""
        self.result = ToolResult.from_text(why, is_error=True)
        self.is_denied = is_denied
        self.refusal = reason

    @property
    def outcome(self) -> Outcome:
        if self.is_denied:
            return "denied"
        if self.result is None:
            return "unknown" if self.approved_by else "refused"
        if self.approved_by is None:
            return "refused"
        return "error" if self.result.is_error else "ok"


class ToolCaller:
    """Calls the tools of one run and keeps its counts.

    `must_stop` says which limit the run reached; from then on every call is refused.
    """

    def __init__(
        self,
        toolset: Toolset,
        list_specs: Callable[[], Sequence[ToolSpec]],
        policy: Policy,
        limits: Limits,
        approver: Approver | None,
        record: RecordCall,
        principal: str,
        ask: Ask = decline,
    ) -> None:
        self.must_stop: StoppedBy | None = None
        self._list_specs = list_specs
        self._toolset = toolset
        self._policy = policy
        self._limits = limits
        self._approver = approver
        self._record = record
        self._tool_context = CallContext(principal=principal, ask=ask)
        self._brought_text: str | None = None  # the tool that brought text of strangers
        self._tainted_by: str | None = None  # the same, as this turn's calls were thought of
        self._answers: list[tuple[ToolCall, bool]] = []  # a person's, to this turn's calls
        self._num_calls = 0
        self._rejected: dict[str, str] = {}
        self._same_calls: Counter[tuple[str, str]] = Counter()
        self._errors_in_row: list[_Attempt] = []

    @property
    def specs(self) -> dict[str, ToolSpec]:
        """The tools that may be called now, by name."""
        return {spec.name: spec for spec in self._list_specs()}

    def reject(self, call_id: str, problem: str) -> None:
        """Let that call fail with this problem; it is not made."""
        self._rejected[call_id] = problem

    def recall(self, messages: Sequence[Message], specs: Sequence[ToolSpec]) -> None:
        """Take in what the tools, of these, have brought into the conversation so far."""
        known = {spec.name: spec for spec in specs}
        for message in messages:
            if message.role == "tool" and (spec := known.get(message.name or "")) is not None:
                self._taint(spec)

    def begin_turn(self) -> None:
        """Begin with a turn's calls: what strangers wrote before them counts."""
        self._tainted_by = self._brought_text

    async def ask_approval(self, calls: Sequence[ToolCall], deadline: float) -> None:
        """Ask about those of a turn's calls that policy asks about, all in one form.

        At `deadline` (of the event loop's clock) what was not answered counts as nobody there.
        """
        self._answers = []
        if self._approver is None or self.must_stop is not None:
            return
        specs = self.specs
        asking: list[ToolCall] = []
        pending: list[PendingCall] = []
        for call in calls[: self._limits.max_calls - self._num_calls]:
            if call.call_id not in self._rejected and (spec := specs.get(call.name)) is not None:
                verdict = self._decide(spec, call)
                if verdict.decision == "ask":
                    asking.append(call)
                    pending.append(PendingCall(spec, call.arguments, verdict.reason))
        if not pending:
            return
        try:
            with anyio.CancelScope(deadline=deadline):
                if (answers := await self._approver(pending)) is not None:
                    self._answers = list(zip(asking, answers, strict=True))
        except anyio.get_cancelled_exc_class():
            self._record_all([_Attempt(call) for call in calls])
            raise

    async def call_group(
        self, step: int, group: Sequence[ToolCall], deadline: float
    ) -> list[ToolCallFinished]:
        """Make the calls of one group at the same time; return their results in call order.

        At `deadline` (of the event loop's clock) what still runs is cancelled.
        """
        attempts = [_Attempt(call) for call in group]
        try:
            with anyio.CancelScope(deadline=deadline):
                for attempt in attempts:
                    self._admit(attempt)
                async with anyio.create_task_group() as tasks:
                    for attempt in attempts:
                        if attempt.result is None:
                            tasks.start_soon(self._call, attempt)
        finally:
            self._record_all(attempts)
        return [self._settle(step, attempt) for attempt in attempts]

    def _admit(self, attempt: _Attempt) -> None:
        """Approve the call, or give it the result that says why it is not made."""
        call = attempt.call
        if (limit := self._count(call)) is not None:
            attempt.refuse(limit, reason="a limit of the run was reached")
        elif (problem := self._rejected.get(call.call_id)) is not None:
            text = f"{call.name} was not called: {problem}"
            attempt.refuse(text, reason="its arguments do not fit its schema")
        elif (spec := self.specs.get(call.name)) is None:
            text = str(UnknownToolError(call.name, self.specs))
            attempt.refuse(text, reason="no such tool can be called")
        else:
            self._approve(spec, attempt)

    def _approve(self, spec: ToolSpec, attempt: _Attempt) -> None:
        verdict = self._decide(spec, attempt.call)
        attempt.verdict = verdict
        answers = [allowed for call, allowed in self._answers if call is attempt.call]
        if verdict.decision == "allow":
            attempt.approved_by = "policy"
        elif verdict.decision == "deny" or not answers:
            attempt.refuse(denial(spec, verdict), is_denied=True)
        elif all(answers):
            attempt.approved_by = "user"
        else:
            text = f"{spec.name} was not called: the user declined."
            attempt.refuse(text, is_denied=True, reason=f"the user declined; it {verdict.reason}")

    def _decide(self, spec: ToolSpec, call: ToolCall) -> Verdict:
        return self._policy.decide(spec, call.arguments, self._tainted_by)

    def _count(self, call: ToolCall) -> str | None:
        """Count a call; return why it may not be made when a limit is reached."""
        limits = self._limits
        if self.must_stop is not None:
            return f"{call.name} was not called: the run has to end, answer now."
        self._num_calls += 1
        if self._num_calls > limits.max_calls:
            self.must_stop = "calls"
            return f"{call.name} was not called: {limits.max_calls} calls are all a run may make."
        key = (call.name, json.dumps(call.arguments, sort_keys=True))
        self._same_calls[key] += 1
        if self._same_calls[key] >= limits.max_same_calls:
            self.must_stop = "calls"
            return (
                f"{call.name} was not called again: {limits.max_same_calls - 1} calls with these "
                "arguments were made already; use their result."
            )
        return None

    async def _call(self, attempt: _Attempt) -> None:
        call = attempt.call
        began = anyio.current_time()
        try:
            attempt.result = await self._toolset.call_tool(
                call.name, call.arguments, self._tool_context
            )
        except ZondaError as exc:
            attempt.result = ToolResult.from_text(str(exc), is_error=True)
        except Exception as exc:
            logger.exception("call=%s tool=%s raised", call.call_id, call.name)
            text = f"{call.name} failed unexpectedly ({type(exc).__name__}); see the log."
            attempt.result = ToolResult.from_text(text, is_error=True)
        finally:
            attempt.seconds = anyio.current_time() - began

    def _record_all(self, attempts: Sequence[_Attempt]) -> None:
        """Record the calls as they stand; what strangers wrote counts from the next turn on."""
        known = self.specs
        for attempt in attempts:
            spec, verdict = known.get(attempt.call.name), attempt.verdict
            if spec is not None and attempt.approved_by is not None:
                self._taint(spec)
            record = CallRecord(
                tool=attempt.call.name,
                server=None if spec is None else spec.server,
                arguments=attempt.call.arguments,
                decision=None if verdict is None else verdict.decision,
                reason=attempt.refusal or (verdict.reason if verdict else "the run ended first"),
                approved_by=attempt.approved_by,
                seconds=attempt.seconds,
                outcome=attempt.outcome,
                result=attempt.result,
            )
            self._record(record)

    def _taint(self, spec: ToolSpec) -> None:
        if self._brought_text is None and self._policy.taints(spec):
            self._brought_text = spec.name

    def _settle(self, step: int, attempt: _Attempt) -> ToolCallFinished:
        if attempt.result is None:
            outcome = "its outcome is unknown" if attempt.approved_by else "it was not called"
            seconds = f"{self._limits.max_seconds:g} s"
            attempt.refuse(f"{attempt.call.name}: the run's {seconds} were over; {outcome}.")
        assert attempt.result is not None
        self._track_errors(attempt, attempt.result)
        return ToolCallFinished(
            step, attempt.call, attempt.result, attempt.seconds, attempt.approved_by
        )

    def _track_errors(self, attempt: _Attempt, result: ToolResult) -> None:
        if not result.is_error:
            self._errors_in_row.clear()
            return
        self._errors_in_row.append(attempt)
        if self.must_stop is None and len(self._errors_in_row) >= self._limits.max_errors:
            is_denied = all(attempt.is_denied for attempt in self._errors_in_row)
            self.must_stop = "denied" if is_denied else "error"
