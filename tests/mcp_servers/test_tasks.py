"""Tasks and sealed state over HTTP: whose they are, and what routes them."""

from __future__ import annotations

import json
from typing import Any

import mcp_types as t
import pytest
from mcp import Client, MCPError

from runtime.chat.messages import ToolCall
from tests.helpers.model_service import agent_over, scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.scripted_tools import ScriptedToolset, echo, make_spec
from tests.helpers.task_client import TaskPolling, TaskResult, fields, request
from tests.helpers.web_service import HEADERS, connect, on_port, open_app
from tools.spec import JsonObject

pytestmark = pytest.mark.anyio

MODERN = "2026-07-28"
ADA, BOB = "ada-0123456789abcdef", "bob-0123456789abcdef"
HANGS = ScriptedTurn("on and", hangs=True)
AT_ONCE = {"prompt": "a", "wait_seconds": 0}


async def hand_out(client: Client) -> str:
    task = await client.session.call_tool("generate", AT_ONCE, allow_claimed=True)
    assert isinstance(task, TaskResult)
    return str(fields(task)["taskId"])


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_foreign_task_is_as_unknown_as_none(method: str) -> None:
    params: dict[str, Any] = {"inputResponses": {}} if method == "tasks/update" else {}
    options: dict[str, Any] = {"extensions": [TaskPolling()]}
    models = scripted_models(play(HANGS))
    async with open_app(models, [ADA, BOB]) as app, on_port(app) as url:
        async with connect(url, MODERN, ADA, **options) as client:
            task_id = await hand_out(client)
        async with connect(url, MODERN, BOB, **options) as client:
            errors = []
            for asked in (task_id, "none"):
                with pytest.raises(MCPError) as caught:
                    await request(client.session, method, asked, **params)
                errors.append(caught.value.error)
        async with connect(url, MODERN, ADA, **options) as client:
            task = await request(client.session, "tasks/get", task_id)
    assert errors[0] == errors[1]
    assert errors[0].code == t.INVALID_PARAMS
    assert task["status"] == "working"


async def test_state_of_another_principal_is_refused() -> None:
    wipes = ScriptedTurn(calls=(ToolCall("call-1", "fs__wipe", {}),))
    toolset = ScriptedToolset([(make_spec("fs__wipe", server="fs", destructive=True), echo)])
    models = scripted_models(play(wipes, ScriptedTurn("done")))

    async def accept(context: Any, params: Any) -> t.ElicitResult:
        return t.ElicitResult(action="accept", content={"call_1": True})

    options: dict[str, Any] = {"elicitation_callback": accept}
    agent = agent_over(toolset, "fs")
    async with open_app(models, [ADA, BOB], agent=agent) as app, on_port(app) as url:
        async with connect(url, MODERN, ADA, **options) as client:
            asked = await client.session.call_tool(
                "agent_run", {"task": "a"}, allow_input_required=True
            )
            assert isinstance(asked, t.InputRequiredResult)
        retry: dict[str, Any] = {
            "request_state": asked.request_state,
            "input_responses": {
                key: t.ElicitResult(action="accept", content={"call_1": True})
                for key in asked.input_requests or {}
            },
        }
        async with connect(url, MODERN, BOB, **options) as client:
            with pytest.raises(MCPError, match="Invalid or expired requestState"):
                await client.session.call_tool("agent_run", {"task": "a"}, **retry)
        assert toolset.called == []
        async with connect(url, MODERN, ADA, **options) as client:
            result = await client.session.call_tool("agent_run", {"task": "a"}, **retry)
    assert result.structured_content is not None
    assert result.structured_content["answer"] == "done"
    assert toolset.called == [("fs__wipe", {})]


@pytest.mark.parametrize("name", [None, "another"])
async def test_name_header_must_be_the_task(name: str | None) -> None:
    capabilities: JsonObject = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
    meta: JsonObject = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": capabilities,
    }
    options: dict[str, Any] = {"extensions": [TaskPolling()]}
    async with open_app(scripted_models(play(HANGS))) as app, on_port(app) as url:
        async with connect(url, MODERN, **options) as client:
            task_id = await hand_out(client)
        params = {"taskId": task_id, "_meta": meta}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": params}
        headers = {**HEADERS, "mcp-protocol-version": MODERN, "mcp-method": "tasks/get"}
        sent = json.dumps(body).encode()
        wrong = {**headers, "mcp-name": name} if name else headers
        refused = await app.request("POST", "/mcp", wrong, sent)
        found = await app.request("POST", "/mcp", {**headers, "mcp-name": task_id}, sent)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, t.HEADER_MISMATCH)
    assert (found.status_code, found.json()["result"]["status"]) == (200, "working")
