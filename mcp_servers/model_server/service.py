"""The model server's tools as a `Toolset`: arguments in, runs behind, results out.

Knows nothing of MCP. A request waits for its run in the foreground; cancelled there, it
cancels the run. Once a run was handed out by its id, it no longer depends on a request.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import anyio
from anyio.abc import TaskGroup

from mcp_servers.model_server import calls
from mcp_servers.model_server.admin import ModelList, Models, state_of
from mcp_servers.model_server.admission import Admission, AdmissionLimits, Allowance, Ticket
from mcp_servers.model_server.background import Background
from mcp_servers.model_server.batch import generate_batch
from mcp_servers.model_server.chat import chat
from mcp_servers.model_server.embed import VectorStore, embed
from mcp_servers.model_server.report import Report
from mcp_servers.model_server.resources import describe_support
from mcp_servers.model_server.schemas import DEFAULT_WAIT_S, MAX_STEPS
from mcp_servers.model_server.tools import Surface, list_specs
from mcp_servers.model_server.waiting import answers_by, follow, settle, tied_to
from mcp_servers.service_state import ServiceState
from runtime.agent.approval import approve_by_form
from runtime.agent.audit import AuditLog
from runtime.agent.limits import Limits
from runtime.agent.loop import Agent
from runtime.agent.policy import Policy
from runtime.agent.runs import Run, Runs
from runtime.agent.sampling import model_sampler
from runtime.agent.tool_tally import TalliedToolset, ToolCallTally
from runtime.chat.support import ToolSupport
from runtime.errors import CapacityError
from tools.errors import InvalidArgumentsError, UnavailableError, ZondaError
from tools.questions import decline
from tools.sampling import Sampler
from tools.spec import JsonObject, ToolResult, ToolSpec
from tools.toolset import (
    CallContext,
    Changes,
    ChangingToolset,
    FilteredToolset,
    Toolset,
    find_tool,
)

if TYPE_CHECKING:
    from runtime.hub import ModelInfo

logger = logging.getLogger(__name__)

Work = Callable[[Run, calls.Model, JsonObject], Awaitable[ToolResult]]

_WORK: Mapping[str, Work] = {
    "generate": calls.generate,
    "extract": calls.extract,
    "choose": calls.choose,
    "generate_batch": generate_batch,
    "chat": chat,
}

_TEXTS: Mapping[str, Sequence[str]] = {
    "generate": ("system", "prompt"),
    "extract": ("instructions", "input"),
    "choose": ("question", "input"),
}
"""Arguments that stand in one prompt."""

WHOLE = frozenset({"choose", "embed", "model_unload"})
"""Tools that answer only when they are done, however long that takes."""

CANCEL_WAIT_S = 5.0

PREPARE_INTERVAL_S = 1.0
"""Tools that change again and again are prepared for this often at most."""


class OpenToolset(Protocol):
    """Opens the tool servers; `sampler` answers those that may ask our model."""

    def __call__(self, *, sampler: Sampler) -> AbstractAsyncContextManager[Toolset]: ...


@dataclass(frozen=True, slots=True)
class AgentSetup:
    """What `agent_run` needs: the tool servers' names, how to open them, policy and audit log."""

    servers: Sequence[str]
    open_toolset: OpenToolset
    policy: Policy
    audit: AuditLog | None = None


