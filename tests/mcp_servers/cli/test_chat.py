"""Tests of a conversation in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO

from anyio.from_thread import start_blocking_portal
from rich.console import Console

from mcp_servers.cli.chat import Conversation
from mcp_servers.cli.session import Session
from runtime.agent.policy import Policy
from runtime.errors import PromptTooLongError
from runtime.request import SamplingParams
from tests.helpers.scripted_chat_model import ScriptedChatModel, ScriptedTurn, play
from tests.helpers.scripted_tools import ScriptedToolset, echo, make_spec
from tools.errors import ToolServerError
from tools.mcp_client.server import ServerState
from tools.resources import Prompt, PromptMessage
from tools.spec import Content, TextContent
from tools.toolset import CallContext


class Notes:
    """The content of a server `notes`: one note, one prompt."""

    async def read_resource(self, server: str, uri: str, context: CallContext) -> Sequence[Content]:
        if uri != "note://1":
            raise ToolServerError(f"no {uri}")
        return [TextContent("milk")]

    async def list_prompts(self, server: str, context: CallContext) -> Sequence[Prompt]:
        return [Prompt("shop")]

    async def get_prompt(
        self, server: str, name: str, arguments: Mapping[str, str], context: CallContext
    ) -> Sequence[PromptMessage]:
        return [PromptMessage("user", TextContent("What is there to buy?"))]


def talk(model: ScriptedChatModel, lines: Sequence[str], system: str | None = None) -> list[str]:
    out = StringIO()
    console = Console(file=out, width=100, markup=False, highlight=False, emoji=False)
    toolset = ScriptedToolset([(make_spec("look"), echo)])
    states = {"notes": ServerState("ready")}
    session = Session("m", model, toolset, Policy(), lambda: states, content=Notes())
    left = iter(lines)
    with start_blocking_portal() as portal:
        conversation = Conversation(session, console, SamplingParams(max_tokens=8), system)
        conversation.talk(portal, lambda: next(left, None))
    return [line.rstrip() for line in out.getvalue().splitlines()[1:]]


def contents(model: ScriptedChatModel) -> list[list[str]]:
    return [[message.content for message in asked.messages] for asked in model.asked]


def test_every_line_is_answered_with_what_was_said_before() -> None:
    model = ScriptedChatModel(play(ScriptedTurn("hello"), ScriptedTurn("bye")))
    lines = talk(model, ["hi", "", "good bye"], system="be kind")
    assert contents(model) == [["be kind", "hi"], ["be kind", "hi", "hello", "good bye"]]
    assert [line for line in lines if not line.startswith("[")] == ["hello", "bye"]
    assert len({asked.conversation for asked in model.asked}) == 1


def test_new_starts_over_and_exit_leaves() -> None:
    model = ScriptedChatModel(play(ScriptedTurn("hello")))
    talk(model, ["hi", "/new", "again", "/exit", "never"], system="be kind")
    assert contents(model) == [["be kind", "hi"], ["be kind", "again"]]


def test_turn_that_fails_is_told_and_forgotten() -> None:
    turns = (ScriptedTurn(raises=PromptTooLongError("too long")), ScriptedTurn("hello"))
    model = ScriptedChatModel(play(*turns))
    lines = talk(model, ["a lot", "less"])
    assert lines[0] == "too long"
    assert contents(model) == [["a lot"], ["less"]]


def test_tools_are_listed() -> None:
    assert talk(ScriptedChatModel(play(ScriptedTurn())), ["/tools"]) == ["  look()  The tool look."]


def test_resources_and_prompts_of_servers_are_part_of_what_is_said() -> None:
    model = ScriptedChatModel(play(ScriptedTurn("ok")))
    lines = talk(model, ["Buy @notes:note://1", "/notes:shop", "@notes:note://2", "/notes:shout"])
    bought = "Buy @notes:note://1\n\nContent of note://1 from the tool server notes:\nmilk"
    assert contents(model) == [[bought], [bought, "ok", "What is there to buy?"]]
    told = [line for line in lines if line not in {"ok", ""} and not line.startswith("[")]
    assert told == ["no note://2", "notes has no prompt 'shout'; did you mean 'shop'?"]
