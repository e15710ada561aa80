"""What a tool server asks during a run reaches the host's person or our model, in every era."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import mcp_types as t
import pytest
from mcp import Client

from mcp_servers.model_server.service import AgentSetup
from runtime.agent.policy import Policy
from runtime.chat.messages import ToolCall
from tests.helpers.asking_server import build_asking_server
from tests.helpers.http_tool_servers import serve_server
from tests.helpers.model_service import ERAS, connect, scripted_models
from tests.helpers.scripted_chat_model import AskedTurn, ScriptedTurn
from tests.helpers.tool_servers import scripted_server
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.options import Options, SamplingBudget
from tools.mcp_client.toolset import open_toolset
from tools.spec import JsonObject

pytestmark = pytest.mark.anyio
FORM = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
QUESTION = {"mode": "form", "message": "Where to?", "requestedSchema": FORM}
SAMPLE = {
    "messages": [{"role": "user", "content": {"type": "text", "text": "Hi, model"}}],
    "maxTokens": 8,
}
SERVER_ERAS = ("2025-11-25", "2026-07-28")


@asynccontextmanager
async def asking_server(era: str) -> AsyncIterator[ServerConfig]:
    options = Options(sampling=SamplingBudget())
    if era == "2025-11-25":
        yield replace(scripted_server("a", "asking"), options=options)
        return
    async with serve_server(build_asking_server()) as url:
        yield ServerConfig("a", url=url, options=options)


async def run(
    server_era: str, host_era: str, method: str, params: JsonObject, **host: Any
) -> JsonObject:
    """Let the model call the server's tool once; return what that said the server got."""
    call = ToolCall("call-1", "a__ask_client", {"method": method, "params": params})

    def script(asked: AskedTurn) -> ScriptedTurn:
        last = asked.messages[-1]
        if last.content == "Hi, model":
            return ScriptedTurn("Hi, server")
        return ScriptedTurn(last.content) if last.role == "tool" else ScriptedTurn(calls=(call,))

    async with asking_server(server_era) as config:
        agent = AgentSetup(["a"], partial(open_toolset, {"a": config}), Policy())
        options = {"era": host_era, "within_s": 20, **host}
        async with connect(scripted_models(script), agent, **options) as client:
            return told(await agent_run(client))


async def agent_run(client: Client) -> t.CallToolResult:
    return await client.call_tool("agent_run", {"task": "go"})


def told(result: t.CallToolResult) -> JsonObject:
    assert result.structured_content is not None, result.content
    value: JsonObject = json.loads(result.structured_content["answer"])["result"]
    return value


@pytest.mark.parametrize("host_era", ERAS)
@pytest.mark.parametrize("server_era", SERVER_ERAS)
async def test_a_tool_servers_question_is_asked_by_the_host(server_era: str, host_era: str) -> None:
    asked: list[JsonObject] = []

    async def person(context: Any, params: Any) -> t.ElicitResult:
        asked.append(params.model_dump(by_alias=True, exclude_none=True))
        return t.ElicitResult(action="accept", content={"city": "Rome"})

    arguments = (server_era, host_era, "elicitation/create", QUESTION)
    answer = await run(*arguments, elicitation_callback=person)
    assert answer == {"action": "accept", "content": {"city": "Rome"}}
    assert asked == [{**QUESTION, "message": "The tool server 'a' asks: Where to?"}]


@pytest.mark.parametrize("host_era", ERAS)
@pytest.mark.parametrize("server_era", SERVER_ERAS)
async def test_a_host_that_cannot_ask_declines(server_era: str, host_era: str) -> None:
    answer = await run(server_era, host_era, "elicitation/create", QUESTION)
    assert answer["action"] in {"decline", "cancel"}


@pytest.mark.parametrize("server_era", SERVER_ERAS)
async def test_a_tool_server_samples_from_the_model_that_calls_it(server_era: str) -> None:
    answer = await run(server_era, "auto", "sampling/createMessage", SAMPLE)
    assert answer == {
        "role": "assistant",
        "content": {"type": "text", "text": "Hi, server"},
        "model": "scripted",
        "stopReason": "endTurn",
    }
