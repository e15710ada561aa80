"""Tests of the model server through an MCP client, both protocol eras."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import mcp_types as t
import pytest
from mcp import Client, MCPError

from mcp_servers.model_server.service import AgentSetup, open_service
from runtime.agent.policy import Policy
from runtime.chat.messages import Message, OutputSchema, ToolCall
from runtime.errors import ModelFileError, UnsupportedSchemaError
from runtime.grammar.compile import GrammarSource, from_grammar, from_regex
from tests.helpers.model_service import ERAS, ScriptedModels, agent_over, connect, scripted_models
from tests.helpers.scripted_chat_model import AskedTurn, ScriptedTurn, play
from tests.helpers.scripted_tools import ScriptedToolset, echo, make_spec
from tests.helpers.tool_servers import scripted_server
from tools.mcp_client.toolset import open_toolset
from tools.sampling import SampledMessage, Sampler, SamplingReply, SamplingRequest
from tools.spec import JsonObject, TextContent
from tools.toolset import CallContext, Toolset

pytestmark = pytest.mark.anyio

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 0, "forced_tokens": 2}
HELLO = ScriptedTurn("hello there")
HANGS = ScriptedTurn("on and", hangs=True)
NUMBER: JsonObject = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def saying(turn: ScriptedTurn) -> ScriptedModels:
    return scripted_models(play(turn))


def text_of(result: t.CallToolResult) -> str:
    assert isinstance(result.content[0], t.TextContent)
    return result.content[0].text


def structured(result: t.CallToolResult) -> dict[str, Any]:
    """The structured content without how long it took."""
    assert not result.is_error, text_of(result)
    content = dict(result.structured_content or {})
    if "usage" in content:
        content["usage"] = {
            name: value for name, value in content["usage"].items() if name != "seconds"
        }
    return content


async def refused(client: Client, name: str, arguments: JsonObject) -> str:
    result = await client.call_tool(name, arguments)
    assert result.is_error
    assert result.structured_content is None
    return text_of(result)


@pytest.mark.parametrize("era", ERAS)
async def test_lists_tools_with_schemas_and_annotations_without_opening_a_model(era: str) -> None:
    models = saying(HELLO)
    async with connect(models, era=era) as client:
        tools = (await client.list_tools()).tools
    assert [tool.name for tool in tools] == [
        "generate",
        "extract",
        "choose",
        "generate_batch",
        "embed",
        "run_result",
    ]
    for tool in tools:
        assert tool.output_schema is not None
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is True
        assert tool.annotations.open_world_hint is False
    assert models.num_opened == 0


async def test_agent_run_is_offered_only_with_tool_servers() -> None:
    async with connect(saying(HELLO), agent_over(ScriptedToolset([]), "clock", "files")) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert tools["agent_run"].input_schema["properties"]["servers"]["items"] == {
        "type": "string",
        "enum": ["clock", "files"],
    }
    annotations = tools["agent_run"].annotations
    assert annotations is not None
    assert annotations.destructive_hint is True
    assert annotations.open_world_hint is True


@pytest.mark.parametrize("era", ERAS)
async def test_generate_returns_text_first_and_the_rest_structured(era: str) -> None:
    models = saying(HELLO)
    async with connect(models, era=era) as client:
        result = await client.call_tool(
            "generate", {"prompt": "say hello", "system": "be brief", "max_tokens": 7}
        )
    assert text_of(result) == "hello there"
    assert structured(result) == {
        "status": "done",
        "text": "hello there",
        "finish_reason": "stop",
        "model": "scripted",
        "usage": USAGE,
    }
    asked = models.model.asked[0]
    assert asked.messages == (Message("system", "be brief"), Message("user", "say hello"))
    assert asked.max_tokens == 7
    assert asked.output is None


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("form", "output"),
    [
        ({"regex": "[a-z ]+"}, from_regex("[a-z ]+")),
        ({"grammar": 'start: "hello" /.*/'}, GrammarSource("lark", 'start: "hello" /.*/')),
        ({"grammar": 'root ::= "hello"'}, from_grammar('root ::= "hello"')),
    ],
)
async def test_generate_takes_a_form_of_the_text(
    era: str, form: JsonObject, output: GrammarSource
) -> None:
    models = saying(HELLO)
    async with connect(models, era=era) as client:
        result = await client.call_tool("generate", {"prompt": "say hello", **form})
    assert structured(result)["text"] == "hello there"
    assert models.model.asked[0].output == output


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"regex": "a("}, "the regular expression is not supported: unclosed group at 'a' ^ '('"),
        (
            {"grammar": "start: foo"},
            'the grammar is not supported: line 1, column 8: unknown name: "foo"',
        ),
        (
            {"grammar": "root ::= foo"},
            "the GBNF grammar is not supported: Rule 'foo' not found",
        ),
        ({"regex": "a", "grammar": "b"}, "give regex or grammar, not both"),
    ],
)
async def test_wrong_form_is_a_result_that_says_what_and_where(
    form: JsonObject, message: str
) -> None:
    models = saying(HELLO)
    async with connect(models) as client:
        assert await refused(client, "generate", {"prompt": "a", **form}) == message
    assert models.model.asked == []


async def test_text_that_was_cut_off_before_it_had_its_form_is_an_error() -> None:
    async with connect(saying(ScriptedTurn("he", finish_reason="length"))) as client:
        message = await refused(client, "generate", {"prompt": "a", "regex": "hello"})
        free = await client.call_tool("generate", {"prompt": "a"})
    assert message == (
        "the text was not complete after 5 tokens; give a larger max_tokens or a smaller regex"
        " or grammar"
    )
    assert structured(free)["finish_reason"] == "length"


@pytest.mark.parametrize("era", ERAS)
async def test_extract_returns_a_value_of_the_schema(era: str) -> None:
    models = saying(ScriptedTurn('{"n": 3}'))
    async with connect(models, era=era) as client:
        result = await client.call_tool(
            "extract", {"instructions": "how many?", "schema": NUMBER, "input": "three"}
        )
    assert text_of(result) == '{"n":3}'
    assert structured(result) == {
        "status": "done",
        "value": {"n": 3},
        "model": "scripted",
        "usage": USAGE,
    }
    asked = models.model.asked[0]
    assert asked.output == OutputSchema(NUMBER)
    assert asked.messages[-1] == Message("user", "how many?\n\nText:\nthree")


async def test_extract_says_when_the_value_was_cut_off() -> None:
    async with connect(saying(ScriptedTurn('{"n": ', finish_reason="length"))) as client:
        message = await refused(client, "extract", {"instructions": "?", "schema": NUMBER})
    assert message == (
        "the value was not complete after 5 tokens; give a larger max_tokens or a smaller schema"
    )


async def test_extract_never_returns_a_value_outside_the_schema() -> None:
    async with connect(saying(ScriptedTurn('{"n": "x"}'))) as client:
        message = await refused(client, "extract", {"instructions": "?", "schema": NUMBER})
    assert message == "the model's value does not fit the schema: $.n: 'x' is not of type 'integer'"


@pytest.mark.parametrize("era", ERAS)
async def test_choose_returns_the_likeliest_option(era: str) -> None:
    models = scripted_models(play(HELLO), {"good": 0.25, "bad": 0.75})
    async with connect(models, era=era) as client:
        result = await client.call_tool(
            "choose", {"question": "which?", "options": ["good", "bad"]}
        )
    assert text_of(result) == "bad"
    assert structured(result) == {
        "choice": "bad",
        "scores": {"good": 0.25, "bad": 0.75},
        "model": "scripted",
    }
    assert models.model.weighed[0][1] == ("good", "bad")


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("generate", {}, "$: 'prompt' is a required property"),
        ("generate", {"prompt": 1}, "$.prompt: 1 is not of type 'string'"),
        ("generate", {"prompt": "a", "model": "b"}, "$.model: 'b' is not one of ['scripted']"),
        (
            "generate",
            {"prompt": "a", "max_tokens": 0},
            "$.max_tokens: 0 is less than the minimum of 1",
        ),
        (
            "generate",
            {"prompt": "a", "wait_seconds": 601},
            "$.wait_seconds: 601 is greater than the maximum of 600",
        ),
        (
            "choose",
            {"question": "a", "options": ["b", "b"]},
            "$.options: ['b', 'b'] has non-unique elements",
        ),
        ("extract", {"instructions": "a"}, "$: 'schema' is a required property"),
    ],
)
async def test_wrong_arguments_are_a_result_that_names_them(
    name: str, arguments: JsonObject, problem: str
) -> None:
    models = saying(HELLO)
    async with connect(models) as client:
        assert await refused(client, name, arguments) == problem
    assert models.model.asked == []


async def test_unknown_tool_is_a_protocol_error() -> None:
    async with connect(saying(HELLO)) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool("chooze", {})
    assert caught.value.error.code == t.INVALID_PARAMS
    assert caught.value.error.message == "no tool is named 'chooze'; did you mean 'choose'?"


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (ScriptedTurn(raises=UnsupportedSchemaError("'not' at $.not: no")), "'not' at $.not: no"),
        (ScriptedTurn(finish_reason="error", error="the matcher stopped"), "the matcher stopped"),
        (ScriptedTurn(breaks_off=True), "the model's turn broke off; try again"),
    ],
)
async def test_failure_of_a_request_is_a_result_and_the_server_goes_on(
    turn: ScriptedTurn, message: str
) -> None:
    async with connect(scripted_models(play(turn, HELLO))) as client:
        assert await refused(client, "generate", {"prompt": "a"}) == message
        result = await client.call_tool("generate", {"prompt": "a"})
    assert text_of(result) == "hello there"


async def test_our_own_failure_is_a_result_without_its_details() -> None:
    async with connect(saying(ScriptedTurn(raises=RuntimeError("secret")))) as client:
        message = await refused(client, "generate", {"prompt": "a"})
    assert "secret" not in message


@pytest.mark.parametrize("broken", [ModelFileError("damaged at byte 7"), RuntimeError("no CUDA")])
async def test_model_that_cannot_be_loaded_ahead_is_met_again_by_the_call(
    broken: Exception,
) -> None:
    models = saying(HELLO)
    models.broken = broken
    with anyio.fail_after(5):
        async with open_service(["scripted"], models.opened) as service:
            await service.prepare()
            with pytest.raises(type(broken), match=str(broken)):
                await service.call_tool("generate", {"prompt": "a"}, CallContext())
            models.broken = None
            result = await service.call_tool("generate", {"prompt": "a"}, CallContext())
    assert result.content == (TextContent("hello there"),)


async def test_cancelled_request_cancels_its_run() -> None:
    models = saying(HANGS)
    async with connect(models) as client:
        speaking = anyio.Event()

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            if progress > 0:
                speaking.set()

        async with anyio.create_task_group() as group:

            async def call() -> None:
                await client.call_tool("generate", {"prompt": "a"}, progress_callback=on_progress)

            group.start_soon(call)
            await speaking.wait()
            group.cancel_scope.cancel()
        while models.model.num_open > 0:
            await anyio.lowlevel.checkpoint()


async def test_run_that_takes_longer_is_handed_out_and_its_result_can_be_got_again() -> None:
    models = saying(HELLO)
    models.loaded = anyio.Event()
    async with connect(models) as client:
        result = await client.call_tool("generate", {"prompt": "a", "wait_seconds": 0})
        handle = structured(result)
        assert handle == {"status": "running", "run_id": handle["run_id"]}
        assert handle["run_id"] in text_of(result)
        models.loaded.set()
        first = await client.call_tool("run_result", {"run_id": handle["run_id"]})
        again = await client.call_tool("run_result", {"run_id": handle["run_id"]})
    assert text_of(first) == "hello there"
    assert structured(first) == structured(again)


async def test_cancelled_run_result_leaves_the_run_alone() -> None:
    models = saying(HELLO)
    models.loaded = anyio.Event()
    async with connect(models) as client:
        handle = structured(await client.call_tool("generate", {"prompt": "a", "wait_seconds": 0}))
        arguments = {"run_id": handle["run_id"]}
        waiting = anyio.Event()

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            waiting.set()

        async with anyio.create_task_group() as group:

            async def call() -> None:
                await client.call_tool("run_result", arguments, progress_callback=on_progress)

            group.start_soon(call)
            await waiting.wait()
            group.cancel_scope.cancel()
        models.loaded.set()
        assert text_of(await client.call_tool("run_result", arguments)) == "hello there"


async def test_run_result_can_cancel_the_run() -> None:
    models = saying(HANGS)
    async with connect(models) as client:
        handle = structured(await client.call_tool("generate", {"prompt": "a", "wait_seconds": 0}))
        arguments = {"run_id": handle["run_id"], "cancel": True}
        result = await client.call_tool("run_result", arguments)
    assert structured(result) == {"status": "cancelled", "run_id": handle["run_id"]}
    assert models.model.num_open == 0


async def test_unknown_run_id_is_a_result_that_says_so() -> None:
    async with connect(saying(HELLO)) as client:
        message = await refused(client, "run_result", {"run_id": "x"})
    assert message.startswith("no run has this id")


async def test_failed_run_fails_again_through_its_handle() -> None:
    models = saying(ScriptedTurn(raises=UnsupportedSchemaError("no")))
    models.loaded = anyio.Event()
    async with connect(models) as client:
        handle = structured(await client.call_tool("generate", {"prompt": "a", "wait_seconds": 0}))
        models.loaded.set()
        for _ in range(2):
            assert await refused(client, "run_result", {"run_id": handle["run_id"]}) == "no"


@pytest.mark.parametrize("era", ERAS)
async def test_progress_starts_with_what_is_waited_for_and_only_grows(era: str) -> None:
    models = saying(ScriptedTurn(" ".join(["word"] * 500)))
    models.loaded = loaded = anyio.Event()
    seen: list[tuple[float, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, message))
        loaded.set()

    async with connect(models, era=era) as client:
        await client.call_tool("generate", {"prompt": "a"}, progress_callback=on_progress)
    assert seen[0] == (0.0, "waiting for scripted")
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


async def test_thirty_two_calls_at_once_all_get_their_own_answer() -> None:
    def script(asked: AskedTurn) -> ScriptedTurn:
        return ScriptedTurn(f"answer to {asked.messages[-1].content}")

    answers: dict[int, str] = {}
    async with connect(scripted_models(script)) as client, anyio.create_task_group() as group:

        async def ask(number: int) -> None:
            answers[number] = text_of(await client.call_tool("generate", {"prompt": str(number)}))

        for number in range(32):
            group.start_soon(ask, number)
    assert answers == {number: f"answer to {number}" for number in range(32)}


@pytest.mark.parametrize("era", ERAS)
async def test_agent_run_reports_answer_and_steps(era: str) -> None:
    call = ToolCall("call-1", "clock__time", {"zone": "UTC"})
    models = scripted_models(play(ScriptedTurn(calls=(call,)), ScriptedTurn("noon")))
    toolset = ScriptedToolset([(make_spec("clock__time", server="clock", read_only=True), echo)])
    messages: list[str | None] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        messages.append(message)

    async with connect(models, agent_over(toolset, "clock"), era=era) as client:
        result = await client.call_tool(
            "agent_run", {"task": "what time is it?"}, progress_callback=on_progress
        )
    content = structured(result)
    step = content["steps"][0]
    assert text_of(result) == "noon"
    assert content == {
        "status": "done",
        "answer": "noon",
        "steps": [
            {
                "tool": "clock__time",
                "arguments": {"zone": "UTC"},
                "ok": True,
                "seconds": step["seconds"],
                "approved_by": "policy",
            }
        ],
        "stopped_by": "done",
        "model": "scripted",
        "usage": {name: 2 * value for name, value in USAGE.items()},
    }
    assert toolset.called == [("clock__time", {"zone": "UTC"})]
    assert messages[0] == "waiting for scripted"


@pytest.mark.parametrize("era", ERAS)
async def test_agent_run_with_a_schema_returns_a_value(era: str) -> None:
    call = ToolCall("call-1", "clock__time", {})
    models = scripted_models(play(ScriptedTurn(calls=(call,)), ScriptedTurn('{"n": 12}')))
    toolset = ScriptedToolset([(make_spec("clock__time", server="clock", read_only=True), echo)])
    async with connect(models, agent_over(toolset, "clock"), era=era) as client:
        arguments = {"task": "what time is it?", "schema": NUMBER, "wait_seconds": 5}
        result = await client.call_tool("agent_run", arguments)
    content = structured(result)
    assert text_of(result) == '{"n":12}'
    assert (content["answer"], content["value"]) == ('{"n": 12}', {"n": 12})
    assert (content["stopped_by"], len(content["steps"])) == ("done", 1)
    for asked in models.model.asked:
        assert asked.output == OutputSchema(NUMBER)
        assert asked.messages[0].role == "system"
        assert json.dumps(NUMBER) in asked.messages[0].content


async def test_agent_run_tells_its_steps_when_the_value_is_not_whole() -> None:
    call = ToolCall("call-1", "clock__time", {})
    cut = ScriptedTurn('{"n": 1', finish_reason="length")
    models = scripted_models(play(ScriptedTurn(calls=(call,)), cut))
    toolset = ScriptedToolset([(make_spec("clock__time", server="clock", read_only=True), echo)])
    async with connect(models, agent_over(toolset, "clock")) as client:
        result = await client.call_tool("agent_run", {"task": "time?", "schema": NUMBER})
    content = structured(result)
    assert text_of(result) == "(no answer; the run ended by: tokens)"
    assert "value" not in content
    assert (content["stopped_by"], len(content["steps"])) == ("tokens", 1)


async def test_agent_run_never_returns_a_value_outside_the_schema() -> None:
    async with connect(
        saying(ScriptedTurn('{"n": "x"}')), agent_over(ScriptedToolset([]), "a")
    ) as client:
        message = await refused(client, "agent_run", {"task": "a", "schema": NUMBER})
    assert message == "the model's value does not fit the schema: $.n: 'x' is not of type 'integer'"


async def test_agent_run_uses_the_chosen_servers_and_steps_only() -> None:
    models = saying(HELLO)
    toolset = ScriptedToolset(
        [(make_spec("a__x", server="a"), echo), (make_spec("b__y", server="b"), echo)]
    )
    async with connect(models, agent_over(toolset, "a", "b")) as client:
        await client.call_tool("agent_run", {"task": "go", "servers": ["b"], "max_steps": 1})
    assert models.model.asked[0].tools == ("b__y",)
    assert models.model.asked[0].tool_choice.mode == "none"


async def test_model_is_prepared_for_the_tools_a_run_offers_and_again_when_they_change() -> None:
    tools = [(make_spec("beta"), echo), (make_spec("alpha"), echo), (make_spec("odd"), echo)]
    toolset = ScriptedToolset(tools)
    models = scripted_models(play(HELLO))
    models.model.unsupported = {"odd": "it cannot be decoded"}
    with anyio.fail_after(5):
        async with open_service(["scripted"], models.opened, agent_over(toolset, "x")) as service:
            await service.prepare()
            assert models.model.prepared == [("alpha", "beta")]
            for _ in range(2):
                await service.call_tool("agent_run", {"task": "go"}, CallContext())
            assert models.model.prepared == [("alpha", "beta")]
            toolset.tools = [*tools, (make_spec("delta"), echo)]
            was_prepared = models.model.was_prepared
            await service.call_tool("agent_run", {"task": "go"}, CallContext())
            await was_prepared.wait()
    assert models.model.prepared == [("alpha", "beta"), ("alpha", "beta", "delta")]
    assert [asked.tools for asked in models.model.asked] == [
        *[("alpha", "beta")] * 2,
        ("alpha", "beta", "delta"),
    ]


async def test_model_is_prepared_anew_as_soon_as_a_tool_server_offers_other_tools() -> None:
    config = scripted_server("a", "changing")
    models = scripted_models(play(HELLO))
    with anyio.fail_after(15):
        async with open_toolset({"a": config}) as toolset:
            before = tuple(sorted(tool.name for tool in await toolset.list_tools()))
            agent = agent_over(toolset, "a")
            async with open_service(["scripted"], models.opened, agent) as service:
                await service.prepare()
                was_prepared = models.model.was_prepared
                tools = {"tools": {"x": "One."}}
                await toolset.call_tool("a__become", tools, CallContext())
                await was_prepared.wait()
    assert [tuple(sorted(names)) for names in models.model.prepared] == [
        before,
        tuple(sorted([*before, "a__x"])),
    ]


async def test_model_that_cannot_be_prepared_is_served_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    models = scripted_models(play(HELLO))
    models.model.prepare = None  # type: ignore[assignment, method-assign]  # breaks it
    with anyio.fail_after(5):
        agent = agent_over(ScriptedToolset([(make_spec("alpha"), echo)]), "x")
        async with open_service(["scripted"], models.opened, agent) as service:
            await service.prepare()
            result = await service.call_tool("agent_run", {"task": "go"}, CallContext())
    assert result.text.startswith('{"status":"done"')
    assert "model scripted is not prepared for its tools" in caplog.text


async def test_tool_servers_that_may_sample_get_text_of_the_default_model() -> None:
    models, samplers = scripted_models(play(HELLO)), list[Sampler]()

    @asynccontextmanager
    async def open_servers(*, sampler: Sampler) -> AsyncIterator[Toolset]:
        samplers.append(sampler)
        yield ScriptedToolset([])

    agent = AgentSetup(("x",), open_servers, Policy())
    with anyio.fail_after(5):
        async with open_service(["scripted"], models.opened, agent) as service:
            await service.prepare()
            asked = SamplingRequest("x", (SampledMessage("user", "Hi"),), max_tokens=8)
            [sampler] = samplers
            assert await sampler(asked) == SamplingReply(HELLO.text, "scripted", "endTurn")
