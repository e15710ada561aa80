"""Answers `tools/call` by runs, in the way of waiting that suits the client that asks.

A request blocks with progress. A question goes to the client as a form: at once where the
protocol lets a server ask, else as the result, and the retry resumes the same run. What takes
longer becomes a task for clients that know tasks, and a handle for all others.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import mcp_types as types
from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcp_servers.model_server.tasks import Tasks, declares_tasks, to_answer, to_request
from mcp_servers.model_server.waiting import (
    AnswerQuestions,
    RunToolset,
    answers_by,
    follow,
    settle,
    tied_to,
)
from mcp_servers.toolset_server import principal_of, result_of
from runtime.agent.runs import ANSWER_WITHIN_S, Run
from runtime.errors import UnknownRunError
from tools.errors import InvalidRequestError
from tools.mcp_client.wire import to_mcp_result
from tools.questions import Answer, Question
from tools.spec import ToolResult

logger = logging.getLogger(__name__)

TASK_AFTER_S = 10.0
"""What takes longer becomes a task for a client that knows tasks."""

CallAnswer = ToolResult | types.InputRequiredResult | dict[str, Any]


def serve_runs(
    server: Server[Any],
    toolset: RunToolset,
    *,
    num_waiting: Callable[[], int] = lambda: 0,
    task_after_s: float = TASK_AFTER_S,
) -> None:
    """Let a server answer the calls of this toolset, which is the one that it lists.

    State that a client carries from one request to the next is sealed under a key of this
    process and bound to tool, arguments and principal.
    """
    tasks = Tasks(toolset.runs, num_waiting)
    tasks.install(server)
    calls = _RunCalls(toolset, tasks, task_after_s)
    server.add_request_handler("tools/call", types.CallToolRequestParams, calls.answer)
    security = RequestStateSecurity(
        keys=[secrets.token_bytes(32)],
        ttl=ANSWER_WITHIN_S,
        bind_principal=lambda context: principal_of(context) or None,
    )
    server.middleware.append(RequestStateBoundary(security, default_audience=server.name))


class _RunCalls:
    """Answers the calls of one toolset."""

    def __init__(self, toolset: RunToolset, tasks: Tasks, task_after_s: float) -> None:
        self._toolset = toolset
        self._tasks = tasks
        self._task_after_s = task_after_s

    async def answer(
        self, context: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult | dict[str, Any]:
        """Answer one request."""
        answer = await result_of(params.name, self._wait(context, params))
        return to_mcp_result(answer) if isinstance(answer, ToolResult) else answer

    async def _wait(
        self, context: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> CallAnswer:
        run = self._find_run(context, params)
        wait_s = self._toolset.wait_s(params.name, params.arguments or {})
        may_be_task = declares_tasks(context) and not run.is_handed_out
        if may_be_task:
            wait_s = self._task_after_s if wait_s is None else min(wait_s, self._task_after_s)
        asks = _answer_questions(context, params.input_responses or {})
        with tied_to(run):
            is_over = await follow(run, wait_s, context.session.report_progress, asks)
        if not is_over:
            requests: types.InputRequests = {
                key: to_request(question) for key, question in run.questions.items()
            }
            return types.InputRequiredResult(input_requests=requests, request_state=run.id)
        if may_be_task and not run.is_finished:
            return self._tasks.hand_out(run)
        return settle(self._toolset.runs, run)

    def _find_run(
        self, context: ServerRequestContext[Any, Any], params: types.CallToolRequestParams
    ) -> Run:
        """Start the run, or find the one that asked when this is the retry with the answers."""
        principal = principal_of(context)
        if params.request_state is None:
            can_ask = _can_be_asked(context)
            return self._toolset.begin(
                params.name, params.arguments or {}, principal, can_ask=can_ask
            )
        try:
            return self._toolset.runs.get(params.request_state, principal)
        except UnknownRunError as exc:
            message = f"the call of {params.name} that asked is over; call {params.name} again"
            raise InvalidRequestError(message) from exc


def _can_be_asked(context: ServerRequestContext[Any, Any]) -> bool:
    capabilities = context.session.client_capabilities
    return capabilities is not None and capabilities.elicitation is not None


def _can_show(context: ServerRequestContext[Any, Any], question: Question) -> bool:
    """Whether the client shows such questions; one that says no more than "elicitation" has forms.

    Source: 2025-11-25, client/elicitation, capabilities.
    """
    capabilities = context.session.client_capabilities
    if capabilities is None or (elicitation := capabilities.elicitation) is None:
        return False
    if question.url is not None:
        return elicitation.url is not None
    return elicitation.form is not None or elicitation.url is None


def _answer_questions(
    context: ServerRequestContext[Any, Any], given: Mapping[str, types.InputResponse]
) -> AnswerQuestions | None:
    """How questions reach this client's user; None when they do not."""
    if not _can_be_asked(context):
        return None
    if context.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return answers_by(lambda question: _elicit(context, question))

    async def take_given(run: Run) -> bool:
        for key, question in run.questions.items():
            response = given.get(key)
            if not _can_show(context, question):
                run.answer(key, Answer("decline"))
            elif isinstance(response, types.ElicitResult):
                run.answer(key, to_answer(response))
        return not run.questions

    return take_given


async def _elicit(context: ServerRequestContext[Any, Any], question: Question) -> Answer:
    """Ask now; a client that fails to ask has nobody there."""
    if not _can_show(context, question):
        return Answer("decline")
    session, request_id = context.session, context.request_id
    try:
        if question.url is None:
            result = await session.elicit_form(question.message, question.schema, request_id)
        else:
            result = await session.elicit_url(
                question.message, question.url, secrets.token_urlsafe(9), request_id
            )
    except MCPError as exc:
        logger.warning("request=%s the client did not ask: %s", request_id, exc)
        return Answer("cancel")
    return to_answer(result)
