"""The agent loop: the model speaks, its calls are made, their results go back, until it answers.

Owns the conversation of one run. Decides neither which calls are allowed (`policy`) nor
how they are made (`calls`). No cancel scope stays open while an event is handed out, so a
run may be abandoned or cancelled at any event or await, and nothing of it keeps running.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import anyio

from runtime.agent.approval import Approver
from runtime.agent.audit import AuditLog, CallRecord
from runtime.agent.budget import is_too_much
from runtime.agent.calls import RecordCall, ToolCaller, in_groups
from runtime.agent.context import Context
from runtime.agent.definitions import clean_definition, hidden_place
from runtime.agent.events import (
    AgentEnd,
    AgentEvent,
    StepFinished,
    StepStarted,
    StoppedBy,
    ToolCallFinished,
    ToolCallStarted,
)
from runtime.agent.limits import Limits
from runtime.agent.policy import Policy
from runtime.agent.search import ToolSearch, search_spec
from runtime.chat.catalogue import sort_tools
from runtime.chat.messages import (
    AUTO,
    ChatEvent,
    Message,
    TextDelta,
    ToolCall,
    ToolChoice,
    TurnEnd,
)
from runtime.chat.support import ToolSupport
from runtime.errors import GenerationError
from runtime.request import SamplingParams, Usage
from tools.errors import ZondaError
from tools.questions import Ask, decline
from tools.spec import ToolSpec
from tools.toolset import Toolset

if TYPE_CHECKING:  # a server answers before what compiles grammars is imported
    from runtime.chat.model import Output

logger = logging.getLogger(__name__)

GREEDY = SamplingParams()
NO_CHOICES: Mapping[str, Sequence[str]] = MappingProxyType({})
NO_TOOLS = ToolChoice(mode="none")


class AgentModel(Protocol):
    """What the loop needs of a chat model; `runtime.chat.model.ChatModel` is one."""

    @property
    def context_length(self) -> int:
        """Most tokens of a conversation."""
        ...

    async def support_of(self, tools: Sequence[ToolSpec]) -> Mapping[str, ToolSupport]:
        """Return how strictly the calls of each tool are decoded, by the tool's name."""
        ...

    async def prepare(self, tools: Sequence[ToolSpec]) -> None:
        """Get ready for conversations that offer exactly these tools, before there is one."""
        ...

    async def count_tokens(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
    ) -> int:
        """Return the length of the prompt that these messages and tools make."""
        ...

    def stream(  # noqa: PLR0913 - options by name
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
        """Stream one turn; the last event is a `TurnEnd`.

        `conversation` names the lease that keeps the conversation's pages between turns;
        `admitted` may be called as `tools` may, and are not in the prompt; `tells_start` has a
        `TurnStart` come first.
        The loop takes each event under a cancel scope of its own, so an implementation
        must not keep a scope or a task group open while it yields.
        """
        ...


@dataclass(frozen=True, slots=True)
class Offer:
    """What a run offers a model: tools that its prompt lists, and tools that it may search."""

    listed: list[ToolSpec]
    searched: Sequence[ToolSpec] = ()


@dataclass(frozen=True, slots=True)
class Agent:
    """A model with tools, under policy and limits; holds no state of a run.

    Attributes:
        model: takes the turns.
        toolset: what may be called; the prompt stays the same until it lists other tools. Tools
            that would fill more than a fifth of the context are searched by the model.
        policy: which calls are made without asking.
        limits: where a run stops.
        approver: asks a person about calls; None when there is nobody, and what would ask is
            denied.
        audit: is told of every call; None where none is kept.
        ask: puts the questions of tools to a person; declines when there is nobody.
    """

    model: AgentModel
    toolset: Toolset
    policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)
    approver: Approver | None = None
    audit: AuditLog | None = None
    ask: Ask = decline

    async def run(
        self,
        messages: Sequence[Message],
        *,
        tool_choice: ToolChoice = AUTO,
        output: Output | None = None,
        sampling: SamplingParams = GREEDY,
        conversation: str | None = None,
        choices: Mapping[str, Sequence[str]] = NO_CHOICES,
        run_id: str | None = None,
        principal: str = "",
    ) -> AsyncGenerator[AgentEvent, None]:
        """Run until the model answers or a limit is reached; the last event is `AgentEnd`.

        Whoever may leave before the end closes the generator (`contextlib.aclosing`).

        Args:
            messages: the conversation so far; the model speaks next.
            tool_choice: of the first step; later steps are free to answer or call.
            output: what the answer must look like.
            sampling: how each turn is drawn; `max_tokens` is per turn.
            conversation: names the lease when the conversation goes on in later runs;
                by default the run's own.
            choices: lists that `x-choices-from` in tools' schemas refers to by their names.
            run_id: what the audit log calls this run; by default a name of its own.
            principal: for whom it is; "" where there is only one.
        """
        run_id = run_id or f"run-{secrets.token_urlsafe(18)}"
        listed = await self.toolset.list_tools()
        named = set(tool_choice.allowed or ())
        named |= set() if tool_choice.name is None else {tool_choice.name}
        offer = await self.select(listed, named)
        record = partial(self.audit.write, run_id, principal) if self.audit else _record_nothing
        loop = _Loop(self, listed, offer, messages, named, record, principal)
        turn = _Turn(output, sampling, conversation or run_id, choices)
        async with aclosing(loop.events(turn, tool_choice)) as events:
            async for event in events:
                yield event

    async def list_tools(self) -> list[ToolSpec]:
        """List what a run's prompt offers the model."""
        return (await self.select(await self.toolset.list_tools())).listed

    async def select(self, tools: Sequence[ToolSpec], named: Collection[str] = ()) -> Offer:
        """Return what a run offers of these tools.

        Neither what is denied nor what it cannot call nor what hides something from a reviewer.

        In an order that depends on the tools alone, so that all runs share one prompt. Where
        they would fill too much of it, those `named` are listed and all can be searched.
        """
        specs = [
            clean_definition(spec) for spec in tools if self.policy.decide(spec).decision != "deny"
        ]
        refused = {
            name: support.problem
            for name, support in (await self.model.support_of(specs)).items()
            if support.level == "refused"
        }
        for spec in specs:
            if (place := hidden_place(spec)) is not None:
                refused[spec.name] = f"its definition hides characters in {place}"
        for name, problem in refused.items():
            logger.warning("tool=%r is not offered: %s", name, problem)
        usable = sort_tools([spec for spec in specs if spec.name not in refused])
        if not await is_too_much(usable, self.model.count_tokens, self.model.context_length):
            return Offer(usable)
        return Offer([search_spec(usable), *(t for t in usable if t.name in named)], usable)


