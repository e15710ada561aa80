"""What the server says of itself: models, runs, load and tool servers. Knows nothing of MCP.

Nothing is opened, loaded or waited for so that it can be told.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import anyio

from mcp_servers.model_server.admin import ModelList
from mcp_servers.model_server.admission import Admission
from mcp_servers.model_server.background import Background
from runtime.agent.budget import ToolReport, report_tools
from runtime.agent.runs import Run, Runs
from runtime.errors import TemplateError, UnknownModelError
from tools.errors import ZondaError, suggest
from tools.mcp_client.server import ServerState
from tools.spec import JsonObject, ToolResult, ToolSpec
from tools.toolset import Toolset

if TYPE_CHECKING:
    from runtime.engine.tally import EngineState

logger = logging.getLogger(__name__)

LIST_WITHIN_S = 1.0
"""How long a report waits for tool servers that still start."""


@runtime_checkable
class Supervised(Toolset, Protocol):
    """A toolset of servers, each of which stands somewhere."""

    def states(self) -> Mapping[str, ServerState]:
        """Where each server stands, by its configured name."""
        ...


class Report:
    """Describes what a service has; made by it."""

    def __init__(
        self,
        models: ModelList,
        runs: Runs,
        admission: Admission,
        toolset: Background[Toolset] | None,
    ) -> None:
        self._models = models
        self._runs = runs
        self._admission = admission
        self._toolset = toolset
        self._started = time.monotonic()
        self._counted: tuple[str, list[ToolSpec], ToolReport] | None = None

    @property
    def model_names(self) -> Sequence[str]:
        """The models that a call may name."""
        return self._models.names

    @property
    def are_models_loaded(self) -> bool:
        """Whether all models are that a call may name."""
        return set(self._models.names) == set(
            self._models.opened.names if self._models.opened else ()
        )

    def runs_of(self, principal: str) -> Sequence[Run]:
        """A principal's runs that are kept."""
        return self._runs.of(principal)

    def models_version(self) -> Hashable:
        """Another value once other models are loaded."""
        return () if self._models.opened is None else tuple(self._models.opened.names)

    def describe_models(self) -> JsonObject:
        """The list of models: what may be named, and what of it is loaded."""
        return {
            "default": self._models.default,
            "models": [self._describe(name, in_full=False) for name in self._models.names],
        }

    def describe_model(self, name: str) -> JsonObject:
        """All facts of a model; few where it is not loaded.

        Raises:
            UnknownModelError: no call may name it.
        """
        names = self._models.names
        if name not in names:
            raise UnknownModelError(f"no model is named {name!r}{suggest(name, names)}")
        return self._describe(name, in_full=True)

    def describe_run(self, run_id: str, principal: str) -> JsonObject:
        """A run as it stands, with its result once it is done.

        Raises:
            UnknownRunError: the principal has no such run.
        """
        run = self._runs.get(run_id, principal)
        told: JsonObject = {
            "run_id": run.id,
            "tool": run.title,
            "status": run.status,
            "progress": asdict(run.progress),
        }
        if isinstance(run.result, ToolResult):
            told["result"] = run.result.structured
        if run.error is not None:
            known = isinstance(run.error, ZondaError)
            told["error"] = str(run.error) if known else "it failed inside the server; see its log"
        return told

    def describe_transcript(self, run_id: str, principal: str) -> JsonObject:
        """What a run said and did so far.

        Raises:
            UnknownRunError: the principal has no such run.
        """
        run = self._runs.get(run_id, principal)
        return {
            "run_id": run.id,
            "status": run.status,
            "entries": run.transcript.to_json(),
            "is_cut": run.transcript.is_cut,
        }

    def run_version(self, run_id: str, principal: str) -> Hashable:
        """Another value once a run got on or its transcript grew.

        Raises:
            UnknownRunError: the principal has no such run.
        """
        run = self._runs.get(run_id, principal)
        return run.status, run.progress, run.transcript.version

    def status_version(self) -> Hashable:
        """Another value once the status says something else."""
        models = self._models.opened
        engines = {} if models is None else models.states()
        return (
            self._admission.num_running,
            self._admission.num_waiting,
            len(self._runs),
            tuple(
                (one.num_running, one.num_waiting, one.tally.generated_tokens)
                for one in engines.values()
            ),
            tuple(self._states().items()),
        )

    async def describe_status(self) -> JsonObject:
        """What goes on now: calls, each model's engine, each tool server."""
        models = self._models.opened
        counted = await self._count_definitions()
        told: JsonObject = {
            "uptime_s": round(time.monotonic() - self._started, 1),
            "calls": {
                "running": self._admission.num_running,
                "waiting": self._admission.num_waiting,
                "kept_runs": len(self._runs),
            },
            "models": [] if models is None else [_engine(*one) for one in models.states().items()],
            "tool_servers": self._describe_servers(counted),
        }
        if counted is not None:
            told["definitions"] = {
                "tokens": counted.num_tokens,
                "context_share": round(counted.share, 4),
                "are_searched": counted.is_searched,
            }
        return told

    def _describe(self, name: str, *, in_full: bool) -> JsonObject:
        models = self._models.opened
        if models is None or name not in models.names:
            return {"name": name, "state": "not loaded", "note": "a call that names it loads it"}
        info = models.info(name)
        memory = {"weight_bytes": info.weight_bytes, "kv_bytes": info.kv_bytes}
        if in_full:
            return {**asdict(info), "name": name, "state": "loaded", "modalities": ["text"]}
        return {"name": name, "state": "loaded", "context_length": info.context_length, **memory}

    def _states(self) -> Mapping[str, ServerState]:
        toolset = None if self._toolset is None else self._toolset.opened
        return toolset.states() if isinstance(toolset, Supervised) else {}

    def _describe_servers(self, counted: ToolReport | None) -> list[JsonObject]:
        sizes = {} if counted is None else {one.server: one for one in counted.servers}
        told = []
        for name, state in self._states().items():
            server: JsonObject = {"name": name, **state.describe()}
            if name in sizes:
                server["definition_tokens"] = sizes[name].num_tokens
                server["context_share"] = round(sizes[name].share, 4)
            told.append(server)
        return told

    async def _count_definitions(self) -> ToolReport | None:
        """What definitions take of the default model's context; None where that is not known."""
        toolset = None if self._toolset is None else self._toolset.opened
        model = self._models.find(self._models.default)
        if toolset is None or model is None:
            return None
        with anyio.move_on_after(LIST_WITHIN_S):
            tools = list(await toolset.list_tools())
            if self._counted is None or self._counted[:2] != (model.name, tools):
                try:
                    counted = await report_tools(tools, model.count_tokens, model.context_length)
                except TemplateError as exc:
                    logger.warning("the definitions of tools cannot be counted: %s", exc)
                    return None
                self._counted = model.name, tools, counted
            return self._counted[2]
        return None


def _engine(name: str, status: EngineState) -> JsonObject:
    used, pages = status.num_used_pages, status.num_pages
    return {
        "name": name,
        "batch_size": status.num_running,
        "queue_depth": status.num_waiting,
        "tokens_per_s": round(status.tokens_per_s, 1),
        "generated_tokens": status.tally.generated_tokens,
        "preemptions": status.num_preemptions,
        "kv": {
            "used_tokens": used * status.page_size,
            "all_tokens": pages * status.page_size,
            "used_share": round(used / pages, 3),
        },
    }
