"""What Anthropic's messages do not take is refused in the words of their API."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest

from runtime.errors import PromptTooLongError
from tests.helpers.anthropic_messages import (
    ADD,
    HELLO,
    LATER,
    SAYS_X,
    SCHEMA,
    ask,
    called,
    post,
    result,
    said,
)
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import open_app

pytestmark = pytest.mark.anyio

IMAGE = {"type": "image", "source": {"type": "url", "url": "http://a.example/b.png"}}
PDF = {
    "type": "document",
    "source": {"type": "base64", "media_type": "application/pdf", "data": ""},
}
QUOTED = {
    "type": "document",
    "source": {"type": "content", "content": "x"},
    "citations": {"enabled": True},
}
FORGED = {"type": "thinking", "thinking": "", "signature": "zonda.!"}
STRAY = {"type": "tool_result", "tool_use_id": "x", "content": "1"}
SEARCHED = {"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
FORM = {"type": "json_schema", "schema": {}}


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


def answered(*blocks: dict[str, Any]) -> dict[str, Any]:
    said = {"role": "assistant", "content": list(blocks)}
    return {"messages": [HELLO["messages"][0], said, HELLO["messages"][0]]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temprature": 1}, "temprature"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "assistant", "content": "Sure,"}]}, "messages"),
        (user({"type": "text"}), "messages.0.content.0.text"),
        (user({"type": "text", "text": "x", "cache_control": {"type": "eternal"}}),
         "messages.0.content.0.cache_control.type"),
        (user(IMAGE), "messages.0.content.0.type"),
        (user(PDF), "messages.0.content.0.source.type"),
        (user(QUOTED), "messages.0.content.0.citations.enabled"),
        (user(STRAY), "messages.0.content.0.tool_use_id"),
        ({"messages": called(result([IMAGE]))}, "messages.2.content.0.content.0.type"),
        ({"messages": called(result([{"type": "tool_reference", "tool_name": "x"}]))},
         "messages.2.content.0.content.0.tool_name"),
        (answered(SEARCHED), "messages.1.content.0.type"),
        (answered(FORGED), "messages.1.content.0.signature"),
        ({"stop_sequences": [""]}, "stop_sequences.0"),
        ({"tools": [ADD, SEARCH]}, "tools.1.type"),
        ({"tools": [{"name": "a b", "input_schema": SCHEMA}]}, "tools.0.name"),
        ({"tools": [{"name": "a"}]}, "tools.0.input_schema"),
        ({"tools": [{**ADD, "type": {}}]}, "tools.0.type"),
        ({"tools": [{**ADD, "input_schema": {"type": "array"}}]}, "tools.0.input_schema.type"),
        ({"tools": [ADD, ADD]}, "tools.1.name"),
        ({"tools": [{**ADD, "allowed_callers": ["code_execution_20250825"]}]},
         "tools.0.allowed_callers"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [ADD], "tool_choice": {"type": "tool", "name": "sub"}}, "tool_choice"),
        ({"tools": [LATER], "tool_choice": {"type": "tool", "name": "sub"}}, "tool_choice"),
        ({"tools": [ADD], "tool_choice": {"type": "some"}}, "tool_choice"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1023}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking.budget_tokens"),
        ({"output_config": {"format": FORM}, "output_format": FORM}, "output_format"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"output_config": {"task_budget": {"type": "tokens", "total": 9}}},
         "output_config.task_budget"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}},
         "context_management.edits.0.type"),
        ({"mcp_servers": [{"type": "url", "url": "http://a.example", "name": "a"}]}, "mcp_servers"),
        ({"container": "c_1"}, "container"),
        ({"fallbacks": [{"model": "x"}]}, "fallbacks"),
        ({"speed": "fast"}, "speed"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"diagnostics": {"previous_message_id": "msg_1"}}, "diagnostics"),
        ({"metadata": {"user": "x"}}, "metadata.user"),
    ],
)  # fmt: skip
async def test_what_cannot_be_honoured_is_refused_by_its_name(
    fields: dict[str, Any], param: str
) -> None:
    for stream in (False, True):
        response, asked = await ask(play(SAYS_X), stream=stream, **fields)
        assert response.status_code == 400
        body = response.json()
        assert body["error"]["type"] == "invalid_request_error"
        assert body["error"]["message"].startswith(f"{param}: ")
        assert body["request_id"] == response.headers["request-id"]
        assert asked == []


async def test_a_prompt_that_is_too_long_is_refused_in_the_words_that_clients_look_for() -> None:
    told = "the prompt has 20031 tokens, but the context of scripted has 8192: shorten the messages"
    turn = ScriptedTurn(raises=PromptTooLongError(told))
    response, _ = await ask(play(turn))
    assert response.status_code == 400
    assert response.json()["error"] == {
        "type": "invalid_request_error",
        "message": f"prompt is too long: 20031 tokens > 8192 maximum; {told}",
    }


async def test_bodies_that_are_no_request_are_refused() -> None:
    async with open_app(scripted_models(play(SAYS_X))) as app:
        for body in (b"", b"[]", b"{", b'{"a": NaN}', b"\xff", b'{"model": "\\ud800"}'):
            response = await post(app, body)
            assert response.status_code == 400
            assert "error" in response.json()


WHOLE: dict[str, Any] = {
    **HELLO,
    "system": [said("Be brief.", cache_control={"type": "ephemeral"})],
    "tools": [ADD, LATER],
    "tool_choice": {"type": "auto"},
    "thinking": {"type": "adaptive", "display": "omitted"},
    "output_config": {"format": FORM},
    "stop_sequences": ["x"],
    "messages": called(
        result([said("3"), {"type": "tool_reference", "tool_name": "sub"}], is_error=True),
        {"type": "document", "source": {"type": "content", "content": [said("x")]}},
    ),
}
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    1.5,
    "",
    "text",
    "image",
    [],
    [[]],
    {},
    {"type": {}},
    [said("x")],
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container in a value, with each of its keys."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


async def test_whatever_is_in_a_request_it_is_answered_or_refused() -> None:
    draw = random.Random(1)
    statuses = set()
    async with open_app(scripted_models(play(SAYS_X))) as app:
        for _ in range(200):
            body = copy.deepcopy(WHOLE)
            container, key = draw.choice(list(places(body)))
            container[key] = copy.deepcopy(draw.choice(ODD))
            response = await post(app, body)
            statuses.add(response.status_code)
    assert {200, 400} <= statuses <= {200, 400, 404}  # no such model
