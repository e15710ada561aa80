"""A run's questions and its end, for every kind of client; on a clock that jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import mcp_types as t
import pytest
from mcp import Client, MCPError

from mcp_servers.model_server.server import build_server
from mcp_servers.model_server.service import open_service
from runtime.agent.runs import ANSWER_WITHIN_S
from runtime.chat.messages import ToolCall
from tests.helpers.model_service import ERAS, ScriptedModels, agent_over, connect, scripted_models
from tests.helpers.scripted_chat_model import AskedTurn, ScriptedTurn, play
from tests.helpers.scripted_tools import ScriptedToolset, echo, make_spec
from tests.helpers.task_client import TaskPolling, TaskResult, fields, request
from tests.helpers.virtual_time import VIRTUAL_TIME
from tools.spec import JsonObject

pytestmark = pytest.mark.anyio

MODERN = "2026-07-28"
WIPES = ScriptedTurn(calls=(ToolCall("call-1", "fs__wipe", {"path": "/a"}),))
TASK = {"task": "tidy up"}
NOBODY = (
    "fs__wipe was not called, because it is marked destructive and nobody can be asked; "
    'mcpServers["fs"]["x-runtime"].tools.allow: ["wipe"] would allow it.'
)
FORM: JsonObject = {
    "mode": "form",
    "message": "The local model wants to make this call. Which may it make?\n"
    '1. fs__wipe {"path": "/a"}\n   asks because it is marked destructive',
    "requestedSchema": {
        "type": "object",
        "properties": {"call_1": {"type": "boolean", "title": "Allow 1. fs__wipe"}},
        "required": ["call_1"],
    },
}


@pytest.fixture
def anyio_backend() -> Any:
    return VIRTUAL_TIME


class Person:
    """Answers forms, and keeps what was asked."""

    def __init__(self, action: Any = "accept", *, allows: bool = True) -> None:
        self.asked: list[JsonObject] = []
        self._answer = t.ElicitResult(action=action, content={"call_1": allows})

    async def __call__(self, context: Any, params: Any) -> t.ElicitResult:
        self.asked.append(params.model_dump(by_alias=True, exclude_none=True))
        return self._answer


def tidying() -> tuple[ScriptedModels, ScriptedToolset]:
    """A model that wipes once and then answers with what it got."""

    def script(asked: AskedTurn) -> ScriptedTurn:
        last = asked.messages[-1]
        return ScriptedTurn(last.content) if last.role == "tool" else WIPES

    toolset = ScriptedToolset([(make_spec("fs__wipe", server="fs", destructive=True), echo)])
    return scripted_models(script), toolset


@asynccontextmanager
async def tidier(
    era: str = MODERN, **options: Any
) -> AsyncIterator[tuple[Client, ScriptedToolset]]:
    models, toolset = tidying()
    agent = agent_over(toolset, "fs")
    async with connect(models, agent, era=era, within_s=2000, **options) as client:
        yield client, toolset


def answer_of(result: t.CallToolResult) -> str:
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return str(result.structured_content["answer"])


async def start(client: Client, **params: Any) -> t.InputRequiredResult:
    result = await client.session.call_tool("agent_run", TASK, allow_input_required=True, **params)
    assert isinstance(result, t.InputRequiredResult)
    return result


def allowing(asked: t.InputRequiredResult) -> t.InputResponses:
    return {
        key: t.ElicitResult(action="accept", content={"call_1": True})
        for key in asked.input_requests or {}
    }


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("person", "answer"),
    [
        (Person(), '{"path":"/a"}'),
        (Person(allows=False), "error: fs__wipe was not called: the user declined."),
        (Person("decline"), "error: fs__wipe was not called: the user declined."),
        (Person("cancel"), f"error: {NOBODY}"),
    ],
)
async def test_person_behind_the_client_decides(era: str, person: Person, answer: str) -> None:
    person.asked.clear()
    async with tidier(era, elicitation_callback=person) as (client, toolset):
        result = await client.call_tool("agent_run", TASK)
    assert answer_of(result) == answer
    assert person.asked == [FORM]
    assert toolset.called == ([("fs__wipe", {"path": "/a"})] if answer.startswith("{") else [])


@pytest.mark.parametrize("era", ERAS)
async def test_client_that_cannot_ask_is_told_the_policy_line(era: str) -> None:
    async with tidier(era) as (client, toolset):
        assert answer_of(await client.call_tool("agent_run", TASK)) == f"error: {NOBODY}"
    assert toolset.called == []


async def test_retry_resumes_the_run_that_asked() -> None:
    models, toolset = tidying()
    agent = agent_over(toolset, "fs")
    async with connect(
        models, agent, era=MODERN, within_s=2000, elicitation_callback=Person()
    ) as client:
        asked = await start(client)
        (form,) = (asked.input_requests or {}).values()
        assert isinstance(form, t.ElicitRequest)
        assert form.params.model_dump(by_alias=True, exclude_none=True) == FORM
        again = await start(client, request_state=asked.request_state)
        assert again.input_requests == asked.input_requests  # nothing was answered
        result = await client.session.call_tool(
            "agent_run",
            TASK,
            input_responses=allowing(asked),
            request_state=again.request_state,
        )
    assert answer_of(result) == '{"path":"/a"}'
    assert len(toolset.called) == 1
    assert len(models.model.asked) == 2  # no turn was taken twice


@pytest.mark.parametrize("change", ["state", "arguments", "none"])
async def test_state_belongs_to_the_call_that_it_was_given_for(change: str) -> None:
    async with tidier(elicitation_callback=Person()) as (client, toolset):
        asked = await start(client)
        state = (asked.request_state or "") + ("x" if change == "state" else "")
        arguments = {"task": "wipe all"} if change == "arguments" else TASK
        call = client.session.call_tool(
            "agent_run", arguments, input_responses=allowing(asked), request_state=state
        )
        if change == "none":
            assert answer_of(await call) == '{"path":"/a"}'
            return
        with pytest.raises(MCPError) as caught:
            await call
    assert (caught.value.error.code, caught.value.error.message) == (
        t.INVALID_PARAMS,
        "Invalid or expired requestState",
    )
    assert toolset.called == []


async def test_answers_to_what_was_not_asked_allow_nothing() -> None:
    async with tidier(elicitation_callback=Person()) as (client, toolset):
        guessed: t.InputResponses = {
            key: t.ElicitResult(action="accept", content={"call_1": True})
            for key in ("call_1", "approve", "0")
        }
        await start(client, input_responses=guessed)
    assert toolset.called == []


async def test_run_whose_client_never_came_back_ends() -> None:
    async with tidier(elicitation_callback=Person()) as (client, toolset):
        asked = await start(client)
        await anyio.sleep(ANSWER_WITHIN_S - 1)
        again = await start(client, request_state=asked.request_state)
        await anyio.sleep(2)
        result = await client.session.call_tool(
            "agent_run", TASK, input_responses=allowing(asked), request_state=again.request_state
        )
    assert result.is_error
    assert result.content == [
        t.TextContent(text="the call of agent_run that asked is over; call agent_run again")
    ]
    assert toolset.called == []


async def test_person_who_does_not_answer_for_long_counts_as_nobody() -> None:
    async def ponder(context: Any, params: Any) -> t.ElicitResult:
        await anyio.sleep_forever()
        raise AssertionError

    async with tidier("legacy", elicitation_callback=ponder) as (client, toolset):
        result = await client.call_tool("agent_run", TASK)
    assert answer_of(result) == f"error: {NOBODY}"
    assert toolset.called == []


@pytest.mark.parametrize("era", ERAS)
async def test_clock_of_a_request_stands_still_while_a_person_is_asked(era: str) -> None:
    async def ponder(context: Any, params: Any) -> t.ElicitResult:
        await anyio.sleep(100)
        return t.ElicitResult(action="accept", content={"call_1": True})

    async with tidier(era, elicitation_callback=ponder) as (client, _):
        result = await client.call_tool("agent_run", {**TASK, "wait_seconds": 1})
    assert answer_of(result) == '{"path":"/a"}'


async def test_run_that_was_handed_out_asks_whoever_waits_for_it() -> None:
    person = Person()
    async with tidier(elicitation_callback=person) as (client, _):
        handed = await client.call_tool("agent_run", {**TASK, "wait_seconds": 0})
        assert handed.structured_content is not None
        await anyio.sleep(1)
        run_id = handed.structured_content["run_id"]
        result = await client.call_tool("run_result", {"run_id": run_id})
    assert answer_of(result) == '{"path":"/a"}'
    assert person.asked == [FORM]


async def test_quick_call_is_no_task_and_a_slow_one_is_to_clients_that_know_tasks() -> None:
    tasks = TaskPolling()
    slow = scripted_models(play(ScriptedTurn("done")))
    slow.loaded = anyio.Event()
    async with connect(slow, era=MODERN, within_s=60, extensions=[tasks]) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(_set_after, 12, slow.loaded)
            schema = {"instructions": "n?", "schema": {"const": "x"}, "wait_seconds": 600}
            slow.model.script = play(ScriptedTurn('"x"'))
            result = await client.call_tool("extract", schema)
        quick = await client.call_tool("extract", schema)
    for one in (result, quick):
        assert one.structured_content is not None
        assert one.structured_content["value"] == "x"
    created, *_, ended = tasks.seen
    assert created == {
        "taskId": created["taskId"],
        "status": "working",
        "statusMessage": "loading scripted",
        "createdAt": created["createdAt"],
        "lastUpdatedAt": created["lastUpdatedAt"],
        "ttlMs": created["ttlMs"],
        "pollIntervalMs": 500,
    }
    assert created["ttlMs"] >= 3_600_000
    assert ended["status"] == "completed"
    assert [task["taskId"] for task in tasks.seen] == [created["taskId"]] * len(tasks.seen)


async def _set_after(seconds: float, event: anyio.Event) -> None:
    await anyio.sleep(seconds)
    event.set()


async def test_question_of_a_task_is_answered_by_an_update() -> None:
    async def answers(requests: Any) -> dict[str, Any]:
        return {
            "unknown": {"action": "accept"},
            **{key: {"action": "accept", "content": {"call_1": True}} for key in requests},
        }

    models, toolset = tidying()
    models.loaded = anyio.Event()
    tasks = TaskPolling(answers)
    options: Any = {"extensions": [tasks], "elicitation_callback": Person()}
    async with (
        connect(models, agent_over(toolset, "fs"), era=MODERN, within_s=60, **options) as client,
        anyio.create_task_group() as group,
    ):
        group.start_soon(_set_after, 12, models.loaded)
        result = await client.call_tool("agent_run", TASK)
    assert answer_of(result) == '{"path":"/a"}'
    statuses = [task["status"] for task in tasks.seen]
    assert statuses == sorted(statuses, key=["working", "input_required", "completed"].index)
    asking = next(task for task in tasks.seen if task["status"] == "input_required")
    assert list(asking["inputRequests"].values()) == [
        {"method": "elicitation/create", "params": FORM}
    ]
    assert asking["statusMessage"] == "waiting for an answer"


async def hand_out(client: Client, name: str = "extract") -> str:
    """Start what never ends, and let it become a task."""
    arguments: JsonObject = {"instructions": "n?", "schema": {"const": "x"}}
    task = await client.session.call_tool(name, arguments, allow_claimed=True)
    assert isinstance(task, TaskResult)
    return str(fields(task)["taskId"])


async def refusal(client: Client, method: str, task_id: str, **params: Any) -> tuple[int, Any]:
    with pytest.raises(MCPError) as caught:
        await request(client.session, method, task_id, **params)
    return caught.value.error.code, caught.value.error.data


async def test_cancelled_task_ends_and_says_so() -> None:
    models = scripted_models(play(ScriptedTurn("on and", hangs=True)))
    async with connect(models, era=MODERN, within_s=60, extensions=[TaskPolling()]) as client:
        task_id = await hand_out(client)
        assert models.model.num_open == 1
        for _ in range(2):  # cancelling what has ended is no error
            acknowledged = await request(client.session, "tasks/cancel", task_id)
            assert {**acknowledged, "_meta": None} == {"resultType": "complete", "_meta": None}
            await anyio.wait_all_tasks_blocked()
        task = await request(client.session, "tasks/get", task_id)
    assert task["status"] == "cancelled"
    assert models.model.num_open == 0


async def test_cancelled_request_leaves_a_task_alone() -> None:
    models = scripted_models(play(ScriptedTurn("on and", hangs=True)))
    async with connect(models, era=MODERN, within_s=60, extensions=[TaskPolling()]) as client:
        task_id = await hand_out(client)
        with anyio.move_on_after(20):
            await client.call_tool("run_result", {"run_id": task_id})
        task = await request(client.session, "tasks/get", task_id)
    assert task["status"] == "working"


async def test_task_of_a_failed_tool_is_completed_with_its_error() -> None:
    models = scripted_models(play(ScriptedTurn('"y', finish_reason="length")))
    models.loaded = anyio.Event()
    async with connect(models, era=MODERN, within_s=60, extensions=[TaskPolling()]) as client:
        task_id = await hand_out(client)
        models.loaded.set()
        await anyio.wait_all_tasks_blocked()
        task = await request(client.session, "tasks/get", task_id)
    assert (task["status"], task["result"]["isError"]) == ("completed", True)
    assert "not complete" in task["result"]["content"][0]["text"]


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_tasks_are_for_clients_that_say_they_know_them(method: str) -> None:
    params: dict[str, Any] = {"inputResponses": {}} if method == "tasks/update" else {}
    models = scripted_models(play(ScriptedTurn("x")))
    async with connect(models, era=MODERN) as client:
        assert await refusal(client, method, "none", **params) == (
            t.MISSING_REQUIRED_CLIENT_CAPABILITY,
            {"requiredCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}},
        )
    async with connect(models, era="legacy", extensions=[TaskPolling()]) as client:
        assert await refusal(client, method, "none", **params) == (t.METHOD_NOT_FOUND, method)
    async with connect(models, era=MODERN, extensions=[TaskPolling()]) as client:
        assert await refusal(client, method, "none", **params) == (t.INVALID_PARAMS, None)


async def test_listening_to_tasks_is_for_clients_that_say_they_know_them() -> None:
    models = scripted_models(play(ScriptedTurn("x")))
    wanted = {"notifications": {"taskIds": ["none"]}}
    async with connect(models, era=MODERN) as client:
        refused = await refusal(client, "subscriptions/listen", "none", **wanted)
    assert refused[0] == t.MISSING_REQUIRED_CLIENT_CAPABILITY


async def test_damaged_answer_is_refused_and_the_question_stays_open() -> None:
    models, toolset = tidying()
    models.loaded = anyio.Event()
    options: Any = {"extensions": [TaskPolling()], "elicitation_callback": Person()}
    async with connect(
        models, agent_over(toolset, "fs"), era=MODERN, within_s=60, **options
    ) as client:
        created = await client.session.call_tool("agent_run", TASK, allow_claimed=True)
        assert isinstance(created, TaskResult)
        task_id = fields(created)["taskId"]
        models.loaded.set()
        await anyio.wait_all_tasks_blocked()
        (key,) = (await request(client.session, "tasks/get", task_id))["inputRequests"]
        for damaged in (7, None, {}, {"action": "yes"}, {"action": "accept", "content": [1]}):
            given = {key: damaged}
            code, _ = await refusal(client, "tasks/update", task_id, inputResponses=given)
            assert code == t.INVALID_PARAMS
        task = await request(client.session, "tasks/get", task_id)
    assert task["status"] == "input_required"
    assert toolset.called == []


@pytest.mark.parametrize("era", ERAS)
async def test_call_cancelled_at_any_await_leaves_nothing_running(era: str) -> None:
    """From the first await of the client to the end of a run that asks and acts."""
    for num_awaits in range(1, 400):
        models, toolset = tidying()
        agent = agent_over(toolset, "fs")
        options: Any = {"mode": era, "elicitation_callback": Person()}
        answers: list[str] = []
        with anyio.fail_after(100):
            async with (
                open_service(["scripted"], models.opened, agent) as service,
                Client(build_server(service, version="1"), **options) as client,
            ):
                await client.list_tools()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_cancel_after, num_awaits, tasks.cancel_scope)
                    answers.append(answer_of(await client.call_tool("agent_run", TASK)))
                    tasks.cancel_scope.cancel()
                await service.drain()
                await anyio.wait_all_tasks_blocked()
                assert len(service.runs) == 0
        assert (models.model.num_open, toolset.running) == (0, [])
        if answers:
            assert num_awaits > 40
            return
    raise AssertionError("the call never ended")


async def _cancel_after(num_awaits: int, scope: anyio.CancelScope) -> None:
    for number in range(1, num_awaits + 1):
        if number % 10:
            await anyio.lowlevel.checkpoint()
        else:
            await anyio.sleep(0.05)  # a part of what the call itself sleeps for
    scope.cancel()
