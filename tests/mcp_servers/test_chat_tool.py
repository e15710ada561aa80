"""`chat` through an MCP client: a turn whose calls are returned, not made."""

from __future__ import annotations

import mcp_types as t
import pytest

from mcp_servers.model_server.tools import Surface
from runtime.chat.messages import Message, ToolCall, ToolChoice
from tests.helpers.model_service import ERAS, connect, scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tools.spec import JsonObject

pytestmark = pytest.mark.anyio
WITH_CHAT = Surface(exposed=frozenset({"chat"}))
TOOLS = [{"name": "now", "description": "The time.", "inputSchema": {"type": "object"}}]
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 0, "forced_tokens": 2}


async def test_chat_is_offered_only_when_it_is_exposed() -> None:
    async with connect(scripted_models(play(ScriptedTurn("hi")))) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert "chat" not in names


@pytest.mark.parametrize("era", ERAS)
async def test_a_turn_with_calls_is_returned(era: str) -> None:
    call = ToolCall("c2", "now", {"zone": "UTC"})
    models = scripted_models(play(ScriptedTurn("let me look", calls=(call,))))
    messages = [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "what "}, {"type": "text", "text": "time?"}],
        },
        {"role": "assistant", "tool_calls": [{"id": "c1", "name": "now", "arguments": {}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
    ]
    async with connect(models, era=era, surface=WITH_CHAT) as client:
        result = await client.call_tool(
            "chat", {"messages": messages, "tools": TOOLS, "tool_choice": "now", "max_tokens": 9}
        )
    assert not result.is_error
    content = result.structured_content or {}
    assert content["usage"].pop("seconds") >= 0
    assert content == {
        "status": "done",
        "message": {"role": "assistant", "content": "let me look"},
        "tool_calls": [{"id": "c2", "name": "now", "arguments": {"zone": "UTC"}}],
        "finish_reason": "tool_calls",
        "model": "scripted",
        "usage": USAGE,
    }
    assert result.content == [t.TextContent(text="let me look")]
    (asked,) = models.model.asked
    assert asked.messages == (
        Message("system", "be brief"),
        Message("user", "what time?"),
        Message("assistant", "", (ToolCall("c1", "now", {}),)),
        Message("tool", "noon", call_id="c1", name="now"),
    )
    assert asked.tools == ("now",)
    assert asked.tool_choice == ToolChoice("required", name="now")
    assert asked.max_tokens == 9


async def test_a_turn_of_calls_alone_shows_them() -> None:
    models = scripted_models(play(ScriptedTurn(calls=(ToolCall("c", "now", {}),))))
    async with connect(models, surface=WITH_CHAT) as client:
        result = await client.call_tool(
            "chat", {"messages": [{"role": "user", "content": "time?"}], "tools": TOOLS}
        )
    assert result.content == [t.TextContent(text='[{"id":"c","name":"now","arguments":{}}]')]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            {"messages": [{"role": "tool", "tool_call_id": "x", "content": ""}]},
            "message 0 is a tool's answer, but no call before it has the id 'x'",
        ),
        (
            {"messages": [{"role": "user", "content": "a"}], "tool_choice": "later"},
            "tool_choice 'later' is no choice",
        ),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": 3}]}, "content"),
    ],
)
async def test_what_is_no_conversation_is_refused(arguments: JsonObject, problem: str) -> None:
    models = scripted_models(play(ScriptedTurn("hi")))
    async with connect(models, surface=WITH_CHAT) as client:
        result = await client.call_tool("chat", arguments)
    assert result.is_error
    assert isinstance(result.content[0], t.TextContent)
    assert problem in result.content[0].text
    assert models.model.asked == []
