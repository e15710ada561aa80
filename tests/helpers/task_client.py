"""A client of the Tasks extension: sends its requests, and finishes calls that became tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import anyio
import mcp_types as t
from mcp.client import ClientSession
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from pydantic import ConfigDict, TypeAdapter

Answers = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Gets a task's input requests, gives the responses."""


class TaskRequest(t.Request[dict[str, Any], str]):
    """Any request of the extension."""

    name_param: ClassVar[str | None] = "taskId"
    method: str
    params: dict[str, Any]


class TaskResult(t.Result):
    """`tools/call` answered by a task."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    result_type: Literal["task"] = "task"


async def request(session: ClientSession, method: str, task_id: str, **params: Any) -> Any:
    """Send a request about a task; return the whole result."""
    sent = TaskRequest(method=method, params={"taskId": task_id, **params})
    return await session.send_request(sent, TypeAdapter(dict[str, Any]))


def fields(task: TaskResult) -> dict[str, Any]:
    """What the answer said of the task."""
    return dict(task.model_extra or {})


@dataclass
class TaskPolling(ClientExtension):
    """Declares the extension and polls each task to its end; `seen` is all that it was told."""

    answers: Answers | None = None
    seen: list[dict[str, Any]] = field(default_factory=list)
    identifier = "io.modelcontextprotocol/tasks"

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=TaskResult, resolve=self._resolve)]

    async def _resolve(self, created: TaskResult, context: ClaimContext) -> t.CallToolResult:
        task = fields(created)
        self.seen.append(task)
        while task["status"] in {"working", "input_required"}:
            if task["status"] == "input_required" and self.answers is not None:
                given = await self.answers(task["inputRequests"])
                task_id = task["taskId"]
                await request(context.session, "tasks/update", task_id, inputResponses=given)
            await anyio.sleep(task["pollIntervalMs"] / 1000)
            task = await request(context.session, "tasks/get", task["taskId"])
            self.seen.append(task)
        assert task["status"] == "completed", task
        return t.CallToolResult.model_validate(task["result"])
