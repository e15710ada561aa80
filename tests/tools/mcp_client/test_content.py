"""Resources and prompts of tool servers, and the two tools with which a model reads resources."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from tests.helpers.tool_servers import scripted_server
from tools.errors import ConfigurationError, ToolServerError
from tools.mcp_client.toolset import McpToolset, open_toolset
from tools.resources import Prompt, PromptArgument, PromptMessage, Resource
from tools.spec import MediaContent, ResourceLink, TextContent, ToolResult
from tools.toolset import CallContext

pytestmark = pytest.mark.anyio
CONTEXT = CallContext()
PICTURE = MediaContent("image", b"\x00\x01\x02", "image/png")


@asynccontextmanager
async def opened(**modes: str) -> AsyncIterator[McpToolset]:
    servers = {name: scripted_server(name, *mode.split()) for name, mode in modes.items()}
    with anyio.fail_after(20):
        async with open_toolset(servers) as toolset:
            await toolset.list_tools()
            yield toolset


async def test_resources_of_all_pages_are_listed_and_read() -> None:
    async with opened(a="reading") as toolset:
        assert await toolset.list_resources("a", CONTEXT) == [
            Resource("note://1", "a note", "About a note.", size=5),
            Resource("note://2", "a picture", mime_type="image/png"),
        ]
        assert await toolset.read_resource("a", "note://1", CONTEXT) == [TextContent("hello")]
        assert await toolset.read_resource("a", "note://2", CONTEXT) == [PICTURE]
        refused = r"server 'a' refused reading note://3: no such note"
        with pytest.raises(ToolServerError, match=refused):
            await toolset.read_resource("a", "note://3", CONTEXT)
        with pytest.raises(ConfigurationError, match="no MCP server is named 'b'"):
            await toolset.list_resources("b", CONTEXT)


async def test_a_server_without_prompts_has_none() -> None:
    async with opened(a="plain") as toolset:
        assert await toolset.list_prompts("a", CONTEXT) == []


async def test_prompts_are_listed_and_made() -> None:
    async with opened(a="reading") as toolset:
        whom = PromptArgument("whom", "Who is greeted.", is_required=True)
        assert await toolset.list_prompts("a", CONTEXT) == [Prompt("greet", "Greets.", (whom,))]
        assert await toolset.get_prompt("a", "greet", {"whom": "Ann"}, CONTEXT) == [
            PromptMessage("user", TextContent("Greet Ann.")),
            PromptMessage("assistant", TextContent("Hello!")),
        ]


@pytest.mark.parametrize("modes", ["plain", "reading bare"])
async def test_a_server_without_resources_has_none_and_no_tools_for_them(modes: str) -> None:
    async with opened(a=modes) as toolset:
        assert await toolset.list_resources("a", CONTEXT) == []
        names = [tool.name for tool in await toolset.list_tools()]
        assert [name for name in names if "resource" in name] == []


async def test_a_model_reads_resources_with_two_tools_that_bear_the_servers_name() -> None:
    async with opened(a="plain", b="reading") as toolset:
        offered = {tool.name: tool for tool in await toolset.list_tools()}
        assert [name for name in offered if "resource" in name] == [
            "b__list_resources",
            "b__read_resource",
        ]
        assert list(offered) == sorted(offered)
        assert toolset.states()["b"].num_tools == len([n for n in offered if n.startswith("b__")])
        reader = offered["b__read_resource"]
        hints = reader.annotations
        assert (reader.server, hints.read_only, hints.open_world) == ("b", True, True)
        listed = await toolset.call_tool("b__list_resources", {}, CONTEXT)
        assert [json.loads(line) for line in listed.text.splitlines()] == [
            {"uri": "note://1", "name": "a note", "description": "About a note."},
            {"uri": "note://2", "name": "a picture", "type": "image/png"},
        ]
        found = await toolset.call_tool("b__list_resources", {"containing": "PICTURE"}, CONTEXT)
        assert [json.loads(line)["uri"] for line in found.text.splitlines()] == ["note://2"]
        none = await toolset.call_tool("b__list_resources", {"containing": "x!"}, CONTEXT)
        assert none == ToolResult.from_text("b has no such resource.")
        text = await toolset.call_tool("b__read_resource", {"uri": "note://1"}, CONTEXT)
        assert text == ToolResult.from_text("hello")
        media = await toolset.call_tool("b__read_resource", {"uri": "note://2"}, CONTEXT)
        assert media == ToolResult((PICTURE,))


async def test_what_a_result_links_to_can_be_read_from_then_on() -> None:
    async with opened(a="reading bare") as toolset:
        before = toolset.states()["a"].num_tools
        assert "a__read_resource" not in [tool.name for tool in await toolset.list_tools()]
        seen = toolset.changes.count
        linked = await toolset.call_tool("a__link", {}, CONTEXT)
        assert linked == ToolResult((ResourceLink("note://1", "a note"),))
        assert toolset.changes.count == seen + 1
        assert toolset.states()["a"].num_tools == before + 2
        read = await toolset.call_tool("a__read_resource", {"uri": "note://1"}, CONTEXT)
        assert read == ToolResult.from_text("hello")


async def test_what_a_model_asks_wrongly_it_is_told() -> None:
    async with opened(b="reading") as toolset:
        wrong = await toolset.call_tool("b__read_resource", {}, CONTEXT)
        assert wrong == ToolResult.from_text(
            "Invalid arguments for b__read_resource: $: 'uri' is a required property",
            is_error=True,
        )
        missing = await toolset.call_tool("b__read_resource", {"uri": "x"}, CONTEXT)
        assert missing == ToolResult.from_text(
            "server 'b' refused reading x: no such note", is_error=True
        )
