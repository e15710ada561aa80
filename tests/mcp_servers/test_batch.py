"""`generate_batch` through an MCP client, both protocol eras."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.lowlevel
import mcp_types as t
import pytest

from mcp_servers.model_server.batch import MAX_AT_ONCE
from runtime.chat.messages import Message, OutputSchema
from tests.helpers.model_service import ERAS, connect, scripted_models
from tests.helpers.scripted_chat_model import AskedTurn, ScriptedTurn, play
from tools.spec import JsonObject

pytestmark = pytest.mark.anyio
NUMBER: JsonObject = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def echo(asked: AskedTurn) -> ScriptedTurn:
    """Say the prompt's last word; "fail" fails, "cut" is cut off."""
    word = asked.messages[-1].content.split()[-1]
    if word == "fail":
        return ScriptedTurn(finish_reason="error", error="the forward pass failed")
    return ScriptedTurn(word, finish_reason="length" if word == "cut" else None)


def text_of(result: t.CallToolResult) -> str:
    assert isinstance(result.content[0], t.TextContent)
    return result.content[0].text


def structured(result: t.CallToolResult) -> dict[str, Any]:
    assert not result.is_error, text_of(result)
    content = dict(result.structured_content or {})
    assert content["usage"].pop("seconds") >= 0
    return content


@pytest.mark.parametrize("era", ERAS)
async def test_prompts_are_answered_in_their_order_and_a_failure_stays_in_its_place(
    era: str,
) -> None:
    models, told = scripted_models(echo), list[tuple[float, float | None, str | None]]()

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    async with connect(models, era=era) as client:
        result = await client.call_tool(
            "generate_batch",
            {"prompts": ["say a", "do fail", "say cut"], "system": "be brief", "max_tokens": 7},
            progress_callback=hear,
        )
    assert text_of(result) == '["a",null,"cut"]'
    assert structured(result) == {
        "status": "done",
        "results": [
            {"index": 0, "text": "a", "finish_reason": "stop"},
            {"index": 1, "finish_reason": "error", "error": "the forward pass failed"},
            {"index": 2, "text": "cut", "finish_reason": "length"},
        ],
        "model": "scripted",
        "usage": {
            "prompt_tokens": 20,
            "completion_tokens": 10,
            "cached_tokens": 0,
            "forced_tokens": 4,
        },
    }
    assert [one.messages for one in models.model.asked] == [
        (Message("system", "be brief"), Message("user", prompt))
        for prompt in ("say a", "do fail", "say cut")
    ]
    assert {one.max_tokens for one in models.model.asked} == {7}
    assert all(total == 3 for done, total, message in told if "items" in (message or ""))


async def test_items_fill_the_template() -> None:
    models = scripted_models(echo)
    items = ["x", 3, {"name": "y", "tags": ["a"]}]
    template = "{{json}} {item} word"
    async with connect(models) as client:
        await client.call_tool("generate_batch", {"items": items, "template": template})
        await client.call_tool(
            "generate_batch", {"items": items[2:], "template": "{name} of {tags}"}
        )
    assert [one.messages[-1].content for one in models.model.asked] == [
        "{json} x word",
        "{json} 3 word",
        '{json} {"name":"y","tags":["a"]} word',
        'y of ["a"]',
    ]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "give either prompts, or items and a template"),
        ({"prompts": ["a"], "items": ["b"], "template": "{item}"}, "give either prompts, or"),
        ({"prompts": ["a"], "template": "{item}"}, "a template goes with items"),
        ({"items": ["a"]}, "items need a template"),
        ({"items": ["a"], "template": "no place {{item}}"}, "the template has no place"),
        ({"items": [{"a": 1}, {"b": 2}], "template": "{a}"}, "item 1 has no field 'a'"),
        ({"prompts": []}, "prompts"),
        ({"prompts": ["a"] * 257}, "prompts"),
    ],
)
async def test_what_makes_no_batch_is_refused(arguments: JsonObject, problem: str) -> None:
    models = scripted_models(echo)
    async with connect(models) as client:
        result = await client.call_tool("generate_batch", arguments)
    assert result.is_error
    assert problem in text_of(result)
    assert models.model.asked == []


async def test_with_a_schema_each_answer_is_a_value_or_says_why_not() -> None:
    turns = [
        ScriptedTurn('{"n": 1}'),
        ScriptedTurn('{"n": "x"}'),
        ScriptedTurn('{"n"', finish_reason="length"),
    ]
    models = scripted_models(play(*turns))
    async with connect(models) as client:
        result = await client.call_tool(
            "generate_batch", {"prompts": ["a", "b", "c"], "schema": NUMBER}
        )
    results = structured(result)["results"]
    assert results[0] == {"index": 0, "value": {"n": 1}, "finish_reason": "stop"}
    assert [one["finish_reason"] for one in results[1:]] == ["error", "error"]
    assert "does not fit the schema" in results[1]["error"]
    assert "not complete after 5 tokens" in results[2]["error"]
    assert json.loads(text_of(result)) == [{"n": 1}, None, None]
    assert [one.output for one in models.model.asked] == 3 * [OutputSchema(NUMBER)]


async def test_items_run_together_and_end_together_when_the_call_is_cancelled() -> None:
    models = scripted_models(play(ScriptedTurn("on", hangs=True)))
    prompts = [f"say {number}" for number in range(MAX_AT_ONCE + 3)]
    async with connect(models) as client, anyio.create_task_group() as group:
        group.start_soon(client.call_tool, "generate_batch", {"prompts": prompts})
        while models.model.num_open < MAX_AT_ONCE:
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            while models.model.num_open:
                await anyio.lowlevel.checkpoint()
    assert len(models.model.asked) == MAX_AT_ONCE


@pytest.mark.parametrize("era", ERAS)
async def test_a_batch_that_takes_long_is_handed_out(era: str) -> None:
    script = play(ScriptedTurn("one"), ScriptedTurn("on", hangs=True))
    async with connect(scripted_models(script), era=era) as client:
        result = await client.call_tool(
            "generate_batch", {"prompts": ["a", "b"], "wait_seconds": 0.05}
        )
        handle = result.structured_content or {}
        assert handle["status"] == "running"
        ended = await client.call_tool("run_result", {"run_id": handle["run_id"], "cancel": True})
        assert (ended.structured_content or {})["status"] == "cancelled"
