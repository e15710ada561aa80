"""Tests of runs whose tools are searched, for they do not fit the prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from runtime.agent.budget import ToolReport, ToolTokens, is_too_much, report_tools
from runtime.agent.events import AgentEnd
from runtime.agent.limits import Limits
from runtime.agent.loop import Agent
from runtime.agent.policy import Policy
from runtime.agent.search import MAX_ADMITTED, ToolSearch, definition, search_spec
from runtime.chat.messages import AUTO, Message, ToolCall, ToolChoice
from runtime.chat.model import ChatModel
from runtime.config import Config
from runtime.hub import Hub
from runtime.request import SamplingParams
from tests.helpers.many_tools import many_specs, many_tools
from tests.helpers.scripted_chat_model import ScriptedChatModel, ScriptedTurn, play
from tests.helpers.scripted_engine import ScriptedEngine, say
from tests.helpers.scripted_tools import ScriptedToolset, make_spec
from tests.helpers.tiny_gguf import write_tiny_llama
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tools.mcp_client.config import ToolPolicy
from tools.spec import ToolResult, ToolSpec

pytestmark = pytest.mark.anyio

PROMPT = (Message("user", "What recipe is number 7?"),)
ANSWER = ScriptedTurn("cake")
RECIPE = "server4__get_recipe"
SEARCHED = ScriptedTurn(calls=(ToolCall("1", "search_tools", {"query": "get a recipe"}),))
CALLED = ScriptedTurn(calls=(ToolCall("2", RECIPE, {"number": 7}),))


async def last(
    agent: Agent, messages: Sequence[Message] = PROMPT, choice: ToolChoice = AUTO
) -> AgentEnd:
    sampling = SamplingParams(max_tokens=400)
    with anyio.fail_after(10):
        events = agent.run(messages, tool_choice=choice, sampling=sampling)
        end = [event async for event in events][-1]
    assert isinstance(end, AgentEnd)
    return end


def scripted(*turns: ScriptedTurn) -> ScriptedChatModel:
    return ScriptedChatModel(play(*turns), context_length=2048)


async def test_model_finds_a_tool_of_300_and_calls_it() -> None:
    toolset = many_tools(300)
    model = scripted(SEARCHED, CALLED, ANSWER)
    end = await last(Agent(model, toolset))
    assert (end.stopped_by, end.answer) == ("done", "cake")
    assert toolset.called == [(RECIPE, {"number": 7})]
    assert [asked.tools for asked in model.asked] == [("search_tools",)] * 3
    admitted = [asked.admitted for asked in model.asked]
    assert admitted[0] == ()
    assert admitted[1][-2:] == (RECIPE, "describe_tool")
    assert admitted[2] == admitted[1]
    line = end.calls[0].result.text.partition("\n")[0]
    assert line == (
        f'{RECIPE}(number: integer, language?: "en"|"de"|"fr", fields?: string[])'
        " Returns one recipe by its number."
    )


async def test_tool_that_was_not_found_yet_is_no_tool() -> None:
    toolset = many_tools(300)
    end = await last(Agent(scripted(CALLED, ANSWER), toolset))
    assert end.calls[0].result == ToolResult.from_text(
        f"no tool is named {RECIPE!r}; known are 'search_tools'", is_error=True
    )
    assert toolset.called == []


@pytest.mark.parametrize(
    ("number", "context_length", "is_searched"),
    [
        (40, 2048, False),  # of ten tokens each
        (41, 2048, True),
        (20, 1024, False),
        (300, 16_384, False),
        (300, 8192, True),
        (2, 50, True),
        (1, 20, False),  # the tool that searches takes as much
        (0, 1, False),
    ],
)
async def test_tools_are_searched_from_a_fifth_of_the_context_on(
    number: int, context_length: int, is_searched: bool
) -> None:
    model = ScriptedChatModel(play(ANSWER), context_length=context_length)
    specs = many_specs(number)
    assert await is_too_much(specs, model.count_tokens, context_length) == is_searched
    offered = await Agent(model, many_tools(number)).list_tools()
    assert offered == ([search_spec(specs)] if is_searched else sorted(specs, key=by_place))


def by_place(tool: ToolSpec) -> tuple[str, str]:
    return tool.server or "", tool.name


async def test_small_tools_are_not_even_counted() -> None:
    async def refuse(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> int:
        raise AssertionError("counted")

    assert not await is_too_much(many_specs(3), refuse, 100_000)


async def test_report_says_what_each_server_takes() -> None:
    model = scripted(ANSWER)
    specs = [*many_specs(50), make_spec("own")]
    report = await report_tools(specs, model.count_tokens, 2000)
    assert report == ToolReport(
        servers=(
            ToolTokens("", 1, 10, 0.005),
            *(ToolTokens(f"server{at}", 12, 120, 0.06) for at in range(4)),
            ToolTokens("server4", 2, 20, 0.01),
        ),
        num_tokens=510,
        share=0.255,
        is_searched=True,
    )
    empty = await report_tools([], model.count_tokens, 2000)
    assert empty == ToolReport((), 0, 0.0, is_searched=False)


async def test_denied_tools_are_not_found() -> None:
    policy = Policy({"server4": ToolPolicy(deny=("get_recipe",))})
    model = scripted(SEARCHED, ANSWER)
    end = await last(Agent(model, many_tools(300), policy))
    assert RECIPE not in end.calls[0].result.text
    assert "server4__list_recipe" in end.calls[0].result.text


async def test_later_run_of_a_conversation_may_call_what_it_found_or_called() -> None:
    agent = Agent(scripted(SEARCHED, CALLED, ANSWER), many_tools(300))
    first = await last(agent)
    model = scripted(CALLED, ANSWER)
    toolset = many_tools(300)
    end = await last(Agent(model, toolset), (*first.messages, Message("user", "Again.")))
    assert (end.stopped_by, toolset.called) == ("done", [(RECIPE, {"number": 7})])
    called = [message for message in first.messages if message.tool_calls[:1] != SEARCHED.calls]
    model = scripted(ANSWER)
    await last(Agent(model, toolset), called)
    assert model.asked[0].admitted == (RECIPE, "describe_tool")


async def test_tool_that_the_choice_names_is_listed_unless_it_was_found_already() -> None:
    choice = ToolChoice(name=RECIPE)
    model = scripted(CALLED, ANSWER)
    first = await last(Agent(model, many_tools(300)), choice=choice)
    assert [asked.tools for asked in model.asked] == [("search_tools", RECIPE)] * 2
    model = scripted(CALLED, ANSWER)
    again = (*first.messages, Message("user", "Again."))
    await last(Agent(model, many_tools(300)), again, choice)
    assert [(asked.tools, asked.admitted) for asked in model.asked] == [
        (("search_tools",), (RECIPE, "describe_tool"))
    ] * 2


async def test_tools_that_come_and_go_while_a_run_searches_are_followed() -> None:
    toolset = ScriptedToolset([])
    kept = many_tools(200).tools

    async def shrink(arguments: object) -> ToolResult:
        toolset.tools = kept[:30]
        return ToolResult.from_text("done")

    toolset.tools = [(spec, shrink) for spec, _ in kept]
    order = ToolCall("1", "search_tools", {"query": "count invoice"})
    name = "server0__count_invoice"
    turns = (ScriptedTurn(calls=(order,)), ScriptedTurn(calls=(ToolCall("2", name, {}),)))
    model = ScriptedChatModel(play(*turns, ANSWER), context_length=2048)
    await last(Agent(model, toolset))
    assert [len(asked.tools) for asked in model.asked] == [1, 1, 30]
    assert [len(asked.admitted) for asked in model.asked] == [0, 6, 0]


def test_search_admits_the_best_last_and_forgets_the_oldest() -> None:
    search = ToolSearch(many_specs(300), 2048)
    for thing in ("bird", "fish", "dog", "cat", "horse", "car", "lamp", "recipe"):
        search.call("search_tools", {"query": f"get {thing}"})
    names = [tool.name.partition("__")[2] for tool in search.admitted]
    assert len(names) == MAX_ADMITTED + 1
    assert names[-2] == "get_recipe"
    assert "get_bird" not in names
    assert len(set(names)) == len(names)


def test_description_is_the_whole_definition_and_admits_the_tool() -> None:
    specs = many_specs(300)
    search = ToolSearch(specs, 2048)
    told = search.call("describe_tool", {"name": RECIPE})
    spec = next(spec for spec in specs if spec.name == RECIPE)
    assert json.loads(told.text) == definition(spec)
    assert [tool.name for tool in search.admitted] == [RECIPE, "describe_tool"]


@pytest.mark.parametrize("arguments", [{"name": "get recipe"}, {"name": "server4__recipe"}])
def test_description_of_an_unknown_name_is_a_search(arguments: dict[str, str]) -> None:
    told = ToolSearch(many_specs(300), 2048).call("describe_tool", arguments).text
    assert "server4__get_recipe(" in told


@pytest.mark.parametrize("arguments", [{}, {"query": None}, {"query": ""}, {"query": "xyzzy"}])
def test_search_that_finds_nothing_says_so_and_admits_nothing(arguments: dict[str, str]) -> None:
    search = ToolSearch(many_specs(300), 2048)
    told = search.call("search_tools", arguments)
    assert told == ToolResult.from_text("no tool is found by these words; try others")
    assert search.admitted == ()


def test_results_stay_short_whatever_definitions_say() -> None:
    long = {name: {"enum": ["x" * 500, "y" * 500]} for name in ("one", "two", "three")}
    specs = [
        ToolSpec(f"tool_{at}", "word " * 2000, {"type": "object", "properties": long})
        for at in range(9)
    ]
    told = ToolSearch(specs, 1000).call("search_tools", {"query": "word"}).text.splitlines()
    assert [len(line) for line in told[:-1]] == [100] * 5
    assert told[-1] == "describe_tool with the name of a tool tells all of it."


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({}, "t()"),
        ({"properties": []}, "t()"),
        ({"properties": {"a": True, "b": 3}, "required": "b"}, "t(a?: any, b?: any)"),
        ({"properties": {"a": {"type": ["string", "null"]}}}, "t(a?: string|null)"),
        (
            {"properties": {"a": {"anyOf": [{"type": "integer"}, {"enum": [1]}]}}},
            "t(a?: integer|1)",
        ),
        ({"properties": {"a": {"anyOf": 3}, "b": {"type": 3}}}, "t(a?: any, b?: any)"),
        (
            {"properties": {"z": {"type": "array"}, "a": {"$ref": "#"}}, "required": ["a"]},
            "t(a: any, z?: any[])",
        ),
    ],
)
def test_signatures_of_odd_schemas(schema: dict[str, object], told: str) -> None:
    search = ToolSearch([ToolSpec("t", "", schema)], 9000)
    assert search.call("search_tools", {"query": "t"}).text.strip() == told


def test_names_that_tools_have_already_are_left_to_them() -> None:
    specs = [make_spec("search_tools"), make_spec("describe_tool")]
    assert search_spec(specs).name == "search_tools_"
    search = ToolSearch(specs, 2048)
    assert not search.has("search_tools")
    search.call("search_tools_", {"query": "describe"})
    assert [tool.name for tool in search.admitted] == ["describe_tool", "describe_tool_"]


async def test_grammar_lets_a_model_call_what_it_found_and_the_prompt_only_grows() -> None:
    def spell(name: str, arguments: object) -> str:
        call = {"name": name, "arguments": arguments}
        text = json.dumps(call, separators=(",", ":"))
        text = text.replace('"name":', '"name": ', 1).replace(',"arguments":', ', "arguments": ', 1)
        return f"<tool_call>\n{text}\n</tool_call>"

    tokenizer = tiny_tokenizer()
    said = say(
        spell("search_tools", {"query": "get a recipe"}),
        spell(RECIPE, {"number": 7}),
        "It is cake.",
    )
    engine = ScriptedEngine(tokenizer, said, context_length=8192)
    toolset = many_tools(300)
    end = await last(Agent(ChatModel("tiny", tokenizer, engine, 8192), toolset))
    assert (end.answer, end.error) == ("It is cake.", None)
    assert toolset.called == [(RECIPE, {"number": 7})]
    one, two, three = (request.token_ids for request in engine.requests)
    assert two[: len(one)] == one
    assert three[: len(two)] == two
    assert len(three) < 8192 / 4


async def test_random_weights_call_what_a_conversation_found_on_a_small_context(
    tmp_path: Path,
) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", context_length=2048)
    config = Config(str(path), cache_dir=tmp_path, device="cpu", threads=1, kv_cache_mib=8)
    toolset = many_tools(300)
    found = ToolSearch(many_specs(300), 2048).call("search_tools", {"query": "get a recipe"})
    messages = (
        *PROMPT,
        Message("assistant", tool_calls=SEARCHED.calls),
        Message("tool", found.text, call_id="1", name="search_tools"),
    )
    choice = ToolChoice("required", allowed=(RECIPE,), parallel=False)
    async with Hub(config) as hub:
        agent = Agent(await hub.get(), toolset, limits=Limits(max_steps=2))
        end = await last(agent, messages, choice)
    assert [call.call.name for call in end.calls] == [RECIPE]
    assert toolset.called == [(RECIPE, end.calls[0].call.arguments)]
    assert end.usage.prompt_tokens <= 2 * 2048
