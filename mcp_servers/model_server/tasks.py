"""Runs as the tasks of MCP's Tasks extension: handed out, polled, answered, cancelled.

A task is a run that was handed out under its own id. Progress goes into its status message:
the extension knows no notifications of progress.

Source: io.modelcontextprotocol/tasks, 2026-07-28.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import mcp_types as types
from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp.server.context import CallNext, HandlerResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import Field

from mcp_servers.model_server.waiting import WAITING, outcome
from mcp_servers.toolset_server import principal_of, result_of
from runtime.agent.runs import Run, Runs
from runtime.errors import UnknownRunError
from tools.mcp_client.wire import to_mcp_result
from tools.questions import Answer, Question
from tools.spec import ToolResult

EXTENSION = "io.modelcontextprotocol/tasks"

POLL_MS = 500
MAX_POLL_MS = 2_000
"""Clients are asked to poll this often; more seldom the more calls wait for their turn."""


class _TaskParams(types.RequestParams):
    task_id: str = Field(alias="taskId")


class _UpdateParams(_TaskParams):
    input_responses: dict[str, Any] = Field(alias="inputResponses")


class Tasks:
    """Serves `tasks/get`, `tasks/update` and `tasks/cancel` of runs.

    `num_waiting` tells how many calls wait for their turn.
    """

    def __init__(self, runs: Runs, num_waiting: Callable[[], int] = lambda: 0) -> None:
        self._runs = runs
        self._num_waiting = num_waiting

    def install(self, server: Server[Any]) -> None:
        """Let a server offer the extension."""
        server.extensions[EXTENSION] = {}
        server.add_request_handler("tasks/get", _TaskParams, self._get)
        server.add_request_handler("tasks/update", _UpdateParams, self._update)
        server.add_request_handler("tasks/cancel", _TaskParams, self._cancel)
        server.middleware.append(_check_listen)

    def hand_out(self, run: Run) -> dict[str, Any]:
        """Answer `tools/call` with the task that a run becomes."""
        run.is_handed_out = True
        return {"resultType": "task", **self._describe(run)}

    async def _get(
        self, context: ServerRequestContext[Any, Any], params: _TaskParams
    ) -> dict[str, Any]:
        run = self._find(context, params)
        task = self._describe(run)
        if task["status"] == "input_required":
            task["inputRequests"] = {
                key: to_request(question).model_dump(by_alias=True, mode="json", exclude_none=True)
                for key, question in run.questions.items()
            }
        if run.status in {"done", "failed"}:
            task |= await _ending(run)
        return task

    async def _update(
        self, context: ServerRequestContext[Any, Any], params: _UpdateParams
    ) -> types.EmptyResult:
        run = self._find(context, params)
        answers = {
            key: to_answer(types.ElicitResult.model_validate(response, by_name=False))
            for key, response in params.input_responses.items()
            if key in run.questions  # what is not asked, or no longer, is ignored
        }
        for key, answer in answers.items():
            run.answer(key, answer)
        return types.EmptyResult()

    async def _cancel(
        self, context: ServerRequestContext[Any, Any], params: _TaskParams
    ) -> types.EmptyResult:
        self._find(context, params).cancel()
        return types.EmptyResult()

    def _find(self, context: ServerRequestContext[Any, Any], params: _TaskParams) -> Run:
        check_declared(context)
        if context.request is not None and context.request.headers.get("mcp-name") != (
            params.task_id
        ):
            raise MCPError(types.HEADER_MISMATCH, "the Mcp-Name header must be the taskId")
        try:
            return self._runs.get(params.task_id, principal_of(context))
        except UnknownRunError as exc:
            message = "no task has this id: it never existed, or it has expired"
            raise MCPError(types.INVALID_PARAMS, message) from exc

    def _describe(self, run: Run) -> dict[str, Any]:
        until = run.updated_at if run.is_finished else time.time()
        task: dict[str, Any] = {
            "taskId": run.id,
            "status": _status(run),
            "createdAt": _iso(run.created_at),
            "lastUpdatedAt": _iso(run.updated_at),
            "ttlMs": int((until - run.created_at + self._runs.expiry_s) * 1000),
            "pollIntervalMs": min(POLL_MS * (1 + self._num_waiting()), MAX_POLL_MS),
        }
        message = WAITING if run.questions else run.progress.message
        if message is not None:
            task["statusMessage"] = message
        return task


def declares_tasks(context: ServerRequestContext[Any, Any]) -> bool:
    """Whether a task may be the answer to this request."""
    if context.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return False
    capabilities = context.session.client_capabilities
    return capabilities is not None and EXTENSION in (capabilities.extensions or {})


def check_declared(context: ServerRequestContext[Any, Any]) -> None:
    """Refuse what only a client that knows tasks may ask.

    Raises:
        MCPError: this one has not said that it does, or its protocol has no tasks.
    """
    if context.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        raise MCPError(types.METHOD_NOT_FOUND, "Method not found", data=context.method)
    if not declares_tasks(context):
        raise MCPError(
            types.MISSING_REQUIRED_CLIENT_CAPABILITY,
            f"the client has to declare the extension {EXTENSION} in this request",
            data={"requiredCapabilities": {"extensions": {EXTENSION: {}}}},
        )


async def _check_listen(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Refuse to a client that does not know tasks what only such a client may listen to.

    The others are polled for: the acknowledgement names no task.
    """
    if ctx.method == "subscriptions/listen":
        wanted = (ctx.params or {}).get("notifications")
        if isinstance(wanted, Mapping) and wanted.get("taskIds"):
            check_declared(ctx)
    return await call_next(ctx)


def to_request(question: Question) -> types.ElicitRequest:
    """Put a question into MCP's terms, those of the modern protocol."""
    if question.url is not None:
        page = types.ElicitRequestURLParams(message=question.message, url=question.url)
        return types.ElicitRequest(params=page)
    form = types.ElicitRequestFormParams(message=question.message, requested_schema=question.schema)
    return types.ElicitRequest(params=form)


def to_answer(result: types.ElicitResult) -> Answer:
    """Take a client's answer to a form."""
    content = result.content
    return Answer(result.action, None if content is None else dict(content))


def _status(run: Run) -> str:
    if run.status == "running":
        return "input_required" if run.questions else "working"
    return {"done": "completed", "failed": "completed", "cancelled": "cancelled"}[run.status]


async def _ending(run: Run) -> dict[str, Any]:
    """The result of a run, or the error if its request would have got no result either."""

    async def shown() -> ToolResult:
        return outcome(run)

    try:
        result = await result_of(f"run {run.id}", shown())
    except MCPError as exc:
        error = exc.error.model_dump(by_alias=True, mode="json", exclude_none=True)
        return {"status": "failed", "statusMessage": exc.error.message, "error": error}
    shape = to_mcp_result(result)
    return {"result": shape.model_dump(by_alias=True, mode="json", exclude_none=True)}


def _iso(seconds: float) -> str:
    stamp = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return stamp.replace("+00:00", "Z")
