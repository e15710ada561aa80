"""The model server's tools as a `Toolset`: arguments in, runs behind, results out.

Knows nothing of MCP. A request waits for its run in the foreground; cancelled there, it
cancels the run. Once a run was handed out by its id, it no longer depends on a request.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import anyio
from anyio.abc import TaskGroup

from mcp_servers.model_server import calls
from mcp_servers.model_server.admission import Admission, AdmissionLimits, Ticket
from mcp_servers.model_server.background import Background
from mcp_servers.model_server.resources import describe_support
from mcp_servers.model_server.tools import DEFAULT_WAIT_S, MAX_STEPS, list_specs
from mcp_servers.service_state import ServiceState
from runtime.agent.limits import Limits
from runtime.agent.loop import Agent
from runtime.agent.policy import Policy
from runtime.agent.runs import Run, Runs
from runtime.agent.tool_tally import TalliedToolset, ToolCallTally
from runtime.chat.support import ToolSupport
from runtime.errors import CapacityError
from tools.errors import InvalidArgumentsError, ZondaError
from tools.spec import JsonObject, TextContent, ToolResult, ToolSpec
from tools.toolset import (
    CallContext,
    ChangingToolset,
    FilteredToolset,
    ProgressCallback,
    Toolset,
    find_tool,
)

if TYPE_CHECKING:
    from runtime.engine.tally import EngineState

logger = logging.getLogger(__name__)

Work = Callable[[Run, calls.Model, JsonObject], Awaitable[ToolResult]]

_WORK: Mapping[str, Work] = {
    "generate": calls.generate,
    "extract": calls.extract,
    "choose": calls.choose,
}

PROGRESS_INTERVAL_S = 0.2
CANCEL_WAIT_S = 5.0

PREPARE_INTERVAL_S = 1.0
"""Tools that change again and again are prepared for this often at most."""


class Models(Protocol):
    """Gives loaded models by name; None is the default. `runtime.hub.Hub` is one."""

    async def get(self, name: str | None, report: Callable[[str], None]) -> calls.Model:
        """Return a model, loading it when it is not; `report` is told what is being done.

        Raises:
            ZondaError: there is no such model, or it cannot be loaded.
        """
        ...

    def states(self) -> Mapping[str, EngineState]:
        """What each loaded model's engine does and did, by the model's name."""
        ...


@dataclass(frozen=True, slots=True)
class AgentSetup:
    """What `agent_run` needs: the tool servers' names, how to open them, and the policy."""

    servers: Sequence[str]
    open_toolset: Callable[[], AbstractAsyncContextManager[Toolset]]
    policy: Policy


