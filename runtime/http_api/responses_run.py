"""Lets a model answer, with or without the agent loop, and writes the response meanwhile.

The client's functions end a response: their calls are its output. Calls of tool servers are made
here, by the loop, and those that ask first end it too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from runtime.agent.approval import PendingCall
from runtime.agent.events import (
    AgentEnd,
    AgentEvent,
    StepFinished,
    StepStarted,
    ToolCallFinished,
    ToolCallStarted,
)
from runtime.agent.limits import Limits
from runtime.agent.loop import GREEDY, NO_CHOICES, Agent, AgentModel
from runtime.chat.messages import AUTO, ChatEvent, Message, ToolCall, ToolChoice, TurnEnd, TurnStart
from runtime.chat.model import Output
from runtime.chat.prompt_length import Counts, check_length
from runtime.chat.support import ToolSupport
from runtime.errors import GenerationError, PromptTooLongError, UnsupportedSchemaError
from runtime.http_api.faults import TOO_LONG, bad_request, fault_of
from runtime.http_api.responses_compact import fit_messages, summarise, write_summary
from runtime.http_api.responses_events import ResponseWriter, dump
from runtime.http_api.responses_mcp import OfferedTools, write_listed
from runtime.http_api.responses_messages import (
    Transcript,
    own_name,
    put_summary,
    without_old_thoughts,
)
from runtime.http_api.responses_request import ResponseTurn, read_choice, read_sampling
from runtime.http_api.responses_shapes import ResponseRequest
from runtime.request import SamplingParams, Usage
from runtime.tokenizer.tokenizer import Tokenizer
from tools.spec import JsonObject, ToolSpec

_CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}


@dataclass(frozen=True, slots=True)
class Job:
    """A response that is to be made.

    Attributes:
        offered: the tools of tool servers; None where none are asked for.
        caller: for whom.
        tokenizer: the model's.
    """

    request: ResponseRequest
    turn: ResponseTurn
    transcript: Transcript
    offered: OfferedTools | None
    caller: str
    tokenizer: Tokenizer


def shown_messages(job: Job) -> tuple[Message, ...]:
    """The conversation as the model is to read it."""
    reasoning = job.request.reasoning
    if reasoning is not None and reasoning.context == "current_turn":
        return without_old_thoughts(job.transcript.messages)
    return job.transcript.messages


async def check_prompt(job: Job, model: Counts) -> None:
    """Refuse an input that is too long and is not to be shortened.

    Raises:
        FaultError: it fills the context.
    """
    if job.request.truncation == "auto" or job.request.context_management:
        return
    try:
        await check_length(model, shown_messages(job), job.turn.functions)
    except PromptTooLongError as exc:
        raise _name_field(exc, job) from exc


def _name_field(error: Exception, job: Job) -> Exception:
    """The error, where it is one of the request's, with the field that it is of."""
    if isinstance(error, PromptTooLongError):
        return bad_request(str(error), "input", TOO_LONG)
    if isinstance(error, UnsupportedSchemaError):
        at_fault = any(f"{one.name!r}" in str(error) for one in job.turn.functions)
        return bad_request(str(error), "tools" if at_fault else "text.format.schema", error.code)
    return error


async def write_response(job: Job, model: AgentModel, writer: ResponseWriter) -> None:
    """Write the whole response; what fails once it has begun is its end.

    Raises:
        ZondaError: what failed before the response had begun.
    """
    try:
        await _Answer(job, model, writer).write()
    except Exception as exc:
        error = _name_field(exc, job)
        if not writer.is_begun:
            raise error from exc
        await write_failure(writer, error)


async def write_failure(writer: ResponseWriter, error: Exception) -> None:
    """End a response with what went wrong."""
    fault = fault_of(error)
    await writer.fail(_CODES.get(fault.status, "server_error"), fault.message)


