"""Anthropic's messages over HTTP with a scripted model: what is asked and answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.chat.messages import Message, OutputSchema, ToolCall, ToolChoice
from runtime.request import SamplingParams, Usage
from tests.helpers.anthropic_messages import (
    ADD,
    HEADERS,
    HELLO,
    LATER,
    SAYS_X,
    SCHEMA,
    SUB,
    USE,
    ask,
    asked_for,
    called,
    post,
    result,
    said,
)
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import open_app

pytestmark = pytest.mark.anyio

CALLS_ADD = ScriptedTurn("Let me see.", calls=(ToolCall("call_1", "add", {"a": 1}),))


async def test_a_message_has_every_field_that_clients_read() -> None:
    usage = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4)
    response, asked = await ask(play(ScriptedTurn("Hi there.", usage=usage)))
    body = response.json()
    assert body.pop("id").startswith("msg_")
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "scripted",
        "content": [{"type": "text", "text": "Hi there.", "citations": None}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 6,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 5,
            "service_tier": "standard",
        },
    }
    assert response.headers["request-id"].startswith("req_")
    assert asked[0].messages == (Message("user", "hello"),)
    assert asked[0].sampling == SamplingParams(max_tokens=9, temperature=1.0)
    assert asked[0].thinks is False


async def test_calls_are_blocks_after_the_text() -> None:
    response, asked = await ask(play(CALLS_ADD), tools=[ADD, SUB])
    body = response.json()
    text, call = body["content"]
    assert text["text"] == "Let me see."
    assert call.pop("id").startswith("toolu_")
    assert call == {"type": "tool_use", "name": "add", "input": {"a": 1}}
    assert body["stop_reason"] == "tool_use"
    assert asked[0].tools == ("add", "sub")
    assert asked[0].tool_choice == ToolChoice()


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(parallel=False)),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "tool", "name": "sub"}, ToolChoice("required", "sub", parallel=False)),
        ({"type": "none"}, ToolChoice("none")),
    ],
)
async def test_a_choice_of_tools_reaches_the_model(
    choice: dict[str, Any], wanted: ToolChoice
) -> None:
    asked = await asked_for(tools=[ADD, SUB], tool_choice=choice)
    assert asked.tool_choice == wanted


async def test_a_conversation_of_blocks_reaches_the_model_whole() -> None:
    cached = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    found = {
        "type": "search_result",
        "source": "http://a.example",
        "title": "Sums",
        "content": [{"type": "text", "text": "1 + 2 is 3"}],
    }
    page = {"type": "text", "media_type": "text/plain", "data": "It is 3."}
    thought = {"type": "thinking", "thinking": "Two and one.", "signature": "of another service"}
    secret = {"type": "redacted_thinking", "data": "AAAA"}
    asked = await asked_for(
        system=[said("Be brief.", **cached), said("Be kind.")],
        messages=[
            {"role": "user", "content": "add"},
            {"role": "user", "content": [{"type": "text", "text": "1 and 2", **cached}]},
            {"role": "assistant", "content": [thought, secret, said("So: "), USE]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "There."},
                    result([{"type": "text", "text": "3"}, found], cache_control=None),
                    {"type": "document", "title": "Proof", "source": page},
                ],
            },
        ],
    )  # fmt: skip
    assert asked.messages == (
        Message("system", "Be brief.\nBe kind."),
        Message("user", "add\n1 and 2"),
        Message(
            "assistant",
            "So: ",
            (ToolCall("toolu_9", "add", {"a": 2}),),
            reasoning="Two and one.",
        ),
        Message("tool", "3\nSums\nhttp://a.example\n1 + 2 is 3", call_id="toolu_9", name="add"),
        Message("user", "There.\nProof\nIt is 3."),
    )


async def test_a_result_that_is_an_error_says_so_and_an_empty_one_is_empty() -> None:
    asked = await asked_for(messages=called(result("no such file", is_error=True)))
    assert asked.messages[-1].content == "error: no such file"
    bare = {"type": "tool_result", "tool_use_id": "toolu_9"}
    assert (await asked_for(messages=called(bare))).messages[-1].content == ""


async def test_results_come_in_the_order_of_their_calls() -> None:
    calls = [{**USE, "id": call_id, "input": {}} for call_id in ("z", "a", "m")]
    results = [result(call_id, tool_use_id=call_id) for call_id in ("m", "z", "a")]
    turns = [
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": calls},
        {"role": "user", "content": results[:2]},
        {"role": "user", "content": [*results[2:], said("Go on.")]},
    ]
    asked = await asked_for(messages=turns)
    assert [message.content for message in asked.messages[2:]] == ["z", "a", "m", "Go on."]


async def test_the_attribution_of_claude_code_is_left_out_of_the_prompt() -> None:
    line = "x-anthropic-billing-header: cc_version=2.1.332.18b; cc_entrypoint=cli; cch=%s;"
    for system in (
        [{"type": "text", "text": line % "fa690"}, {"type": "text", "text": "Be brief."}],
        (line % "0aaa9") + "\nBe brief.",
    ):
        asked = await asked_for(system=system)
        assert asked.messages[0] == Message("system", "Be brief.")
    said = (await asked_for(system=f"Say {line}")).messages[0].content
    assert said == f"Say {line}"


async def test_instructions_in_the_middle_are_a_part_of_the_users_turn() -> None:
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "system", "content": [said("Old.")], "clear_at": "next_user_message"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "bye"},
        {"role": "system", "content": "Be brief.", "output_config": {"effort": "low"}},
    ]  # fmt: skip
    assert (await asked_for(messages=turns)).messages == (
        Message("user", "hi"),
        Message("assistant", "Hello."),
        Message("user", "bye\n<system-reminder>\nBe brief.\n</system-reminder>"),
    )
    first = [turns[-1], turns[0]]
    assert (await asked_for(messages=first)).messages[0] == Message("system", "Be brief.")


async def test_deferred_tools_may_be_called_once_the_conversation_tells_of_them() -> None:
    tools = [ADD, LATER]
    asked = await asked_for(tools=tools)
    assert (asked.tools, asked.admitted) == (("add",), ())
    reference = {"type": "tool_reference", "tool_name": "sub"}
    asked = await asked_for(tools=tools, messages=called(result([reference])))
    assert (asked.tools, asked.admitted) == (("add",), ("sub",))
    told = json.loads(asked.messages[-1].content)
    assert told == {"name": "sub", "description": "", "parameters": {"type": "object"}}
    change = {"tool": {"type": "tool_reference", "name": "sub"}}
    added = {"role": "system", "content": [{"type": "tool_addition", **change}]}
    removed = {"role": "system", "content": [{"type": "tool_removal", **change}]}
    asked = await asked_for(tools=tools, messages=[HELLO["messages"][0], added])
    assert asked.admitted == ("sub",)
    asked = await asked_for(tools=tools, messages=[HELLO["messages"][0], added, removed])
    assert (asked.admitted, asked.tool_choice) == ((), ToolChoice())
    asked = await asked_for(tools=[ADD, SUB], messages=[HELLO["messages"][0], removed])
    assert (asked.tools, asked.tool_choice) == (("add", "sub"), ToolChoice(allowed=("add",)))


async def test_sampling_and_formats_reach_the_model() -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    sampling = {"temperature": 0.5, "top_k": 7, "top_p": 0.9, "stop_sequences": ["a", "\n"]}
    asked = await asked_for(output_config={"format": form, "effort": "high"}, **sampling)
    assert asked.output == OutputSchema(SCHEMA)
    assert asked.sampling == SamplingParams(9, 0.5, 7, 0.9, stop=("a", "\n"))
    assert (await asked_for(output_format=form)).output == OutputSchema(SCHEMA)
    assert (await asked_for(top_p=0)).sampling.top_p == 1e-6


async def test_a_prompt_that_is_only_cached_asks_for_no_answer() -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    fields = {"tools": [ADD], "tool_choice": {"type": "any"}, "output_format": form}
    asked = await asked_for(**fields, max_tokens=0)
    assert (asked.tool_choice, asked.output, asked.max_tokens) == (ToolChoice(), None, 0)


async def test_what_only_advises_a_hosted_service_is_taken() -> None:
    await asked_for(
        cache_control={"type": "ephemeral"},
        metadata={"user_id": "u"},
        service_tier="standard_only",
        inference_geo="eu",
        speed="standard",
        container=None,
        mcp_servers=[],
        diagnostics={"previous_message_id": None},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        tools=[{**ADD, "type": "custom", "strict": True, "eager_input_streaming": True}],
    )


async def test_examples_of_a_tools_input_are_told_to_the_model() -> None:
    models = scripted_models(play(SAYS_X))
    tool = {**ADD, "input_examples": [{"a": 1}]}
    async with open_app(models) as app:
        body = {name: HELLO[name] for name in ("model", "messages")}
        counted = await post(app, {**body, "tools": [tool]}, "/v1/messages/count_tokens")
    assert counted.json() == {"input_tokens": 15}


async def test_thoughts_are_blocks_where_they_were_asked_for() -> None:
    turn = ScriptedTurn("It is 3.", reasoning="One, two, three.")
    enabled = {"type": "enabled", "budget_tokens": 1024}
    response, asked = await ask(play(turn), thinking=enabled, max_tokens=2000)
    thought, text = response.json()["content"]
    assert thought == {"type": "thinking", "thinking": "One, two, three.", "signature": "zonda."}
    assert text["text"] == "It is 3."
    assert asked[0].thinks is True
    response, asked = await ask(play(turn), thinking={"type": "disabled"})
    assert [block["type"] for block in response.json()["content"]] == ["text"]
    assert asked[0].thinks is False
    for turns, thinks in ((HELLO["messages"], False), (called(result()), True)):
        asked_turn = await asked_for(thinking={"type": "between_tools"}, messages=turns)
        assert asked_turn.thinks is thinks


async def test_thoughts_that_are_not_shown_come_back_by_their_signature() -> None:
    turn = ScriptedTurn("It is 3.", reasoning="One, två, three.")
    hidden = {"type": "adaptive", "display": "omitted"}
    response, _ = await ask(play(turn), thinking=hidden)
    content = response.json()["content"]
    assert content[0]["thinking"] == ""
    assert "three" not in response.text.replace("It is 3.", "")
    turns = [
        *HELLO["messages"],
        {"role": "assistant", "content": content},
        {"role": "user", "content": "and?"},
    ]
    asked = await asked_for(messages=turns, thinking=hidden)
    assert asked.messages[1] == Message("assistant", "It is 3.", reasoning="One, två, three.")
    keep = {"type": "clear_thinking_20251015", "keep": {"type": "thinking_turns", "value": 1}}
    longer = [*turns, {"role": "assistant", "content": content}, turns[-1]]
    asked = await asked_for(messages=longer, context_management={"edits": [keep]})
    assert [bool(message.reasoning) for message in asked.messages] == [False] * 3 + [True, False]


@pytest.mark.parametrize(
    ("turn", "reason", "stop"),
    [
        (ScriptedTurn("a", finish_reason="length"), "max_tokens", None),
        (ScriptedTurn("a", stopped_by="STOP"), "stop_sequence", "STOP"),
        (
            ScriptedTurn("a", finish_reason="length", usage=Usage(8190, 2)),
            "model_context_window_exceeded",
            None,
        ),
        (
            ScriptedTurn("a", finish_reason="error", error="half a call", usage=Usage(10, 9)),
            "max_tokens",
            None,
        ),
    ],
)
async def test_a_message_says_why_it_ends(
    turn: ScriptedTurn, reason: str, stop: str | None
) -> None:
    max_tokens = 5 if turn.usage == SAYS_X.usage else 9
    response, _ = await ask(play(turn), max_tokens=max_tokens)
    body = response.json()
    assert (body["stop_reason"], body["stop_sequence"]) == (reason, stop)


async def test_tokens_are_counted_as_they_are_used() -> None:
    path = "/v1/messages/count_tokens"
    async with open_app(scripted_models(play(SAYS_X))) as app:
        asked = {
            "model": "scripted",
            "system": "Hm.",
            "tools": [ADD],
            "messages": HELLO["messages"],
        }
        counted = await post(app, asked, path)
        refused = await post(app, {**asked, "max_tokens": 5}, path)
        missing = await post(app, {**asked, "model": "scriptd"}, path)
    assert counted.json() == {"input_tokens": 18}
    assert refused.json()["error"]["message"] == "max_tokens: there is no such field"
    assert missing.status_code == 404


async def test_a_caller_is_told_of_no_tokens_that_others_had_cached() -> None:
    key = "0123456789abcdef"
    models = scripted_models(play(SAYS_X))
    async with open_app(models, [key]) as app:
        headers = {**HEADERS, "x-api-key": key}
        await app.request("POST", "/v1/messages", headers, json.dumps(HELLO).encode())
    (caller,) = models.model.callers
    assert caller.startswith("user key ")


async def test_models_are_described_to_anthropics_clients_in_their_words() -> None:
    plain = {name: value for name, value in HEADERS.items() if name != "anthropic-version"}
    async with open_app(scripted_models(play(SAYS_X))) as app:
        listed = (await app.request("GET", "/v1/models", HEADERS)).json()
        shown = (await app.request("GET", "/v1/models/scripted", HEADERS)).json()
        missing = await app.request("GET", "/v1/models/other", HEADERS)
        other = (await app.request("GET", "/v1/models", plain)).json()
        wrong = await app.request("PUT", "/v1/models/scripted", HEADERS)
    assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD", "DELETE"}
    assert listed == {
        "data": [shown],
        "has_more": False,
        "first_id": "scripted",
        "last_id": "scripted",
    }
    assert {**shown, "created_at": ""} == {
        "id": "scripted",
        "type": "model",
        "display_name": "scripted",
        "created_at": "",
        "lifecycle": "active",
    }
    assert missing.json()["error"]["type"] == "not_found_error"
    assert other["object"] == "list"