class ModelService:
    """Offers the tools; made by `open_service`, which owns its tasks.

    `listed` is set once somebody asked for the list of tools; `readiness` says what became of
    loading the default model.
    """

    def __init__(
        self,
        models: ModelList,
        runs: Runs,
        admission: Admission,
        agent: AgentSetup | None,
        toolset: Background[Toolset] | None,
        tasks: TaskGroup,
        surface: Surface,
    ) -> None:
        self.models = models
        self.surface = surface
        self._runs = runs
        self._admission = admission
        self._agent = agent
        self._toolset = toolset
        self._tasks = tasks
        self._turns: set[anyio.CancelScope] = set()
        self._prepared: dict[str, list[ToolSpec]] = {}  # by model: what it is ready for
        self._tool_calls = ToolCallTally()
        self._is_following = False
        self.vectors = VectorStore()
        self.report = Report(models, runs, admission, toolset)
        self._listed: tuple[object, Sequence[ToolSpec]] | None = None
        self.listed = anyio.Event()
        self.readiness: Literal["loading", "ready", "failed"] = "loading"

    @property
    def changes(self) -> Changes:
        """Counts how often a model was loaded or unloaded: there may be other tools then."""
        return self.models.changes

    @property
    def specs(self) -> Sequence[ToolSpec]:
        """The tools as they are now."""
        names = self.models.names, self.models.embedding
        if self._listed is None or self._listed[0] != names:
            servers = self._agent.servers if self._agent else ()
            self._listed = names, list_specs(names[0], servers, self.surface, names[1])
        return self._listed[1]

    @property
    def agent(self) -> AgentSetup | None:
        """How tool servers are used; None where there are none."""
        return self._agent

    async def open_toolset(self) -> Toolset:
        """Wait for the tool servers.

        Raises:
            ZondaError: there are none, or they could not be opened.
        """
        if self._toolset is None:
            raise UnavailableError("this server has no tool servers")
        return await self._toolset.get()

    async def unload(
        self, name: str, within_s: float = 0, report: Callable[[str], None] = lambda doing: None
    ) -> ModelInfo:
        """See `ModelList.unload`; what the model was prepared for is forgotten."""
        self._prepared.pop(name, None)
        return await self.models.unload(name, within_s, report)

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something for as long as the service does."""
        self._tasks.start_soon(work)

    def state(self) -> ServiceState:
        """Say what goes on and what was done."""
        models = self.models.opened
        return ServiceState(
            self._admission.num_running,
            self._admission.num_waiting,
            self._runs.num_ended,
            self._tool_calls,
            {} if models is None else models.states(),
        )

    async def prepare(self) -> None:
        """Open tool servers and models and load the default model, before a call needs them.

        What fails here is logged; the calls that need it fail with the same error.
        """
        if self._toolset is not None:
            self._toolset.want()
        try:
            model = await self.models.get_default(logger.info)
        except ZondaError as exc:
            self.readiness = "failed"
            logger.warning("model %s is not available: %s", self.models.default, exc)
        except Exception:
            self.readiness = "failed"
            logger.exception("model %s could not be loaded", self.models.default)
        else:
            self.readiness = "ready"
            await self._prepare_tools(model)
            if self._toolset is not None and not self._is_following:
                self._is_following = True
                self._tasks.start_soon(self._follow_tools, self._toolset)

    async def _follow_tools(self, opened: Background[Toolset]) -> None:
        """Prepare anew whenever the tool servers offer other tools; the task ends with us."""
        try:
            toolset = await opened.get()
        except ZondaError:  # logged where it was raised
            return
        if not isinstance(toolset, ChangingToolset):
            return
        seen = -1  # what changed while we were not looking counts
        while True:
            seen = await toolset.changes.wait(seen)
            if (model := self.models.find(self.models.default)) is not None:
                await self._prepare_tools(model)
            del model  # an unloaded model's memory is not kept from here
            await anyio.sleep(PREPARE_INTERVAL_S)

    async def drain(self) -> None:
        """Refuse new runs and wait for those that go on; results can still be asked for."""
        self._admission.close()
        await self._admission.emptied()

    async def _prepare_tools(self, model: calls.Model) -> None:
        """Let a model get ready for the tools that its runs will offer, unless it is.

        A server may come up late or offer other tools later: this is done after each run, too.
        """
        if self._agent is None or self._toolset is None:
            return
        try:
            agent = Agent(model, await self._toolset.get(), self._agent.policy)
            tools = await agent.list_tools()
            if self._prepared.get(model.name) != tools:
                self._prepared[model.name] = tools
                await model.prepare(tools)
        except ZondaError as exc:
            logger.warning("model %s is not prepared for its tools: %s", model.name, exc)
        except Exception:
            logger.exception("model %s is not prepared for its tools", model.name)

    async def describe_support(self) -> JsonObject:
        """Say what the grammar enforces: of schemas, and of the tool servers' tools.

        Waits for the tool servers and the default model, at most `DEFAULT_WAIT_S`.
        """
        tools: Sequence[ToolSpec] = ()
        support: Mapping[str, ToolSupport] = {}
        problem: str | None = None
        if self._toolset is not None:
            problem = "the tool servers or the model are still starting; read this again"
            with anyio.move_on_after(DEFAULT_WAIT_S):
                try:
                    tools = await (await self._toolset.get()).list_tools()
                    model = await self.models.get_default(logger.info)
                    support = await model.support_of(tools)
                    problem = None
                except ZondaError as exc:
                    problem = str(exc)
        return describe_support(tools, support, problem)

    @asynccontextmanager
    async def turn(self, caller: str, within_s: float | None = None) -> AsyncIterator[None]:
        """Wait for a place among those who run, at most that long, and keep it.

        Raises:
            CapacityError: the queue is full, or none became free in time; the message says
                when to try again.
            UnavailableError: the server is shutting down.
        """
        with self._admission.enter(caller) as ticket, anyio.CancelScope() as scope:
            self._turns.add(scope)
            try:
                await self._admission.turn(ticket, within_s)
                yield
            finally:
                self._turns.remove(scope)
        if scope.cancelled_caught:
            raise UnavailableError("the server is shutting down; try again when it is back")

    def end_turns(self) -> None:
        """End the turns that still go on; their callers are told why."""
        for scope in self._turns:
            scope.cancel()

    def check_queue(self, caller: str) -> None:
        """Refuse a caller who would get no place, before anything is done for them.

        Raises:
            CapacityError, UnavailableError: as `turn`.
        """
        self._admission.check(caller)

    def allowance(self, caller: str) -> Allowance:
        """Say how much a caller may still send."""
        return self._admission.allowance(caller)

    async def list_tools(self) -> Sequence[ToolSpec]:
        self.listed.set()
        return self.specs

    @property
    def runs(self) -> Runs:
        return self._runs

    @property
    def num_waiting(self) -> int:
        """How many calls wait for their turn."""
        return self._admission.num_waiting

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> ToolResult:
        """Call one tool.

        Raises:
            UnknownToolError: no tool has that name.
            ZondaError: wrong arguments, or the call failed; the caller makes it a result.
        """
        can_ask = context.ask is not decline
        run = self.begin(name, arguments, context.principal, can_ask=can_ask)
        with tied_to(run):
            wait_s = self.wait_s(name, arguments)
            await follow(run, wait_s, context.report_progress, answers_by(context.ask))
        return settle(self._runs, run)

    def begin(
        self, name: str, arguments: JsonObject, principal: str, *, can_ask: bool = False
    ) -> Run:
        """See `RunToolset.begin`."""
        _check_arguments(find_tool(self.specs, name), arguments)
        if name == "run_result":
            run = self._runs.get(arguments["run_id"], principal)
            if arguments.get("cancel", False):
                run.cancel()
            return run
        ticket = self._admission.enter(principal)
        try:
            return self._runs.start(
                lambda run: self._work(run, ticket, name, arguments), principal, can_ask=can_ask
            )
        except CapacityError:
            self._admission.leave(ticket)
            raise

    def wait_s(self, name: str, arguments: JsonObject) -> float | None:
        """See `RunToolset.wait_s`."""
        if name in WHOLE:
            return None
        if arguments.get("cancel", False):
            return CANCEL_WAIT_S
        return float(arguments.get("wait_seconds", DEFAULT_WAIT_S))

    async def _work(self, run: Run, ticket: Ticket, name: str, arguments: JsonObject) -> ToolResult:
        run.title = name
        with ticket:
            if ticket.started_at is None:
                await self._check_length(name, arguments)
                run.report(0, None, "waiting for other calls to end")
            await ticket.turn()
            return await self._do(run, name, arguments)

    async def _check_length(self, name: str, arguments: JsonObject) -> None:
        """Refuse what its model, where it is loaded, could not read, before it waits.

        Raises:
            PromptTooLongError: the texts alone fill the context.
        """
        from runtime.chat.messages import Message
        from runtime.chat.prompt_length import check_length

        texts = [str(arguments.get(field, "")) for field in _TEXTS.get(name, ())]
        model = self.models.find(arguments.get("model") or self.models.default)
        if texts and model is not None:
            await check_length(model, [Message("user", "\n".join(texts))])

    async def _do(self, run: Run, name: str, arguments: JsonObject) -> ToolResult:
        if name == "model_load":
            return await self.models.load(run, arguments)
        if name == "model_unload":
            wait_s = float(arguments.get("wait_seconds", 0))
            told = partial(run.report, 1, None)
            return state_of(await self.unload(arguments["model"], wait_s, told), "unloaded")
        async with self.models.use(run, arguments.get("model")) as loaded:
            model = loaded.for_caller(run.principal)
            if name == "agent_run":
                agent = await self._make_agent(run, model, arguments)
                result = await calls.agent_run(run, agent, model.name, arguments)
                self._tasks.start_soon(self._prepare_tools, loaded)
                return result
            if name == "embed":
                return await embed(run, model, self.vectors, arguments)
            return await _WORK[name](run, model, arguments)

    async def _make_agent(self, run: Run, model: calls.Model, arguments: JsonObject) -> Agent:
        assert self._agent is not None
        assert self._toolset is not None
        run.report(1, None, "starting tool servers")
        toolset = await self._toolset.get()
        if (servers := arguments.get("servers")) is not None:
            toolset = FilteredToolset(toolset, lambda tool: tool.server in servers)
        limits = Limits(max_steps=arguments.get("max_steps", MAX_STEPS))
        toolset = TalliedToolset(toolset, self._tool_calls)
        agent = Agent(model, toolset, self._agent.policy, limits, audit=self._agent.audit)
        if not run.can_ask:
            return agent
        return replace(agent, approver=approve_by_form(run.ask), ask=run.ask)


@asynccontextmanager
async def open_service(
    model_names: Sequence[str],
    open_models: Callable[[], AbstractAsyncContextManager[Models]],
    agent: AgentSetup | None = None,
    limits: AdmissionLimits | None = None,
    *,
    surface: Surface | None = None,
    admission: Admission | None = None,
) -> AsyncIterator[ModelService]:
    """Serve these model names, the default first; leaving ends all runs and tool servers.

    Nothing is opened before `prepare` or the first call. Services that share their models share
    an `admission`; one of its own has `limits`.
    """
    models = Background("the models", open_models)
    offered = ModelList(model_names, models)
    toolset = None
    if agent is not None:
        hold = partial(offered.hold, offered.default, logger.info)
        opened = partial(agent.open_toolset, sampler=model_sampler(hold))
        toolset = Background("the tool servers", opened)
    async with anyio.create_task_group() as group:
        group.start_soon(models.run)
        if toolset is not None:
            group.start_soon(toolset.run)
        async with Runs() as runs:
            places = admission or Admission(limits)
            yield ModelService(offered, runs, places, agent, toolset, group, surface or Surface())
        group.cancel_scope.cancel()


def _check_arguments(spec: ToolSpec, arguments: JsonObject) -> None:
    from tools.validation import first_problem

    if (problem := first_problem(spec.input_schema, arguments)) is not None:
        raise InvalidArgumentsError(problem)