class _Answer:
    """One response on its way."""

    def __init__(self, job: Job, model: AgentModel, writer: ResponseWriter) -> None:
        self._job = job
        self._model = model
        self._writer = writer
        self._writer.scored_by = job.tokenizer
        self._sampling = read_sampling(job.request, model.context_length)
        self._usage = Usage()
        self._num_calls = 0

    async def write(self) -> None:
        job = self._job
        if job.transcript.approved and job.offered is None:
            text = "the tools must name the tool server whose call was approved"
            raise bad_request(text, "tools")
        specs = job.turn.functions if job.offered is None else job.offered.specs
        choice = read_choice(job.turn, specs)
        messages = await self._fit(specs)
        if job.offered is None:
            is_cut = await self._speak(messages, choice)
        else:
            is_cut = await self._run(job.offered, messages, choice)
        tokens = await self._count_thoughts()
        await self._writer.complete(self._usage, tokens, is_cut=is_cut)

    async def _fit(self, specs: Sequence[ToolSpec]) -> tuple[Message, ...]:
        request, length = self._job.request, self._model.context_length
        messages = await self._compact(shown_messages(self._job), specs)
        if request.truncation != "auto":
            return messages
        room = min(self._sampling.max_tokens, length // 4)
        return await fit_messages(messages, specs, self._model, length - room)

    async def _compact(
        self, messages: tuple[Message, ...], specs: Sequence[ToolSpec]
    ) -> tuple[Message, ...]:
        """Let a summary stand for a conversation of more tokens than the client allows."""
        usual = self._model.context_length * 3 // 4
        limits = [
            one.compact_threshold or usual for one in self._job.request.context_management or ()
        ]
        if not limits or all(one.role in {"system", "user"} for one in messages):
            return messages
        if await self._model.count_tokens(messages, specs) <= min(limits):
            return messages
        summary, self._usage = await summarise(self._model, messages)
        await self._writer.put_item(write_summary(summary))
        return tuple(put_summary(messages, summary))

    async def _speak(self, messages: tuple[Message, ...], choice: ToolChoice) -> bool:
        """Let the model speak once; return whether it was cut."""
        turn = self._job.turn
        stream = self._model.stream(
            messages,
            tools=turn.functions,
            tool_choice=choice,
            output=turn.output,
            sampling=self._sampling,
            thinks=turn.thinks,
            tells_start=True,
        )
        self._writer.begin_turn(_called(turn))
        end: TurnEnd | None = None
        async with aclosing(stream) as events:
            async for event in events:
                if isinstance(event, TurnEnd):
                    end = event
                    _check(end)
                await self._writer.push(event)
        if end is None:
            raise GenerationError("the model's turn broke off without an end")
        self._usage += end.usage
        return end.finish_reason == "length"

    async def _run(
        self, offered: OfferedTools, messages: tuple[Message, ...], choice: ToolChoice
    ) -> bool:
        """Let the agent loop run; return whether its tokens were used up."""
        tap = _Tap(self._job, self._model, self._writer, choice)
        limits = Limits()
        if (max_calls := self._job.request.max_tool_calls) is not None:
            limits = replace(limits, max_calls=max_calls)
        if (max_tokens := self._job.request.max_output_tokens) is not None:
            limits = replace(limits, max_tokens=max_tokens)
        agent = Agent(
            tap, offered.toolset, offered.policy, limits, approver=tap.approve, audit=offered.audit
        )
        events = agent.run(
            messages,
            tool_choice=AUTO if self._job.transcript.approved else choice,
            output=self._job.turn.output,
            sampling=self._sampling,
            run_id=self._writer.response_id,
            principal=self._job.caller,
        )
        async with aclosing(events):
            async for event in events:
                if isinstance(event, StepStarted) and tap.must_stop:
                    return False
                await self._follow(event, tap, offered)
                if isinstance(event, AgentEnd):
                    return _is_cut(event)
        raise GenerationError("the run broke off without an end")

    async def _follow(self, event: AgentEvent, tap: _Tap, offered: OfferedTools) -> None:
        """Write what the loop does with calls of tool servers; its own tools are nobody's."""
        if isinstance(event, StepFinished):
            self._usage += event.usage
        if not isinstance(event, ToolCallStarted | ToolCallFinished):
            return
        call = event.call
        label = offered.servers.get(call.name)
        if label is None:
            return
        name = own_name(label, call.name)
        if isinstance(event, ToolCallFinished):
            if tap.is_pending(call):
                await self._writer.request_approval(label, name, dump(call.arguments))
            elif self._writer.has_mcp_call(call.call_id):
                await self._writer.finish_mcp_call(call.call_id, event.result)
        elif not tap.is_pending(call) and self._may_call():
            approved = {one.call_id for one in self._job.transcript.approved}
            approval_id = call.call_id if call.call_id in approved else None
            text = dump(call.arguments)
            await self._writer.begin_mcp_call(call.call_id, label, name, text, approval_id)

    def _may_call(self) -> bool:
        """Count a call; those beyond what the client allows are not made and not told."""
        self._num_calls += 1
        allowed = self._job.request.max_tool_calls
        return allowed is None or self._num_calls <= allowed

    async def _count_thoughts(self) -> int:
        """How many tokens the thoughts have, as text."""
        if not self._writer.thoughts:
            return 0
        thought = Message("user", "\n".join(self._writer.thoughts))
        empty = await self._model.count_tokens([Message("user")])
        return await self._model.count_tokens([thought]) - empty


class _Tap:
    """The model as the loop sees it: what it says is written, and the client's calls are kept back.

    Its first turn makes the calls that the client has approved, where there are such.

    Attributes:
        must_stop: whether this turn's calls are for the client to answer.
    """

    def __init__(
        self, job: Job, model: AgentModel, writer: ResponseWriter, choice: ToolChoice
    ) -> None:
        self.must_stop = False
        self._job = job
        self._model = model
        self._writer = writer
        self._choice = choice
        self._functions = _called(job.turn)
        self._approved = job.transcript.approved
        self._is_resuming = False
        self._is_listed = False
        self._pending: list[PendingCall] = []

    @property
    def context_length(self) -> int:
        return self._model.context_length

    async def support_of(self, tools: Sequence[ToolSpec]) -> Mapping[str, ToolSupport]:
        return await self._model.support_of(tools)

    async def prepare(self, tools: Sequence[ToolSpec]) -> None:
        await self._model.prepare(tools)

    async def count_tokens(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
    ) -> int:
        return await self._model.count_tokens(messages, tools)

    async def approve(self, calls: Sequence[PendingCall]) -> Sequence[bool] | None:
        """Say yes to what the client has approved; the rest waits for it, and ends the run."""
        if self._is_resuming:
            return [True] * len(calls)
        self._pending = list(calls)
        self.must_stop = True
        return None

    def is_pending(self, call: ToolCall) -> bool:
        return any(one.arguments is call.arguments for one in self._pending)

    async def stream(  # noqa: PLR0913 - options by name
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
        self._is_resuming, approved, self._approved = bool(self._approved), self._approved, ()
        if approved:
            await self._list_tools()
            yield TurnEnd(Message("assistant", tool_calls=approved), "tool_calls", Usage())
            return
        if tool_choice.mode == "auto":
            allowed = tool_choice.allowed or self._choice.allowed
            tool_choice = replace(tool_choice, parallel=self._choice.parallel, allowed=allowed)
        self._writer.begin_turn(self._functions)
        spoken = self._model.stream(
            messages,
            tools=tools,
            tool_choice=tool_choice,
            output=output,
            sampling=sampling,
            conversation=conversation,
            choices=choices,
            admitted=admitted,
            thinks=self._job.turn.thinks,
            tells_start=True,
        )
        async with aclosing(spoken) as events:
            async for event in events:
                if isinstance(event, TurnStart):
                    await self._writer.push(event)
                if self._writer.is_begun or not isinstance(event, TurnStart):
                    await self._list_tools()
                yield await self._take(event)

    async def _take(self, event: ChatEvent) -> ChatEvent:
        if isinstance(event, TurnStart):
            return event
        if not isinstance(event, TurnEnd):
            await self._writer.push(event)
            return event
        if event.rejected is not None and event.rejected.name in self._functions:
            raise GenerationError(event.error or "a call does not fit its schema")
        if event.finish_reason != "error" or event.rejected is not None:
            await self._writer.push(event)
        calls = event.message.tool_calls
        own = tuple(call for call in calls if call.name not in self._functions)
        if len(own) == len(calls):
            return event
        self.must_stop = True
        message = replace(event.message, tool_calls=own, token_ids=())
        return replace(event, message=message, finish_reason="tool_calls" if own else "stop")

    async def _list_tools(self) -> None:
        """Tell what the servers offer, once, unless the conversation says so already."""
        offered = self._job.offered
        if self._is_listed or offered is None:
            return
        self._is_listed = True
        for label, specs in offered.by_label.items():
            if label not in self._job.transcript.listed:
                listed = write_listed(label, specs)
                await self._writer.list_tools(label, listed, offered.errors.get(label))


def _called(turn: ResponseTurn) -> dict[str, JsonObject]:
    """What the call of each of the client's functions says, by the name the model knows."""
    called: dict[str, JsonObject] = {spec.name: {"name": spec.name} for spec in turn.functions}
    for name in turn.custom:
        called[name] = {"type": "custom_tool_call", "name": name}
    for offered, (namespace, name) in turn.namespaces.items():
        called[offered] = {"name": name, "namespace": namespace}
    return called


def _check(end: TurnEnd) -> None:
    if end.finish_reason in {"error", "cancelled"}:
        raise GenerationError(end.error or "the turn failed")


def _is_cut(end: AgentEnd) -> bool:
    """Whether the run's tokens were used up.

    Raises:
        ZondaError: the run failed.
    """
    if end.error is not None:
        raise end.error
    if end.stopped_by in {"time", "cancelled"}:
        raise GenerationError("the run took longer than it may")
    return end.stopped_by == "tokens"