@dataclass(frozen=True, slots=True)
class _Turn:
    """What stays the same in every turn of a run."""

    output: Output | None
    sampling: SamplingParams
    conversation: str
    choices: Mapping[str, Sequence[str]]


class _Loop:
    """One run's conversation and counts.

    Invariant: every call in `messages` has its result right after its turn, except in a
    last turn whose calls were not taken up: those are dropped.
    """

    def __init__(
        self,
        agent: Agent,
        listed: Sequence[ToolSpec],
        offer: Offer,
        messages: Sequence[Message],
        named: Collection[str],
        record: RecordCall,
        principal: str,
    ) -> None:
        self._agent = agent
        self._listed = listed
        self._model = agent.model
        self._limits = agent.limits
        self._max_chars = min(agent.limits.max_result_chars, agent.model.context_length)
        self._named = named
        self._deadline = anyio.current_time() + agent.limits.max_seconds
        self._messages = list(messages)
        search = self._make_search(offer)
        told = set() if search is None else {tool.name for tool in search.admitted}
        tools = [tool for tool in offer.listed if tool.name not in told]
        self._context = Context(agent.toolset, tools, self._max_chars, search)
        self._caller = ToolCaller(
            self._context,
            self._context.callable_tools,
            agent.policy,
            agent.limits,
            agent.approver,
            record,
            principal,
            agent.ask,
        )
        self._caller.recall(messages, listed)
        self._finished: list[ToolCallFinished] = []
        self._usage = Usage()
        self._step = 0
        self._answer = ""
        self._stopped_by: StoppedBy | None = None
        self._error: ZondaError | None = None

    async def events(
        self, turn: _Turn, first_choice: ToolChoice
    ) -> AsyncGenerator[AgentEvent, None]:
        choice = first_choice if self._may_call() else NO_TOOLS
        while self._check_budgets() is None:
            self._step += 1
            self._answer = ""
            yield StepStarted(self._step, choice)
            if await self._refresh_tools() and await self._fit(turn):
                async with aclosing(self._speak(turn, choice)) as spoken:
                    async for event in spoken:
                        yield event
            if self._stopped_by is not None:
                break
            async with aclosing(self._call(self._messages[-1].tool_calls)) as called:
                async for outcome in called:
                    yield outcome
            choice = AUTO if self._may_call() else NO_TOOLS
        yield self._end()

    def _may_call(self) -> bool:
        """Whether the next step may call tools; the last one has to answer."""
        return self._caller.must_stop is None and self._step + 1 < self._limits.max_steps

    def _check_budgets(self) -> StoppedBy | None:
        if self._stopped_by is None:
            if anyio.current_time() >= self._deadline:
                self._stopped_by = "time"
            elif self._usage.completion_tokens >= self._limits.max_tokens:
                self._stopped_by = "tokens"
        return self._stopped_by

    async def _refresh_tools(self) -> bool:
        """Offer what the toolset lists now, where that changed; False when the run has to stop."""
        with anyio.CancelScope(deadline=self._deadline) as scope:
            try:
                if (listed := await self._agent.toolset.list_tools()) != self._listed:
                    offer = await self._agent.select(listed, self._named)
                    self._context.offer(offer.listed, self._make_search(offer))
                    self._listed = listed
            except ZondaError as exc:
                self._fail(exc)
        if scope.cancelled_caught:
            self._stopped_by = "time"
        return self._stopped_by is None

    def _make_search(self, offer: Offer) -> ToolSearch | None:
        """What the conversation has found or called before stays at hand."""
        if not offer.searched:
            return None
        search = ToolSearch(offer.searched, self._max_chars)
        search.recall(self._messages)
        return search

    async def _fit(self, turn: _Turn) -> bool:
        """Make room for the next turn; False when the run has to stop."""
        length = self._model.context_length
        room = min(turn.sampling.max_tokens, length // 4)
        with anyio.CancelScope(deadline=self._deadline) as scope:
            try:
                await self._context.fit(self._messages, length - room, self._model.count_tokens)
            except ZondaError as exc:
                self._fail(exc)
        if scope.cancelled_caught:
            self._stopped_by = "time"
        return self._stopped_by is None

    async def _speak(
        self, turn: _Turn, choice: ToolChoice
    ) -> AsyncGenerator[TextDelta | StepFinished, None]:
        """Stream one turn of the model and take its message into the conversation."""
        began = anyio.current_time()
        tokens_left = self._limits.max_tokens - self._usage.completion_tokens
        sampling = replace(turn.sampling, max_tokens=min(turn.sampling.max_tokens, tokens_left))
        stream = self._model.stream(
            tuple(self._context.show(self._messages)),
            tools=tuple(self._context.tools),
            tool_choice=choice,
            output=turn.output,
            sampling=sampling,
            conversation=turn.conversation,
            choices=turn.choices,
            admitted=tuple(self._context.admitted),
        )
        async with _closing(stream):
            while (event := await self._next(stream)) is not None:
                if isinstance(event, TextDelta):
                    self._answer += event.text
                    yield event
                elif isinstance(event, TurnEnd):
                    self._take(event, choice)
                    seconds = anyio.current_time() - began
                    yield StepFinished(self._step, event.finish_reason, event.usage, seconds)
                    return

    async def _next(self, stream: AsyncIterator[ChatEvent]) -> ChatEvent | None:
        """Wait for the next event; None when the run has to stop."""
        with anyio.CancelScope(deadline=self._deadline) as scope:
            try:
                return await anext(stream)
            except StopAsyncIteration:
                self._fail(GenerationError("the model's turn broke off without an end"))
            except ZondaError as exc:
                self._fail(exc)
        if scope.cancelled_caught:
            self._stopped_by = "time"
        return None

    def _take(self, end: TurnEnd, choice: ToolChoice) -> None:
        """Take a finished turn in, and decide whether it was the last."""
        self._usage += end.usage
        self._answer = end.message.content
        must_answer = choice.mode == "none"
        message = end.message
        if end.rejected is not None:  # the model reads what was wrong, as of a call that failed
            self._caller.reject(end.rejected.call_id, end.error or "it does not fit its schema")
            message = replace(message, tool_calls=(*message.tool_calls, end.rejected))
        calls = () if must_answer else message.tool_calls
        if end.finish_reason == "error" and end.rejected is None:
            self._fail(GenerationError(end.error or "the model's turn failed"))
        elif end.finish_reason == "cancelled":
            self._stopped_by = "cancelled"
        elif not calls:
            self._stopped_by = self._why_answered(end, must_answer=must_answer)
        if self._stopped_by is not None and message.tool_calls:
            message = replace(message, tool_calls=(), token_ids=())
        self._messages.append(message)

    def _why_answered(self, end: TurnEnd, *, must_answer: bool) -> StoppedBy:
        if self._caller.must_stop is not None:
            return self._caller.must_stop
        if end.finish_reason == "length":
            return "tokens"
        is_cut = must_answer and self._step >= self._limits.max_steps and self._caller.specs
        return "steps" if is_cut else "done"

    def _fail(self, error: ZondaError) -> None:
        self._stopped_by, self._error = "error", error

    async def _call(
        self, calls: Sequence[ToolCall]
    ) -> AsyncGenerator[ToolCallStarted | ToolCallFinished, None]:
        """Make a turn's calls and put their results into the conversation, in call order."""
        self._caller.begin_turn()
        await self._caller.ask_approval(calls, self._deadline)
        for group in in_groups(calls, self._caller.specs):
            for call in group:
                yield ToolCallStarted(self._step, call)
            finished = await self._caller.call_group(self._step, group, self._deadline)
            for outcome in finished:
                self._finished.append(outcome)
                self._messages.append(self._as_message(outcome))
                yield outcome

    def _as_message(self, outcome: ToolCallFinished) -> Message:
        text = f"error: {outcome.result.text}" if outcome.result.is_error else outcome.result.text
        return Message(
            role="tool",
            content=self._context.cut(text, len(self._messages)),
            call_id=outcome.call.call_id,
            name=outcome.call.name,
        )

    def _end(self) -> AgentEnd:
        assert self._stopped_by is not None
        return AgentEnd(
            answer=self._answer,
            stopped_by=self._stopped_by,
            usage=self._usage,
            num_steps=self._step,
            calls=tuple(self._finished),
            messages=tuple(self._messages),
            error=self._error,
        )


def _record_nothing(record: CallRecord) -> None:
    """Where no audit log is kept."""


@asynccontextmanager
async def _closing(stream: AsyncIterator[ChatEvent]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