class ModelService:
    """Offers the tools; made by `open_service`, which owns its tasks.

    `listed` is set once somebody asked for the list of tools; `readiness` says what became of
    loading the default model.
    """

    def __init__(
        self,
        model_names: Sequence[str],
        models: Background[Models],
        runs: Runs,
        admission: Admission,
        agent: AgentSetup | None,
        toolset: Background[Toolset] | None,
        tasks: TaskGroup,
    ) -> None:
        self._model_names = model_names
        self._models = models
        self._runs = runs
        self._admission = admission
        self._agent = agent
        self._toolset = toolset
        self._tasks = tasks
        self._prepared: dict[str, list[ToolSpec]] = {}  # by model: what it is ready for
        self._tool_calls = ToolCallTally()
        self._is_following = False
        self.listed = anyio.Event()
        self.readiness: Literal["loading", "ready", "failed"] = "loading"
        self._specs = list_specs(model_names, agent.servers if agent else ())

    def state(self) -> ServiceState:
        """Say what goes on and what was done."""
        models = self._models.value
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
            model = await (await self._models.get()).get(None, logger.info)
        except ZondaError as exc:
            self.readiness = "failed"
            logger.warning("model %s is not available: %s", self._model_names[0], exc)
        except Exception:
            self.readiness = "failed"
            logger.exception("model %s could not be loaded", self._model_names[0])
        else:
            self.readiness = "ready"
            await self._prepare_tools(model)
            if self._toolset is not None and not self._is_following:
                self._is_following = True
                self._tasks.start_soon(self._follow_tools, model, self._toolset)

    async def _follow_tools(self, model: calls.Model, opened: Background[Toolset]) -> None:
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
            await self._prepare_tools(model)
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
                    model = await (await self._models.get()).get(None, logger.info)
                    support = await model.support_of(tools)
                    problem = None
                except ZondaError as exc:
                    problem = str(exc)
        return describe_support(tools, support, problem)

    async def list_tools(self) -> Sequence[ToolSpec]:
        self.listed.set()
        return self._specs

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> ToolResult:
        """Call one tool.

        Raises:
            UnknownToolError: no tool has that name.
            ZondaError: wrong arguments, or the call failed; the caller makes it a result.
        """
        spec = find_tool(self._specs, name)
        _check_arguments(spec, arguments)
        wait_s = float(arguments.get("wait_seconds", DEFAULT_WAIT_S))
        if name == "run_result":
            return await self._run_result(arguments, wait_s, context)
        ticket = self._admission.enter(context.principal)
        try:
            run = self._runs.start(
                lambda run: self._work(run, ticket, name, arguments), context.principal
            )
        except CapacityError:
            self._admission.leave(ticket)
            raise
        try:
            await _follow(run, None if name == "choose" else wait_s, context.report_progress)
        except anyio.get_cancelled_exc_class():
            run.cancel()
            raise
        if run.is_finished:
            self._runs.discard(run)
        return outcome(run)

    async def _run_result(
        self, arguments: JsonObject, wait_s: float, context: CallContext
    ) -> ToolResult:
        run = self._runs.get(arguments["run_id"], context.principal)
        if arguments.get("cancel", False):
            run.cancel()
            await run.wait(CANCEL_WAIT_S)
        else:
            await _follow(run, wait_s, context.report_progress)
        return outcome(run)

    async def _work(self, run: Run, ticket: Ticket, name: str, arguments: JsonObject) -> ToolResult:
        with ticket:
            if ticket.started_at is None:
                run.report(0, None, "waiting for other calls to end")
            await ticket.turn()
            return await self._do(run, name, arguments)

    async def _do(self, run: Run, name: str, arguments: JsonObject) -> ToolResult:
        model_name = arguments.get("model")
        model = await self._get_model(run, model_name)
        if name == "agent_run":
            agent = await self._make_agent(run, model, arguments)
            result = await calls.agent_run(run, agent, model.name, arguments)
            self._tasks.start_soon(self._prepare_tools, model)
            return result
        return await _WORK[name](run, model, arguments)

    async def _get_model(self, run: Run, name: str | None) -> calls.Model:
        """Wait for a model, telling the run what it waits for."""
        waits = itertools.count()

        def report(doing: str) -> None:
            # Progress has to grow, and the first token or step will count as 1.
            run.report(1 - 1 / (1 + next(waits)), None, doing)

        report(f"waiting for {name or self._model_names[0]}")
        return await (await self._models.get()).get(name, report)

    async def _make_agent(self, run: Run, model: calls.Model, arguments: JsonObject) -> Agent:
        assert self._agent is not None
        assert self._toolset is not None
        run.report(1, None, "starting tool servers")
        toolset = await self._toolset.get()
        if (servers := arguments.get("servers")) is not None:
            toolset = FilteredToolset(toolset, lambda tool: tool.server in servers)
        limits = Limits(max_steps=arguments.get("max_steps", MAX_STEPS))
        toolset = TalliedToolset(toolset, self._tool_calls)
        return Agent(model, toolset, self._agent.policy, limits)


@asynccontextmanager
async def open_service(
    model_names: Sequence[str],
    open_models: Callable[[], AbstractAsyncContextManager[Models]],
    agent: AgentSetup | None = None,
    limits: AdmissionLimits | None = None,
) -> AsyncIterator[ModelService]:
    """Serve these model names, the default first; leaving ends all runs and tool servers.

    Nothing is opened before `prepare` or the first call.
    """
    models = Background("the models", open_models)
    toolset = None
    if agent is not None:
        toolset = Background("the tool servers", agent.open_toolset)
    async with anyio.create_task_group() as group:
        group.start_soon(models.run)
        if toolset is not None:
            group.start_soon(toolset.run)
        async with Runs() as runs:
            admission = Admission(limits)
            yield ModelService(model_names, models, runs, admission, agent, toolset, group)
        group.cancel_scope.cancel()


def outcome(run: Run) -> ToolResult:
    """Return what a host gets for a run as it stands.

    Raises:
        Exception: the run failed; this is why.
    """
    if run.status == "done":
        assert isinstance(run.result, ToolResult)
        return run.result
    if run.error is not None:
        raise run.error
    if run.status == "cancelled":
        text = "The run was cancelled."
    else:
        so_far = f" ({run.progress.message})" if run.progress.message else ""
        text = f'Still running{so_far}. Call run_result with run_id "{run.id}" for the result.'
    return ToolResult(
        content=(TextContent(text),), structured={"status": run.status, "run_id": run.id}
    )


async def _follow(run: Run, wait_s: float | None, report: ProgressCallback) -> None:
    """Wait for the run's end, at most `wait_s`, reporting new progress 5 times a second."""
    sent = -1.0
    with anyio.move_on_after(wait_s):
        while not run.is_finished:
            progress = run.progress
            if progress.message is not None and progress.done > sent:
                sent = progress.done
                await report(progress.done, progress.total, progress.message)
                await run.wait(PROGRESS_INTERVAL_S)
            else:
                await run.changed()


def _check_arguments(spec: ToolSpec, arguments: JsonObject) -> None:
    from tools.validation import first_problem

    if (problem := first_problem(spec.input_schema, arguments)) is not None:
        raise InvalidArgumentsError(problem)
