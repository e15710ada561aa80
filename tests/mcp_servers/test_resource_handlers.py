"""Resources, templates, subscriptions, prompts and completion as data, both protocol eras."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import mcp_types as t
import pytest
from mcp import Client, MCPError
from mcp.client.subscriptions import ResourceUpdated

from mcp_servers.announcements import MAX_URIS_EACH
from mcp_servers.prompt_handlers import EmbeddedResource, Prompt, PromptArgument, PromptMessage
from mcp_servers.resource_handlers import PAGE_SIZE, Asked, Listed, Resource
from mcp_servers.toolset_server import Icons, OfferingServer, build_server
from tests.helpers.model_service import ERAS
from tests.helpers.tool_servers import RecordingToolset
from tools.errors import InvalidRequestError
from tools.spec import MediaContent, TextContent

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:.*removed as of 2026-07-28"),  # hosts still call these
]
PIXEL = b"\x89PNG\r\n"


@dataclass
class Shelf:
    """Texts that may change, by their names."""

    texts: dict[str, str] = field(default_factory=lambda: {"first": "one", "a/b": "slashed"})

    def _text(self, asked: Asked) -> str:
        name = asked.variables["name"]
        if name not in self.texts:
            raise InvalidRequestError(f"no text is named {name!r}")
        return self.texts[name]

    async def read(self, asked: Asked) -> str:
        return self._text(asked)

    @property
    def resources(self) -> list[Resource]:
        async def read_picture(asked: Asked) -> bytes:
            return PIXEL

        return [
            Resource("shelf://", "shelf", "All.", "image/png", read_picture, ttl_ms=60_000),
            Resource(
                "shelf://{name}",
                "text",
                "One.",
                "text/plain",
                self.read,
                version=self._text,
                values={"name": lambda principal: self.texts},
                listed=lambda principal: [
                    Listed({"name": name}, f"Text {name}.") for name in self.texts
                ],
            ),
        ]


async def render(arguments: Mapping[str, str]) -> Sequence[PromptMessage]:
    return [
        PromptMessage("user", TextContent(f"about {arguments['topic']}")),
        PromptMessage("assistant", MediaContent("image", PIXEL, "image/png")),
        PromptMessage("user", EmbeddedResource("shelf://first", "text/plain", "one")),
    ]


ABOUT = Prompt(
    "about",
    "Says something.",
    render,
    (
        PromptArgument("topic", "Of what.", True, lambda principal: ["cats", "Cars", "dogs"]),
        PromptArgument("tone", "How."),
    ),
)


def build(shelf: Shelf) -> OfferingServer:
    return build_server("s", RecordingToolset(["work"]), resources=shelf.resources, prompts=[ABOUT])


@asynccontextmanager
async def connect(shelf: Shelf, era: str, **options: Any) -> AsyncIterator[Client]:
    with anyio.fail_after(5):
        async with Client(build(shelf), mode=era, **options) as client:
            yield client


@pytest.mark.parametrize("era", ERAS)
async def test_resources_of_templates_are_listed_with_their_addresses(era: str) -> None:
    async with connect(Shelf(), era) as client:
        resources = (await client.list_resources()).resources
        templates = (await client.list_resource_templates()).resource_templates
    assert [(one.uri, one.name, one.description) for one in resources] == [
        ("shelf://", "shelf", "All."),
        ("shelf://first", "text first", "Text first."),
        ("shelf://a%2Fb", "text a/b", "Text a/b."),
    ]
    assert [(one.uri_template, one.name, one.mime_type) for one in templates] == [
        ("shelf://{name}", "text", "text/plain")
    ]


@pytest.mark.parametrize("era", ERAS)
async def test_bytes_and_texts_are_read_by_address(era: str) -> None:
    async with connect(Shelf(), era) as client:
        picture = await client.read_resource("shelf://")
        text = await client.read_resource("shelf://a%2Fb")
    blob = base64.b64encode(PIXEL).decode()
    assert picture.contents == [
        t.BlobResourceContents(uri="shelf://", mime_type="image/png", blob=blob)
    ]
    assert text.contents == [
        t.TextResourceContents(uri="shelf://a%2Fb", mime_type="text/plain", text="slashed")
    ]
    if era != "legacy":
        assert (picture.ttl_ms, picture.cache_scope) == (60_000, "private")
        assert (text.ttl_ms, text.cache_scope) == (0, "private")


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("shelf://lost", "no text is named 'lost'"),
        ("other://x", "no resource is at 'other://x'"),
        ("shelf://a/b", "no resource is at 'shelf://a/b'; did you mean"),
    ],
)
async def test_what_is_not_there_is_a_wrong_parameter(era: str, uri: str, message: str) -> None:
    async with connect(Shelf(), era) as client:
        with pytest.raises(MCPError, match=message) as caught:
            await client.read_resource(uri)
    assert caught.value.error.code == t.INVALID_PARAMS
    assert caught.value.error.data == {"uri": uri}


@pytest.mark.parametrize("era", ERAS)
async def test_lists_come_in_pages(era: str) -> None:
    shelf = Shelf({f"n{number:03}": "" for number in range(PAGE_SIZE + 1)})
    async with connect(shelf, era) as client:
        first = await client.list_resources()
        assert (len(first.resources), first.next_cursor) == (PAGE_SIZE, str(PAGE_SIZE))
        second = await client.list_resources(cursor=first.next_cursor)
        assert [one.uri for one in second.resources] == ["shelf://n099", "shelf://n100"]
        assert second.next_cursor is None
        for cursor in ("-1", "x", "²", "9" * 12):
            with pytest.raises(MCPError, match="none of this list") as caught:
                await client.list_resources(cursor=cursor)
            assert caught.value.error.code == t.INVALID_PARAMS


@pytest.mark.parametrize("era", ERAS)
async def test_prompts_carry_texts_pictures_and_resources(era: str) -> None:
    async with connect(Shelf(), era) as client:
        (prompt,) = (await client.list_prompts()).prompts
        found = await client.get_prompt("about", {"topic": "cats"})
    assert prompt.arguments == [
        t.PromptArgument(name="topic", description="Of what.", required=True),
        t.PromptArgument(name="tone", description="How.", required=False),
    ]
    blob = base64.b64encode(PIXEL).decode()
    inside = t.TextResourceContents(uri="shelf://first", mime_type="text/plain", text="one")
    assert found.messages == [
        t.PromptMessage(role="user", content=t.TextContent(text="about cats")),
        t.PromptMessage(role="assistant", content=t.ImageContent(data=blob, mime_type="image/png")),
        t.PromptMessage(role="user", content=t.EmbeddedResource(resource=inside)),
    ]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("abuot", {}, "no prompt is named 'abuot'; did you mean 'about'"),
        ("about", {}, "prompt 'about' needs 'topic'"),
        ("about", {"topic": "x", "tune": "y"}, "no argument 'tune'; did you mean 'tone'"),
    ],
)
async def test_a_wrong_use_of_a_prompt_is_a_wrong_parameter(
    era: str, name: str, arguments: dict[str, str], message: str
) -> None:
    async with connect(Shelf(), era) as client:
        with pytest.raises(MCPError, match=message) as caught:
            await client.get_prompt(name, arguments)
    assert caught.value.error.code == t.INVALID_PARAMS


@pytest.mark.parametrize("era", ERAS)
async def test_variables_and_arguments_are_completed(era: str) -> None:
    shelf = Shelf({f"n{number:03}": "" for number in range(150)})
    async with connect(shelf, era) as client:
        about = t.PromptReference(name="about")
        of_topic = await client.complete(about, {"name": "topic", "value": "ca"})
        of_tone = await client.complete(about, {"name": "tone", "value": ""})
        one = t.ResourceTemplateReference(uri="shelf://{name}")
        of_name = await client.complete(one, {"name": "name", "value": "n"})
        with pytest.raises(MCPError, match="no resource template is"):
            await client.complete(
                t.ResourceTemplateReference(uri="shelf://"), {"name": "name", "value": ""}
            )
    assert of_topic.completion.values == ["cats", "Cars"]
    assert of_tone.completion.values == []
    assert of_name.completion.values == [f"n{number:03}" for number in range(100)]
    assert (of_name.completion.total, of_name.completion.has_more) == (150, True)


@asynccontextmanager
async def watching(server: OfferingServer, shelf: Shelf) -> AsyncIterator[None]:
    """Watch resources while the first text changes all the time."""

    async def change() -> None:
        while True:
            shelf.texts["first"] += "."
            await anyio.sleep(0.001)

    async with anyio.create_task_group() as group:
        group.start_soon(server.announcements.watch, 0.001)
        group.start_soon(change)
        yield
        group.cancel_scope.cancel()


async def test_a_subscriber_of_the_handshake_era_is_told_until_it_unsubscribes() -> None:
    shelf, told = Shelf(), list[str]()
    heard = anyio.Event()

    async def hear(message: object) -> None:
        if isinstance(message, t.ResourceUpdatedNotification):
            told.append(message.params.uri)
            heard.set()

    async def hear_nothing(message: object) -> None:
        assert not isinstance(message, t.ResourceUpdatedNotification)

    server = build(shelf)
    with anyio.fail_after(5):
        async with (
            Client(server, mode="legacy", message_handler=hear) as client,
            Client(server, mode="legacy", message_handler=hear_nothing),
        ):
            assert client.server_capabilities is not None
            assert client.server_capabilities.resources is not None
            assert client.server_capabilities.resources.subscribe is True
            with pytest.raises(MCPError, match="no text is named 'lost'"):
                await client.subscribe_resource("shelf://lost")
            await client.subscribe_resource("shelf://first")
            await client.subscribe_resource("shelf://first")
            async with watching(server, shelf):
                await heard.wait()
            assert set(told) == {"shelf://first"}
            await client.unsubscribe_resource("shelf://first")
            told.clear()
            await server.announcements.resource_updated("shelf://first")
            await client.send_ping()
    assert told == []


async def test_a_stream_of_the_modern_era_is_told_of_what_can_be_read() -> None:
    shelf = Shelf()
    server = build(shelf)
    uris = ["shelf://first", "shelf://lost"]
    with anyio.fail_after(5):
        async with Client(server) as client, client.listen(resource_subscriptions=uris) as stream:
            assert stream.honored.resource_subscriptions == ["shelf://first"]
            async with watching(server, shelf):
                async for event in stream:
                    assert event == ResourceUpdated(uri="shelf://first")
                    break


async def test_nobody_may_subscribe_to_more_than_a_number_of_resources() -> None:
    names = [f"n{number}" for number in range(MAX_URIS_EACH + 1)]
    shelf = Shelf(dict.fromkeys(names, ""))
    uris = [f"shelf://{name}" for name in names]
    async with connect(shelf, "legacy") as client:
        for uri in uris[:-1]:
            await client.subscribe_resource(uri)
        with pytest.raises(MCPError, match="65 resources are subscribed to, at most 64 may be"):
            await client.subscribe_resource(uris[-1])
    async with connect(shelf, "2026-07-28") as client:
        with pytest.raises(MCPError, match="65 resources are subscribed to"):
            async with client.listen(resource_subscriptions=uris):
                pass


@pytest.mark.parametrize("era", ["legacy", "auto"])
async def test_icons_and_title_are_told(era: str) -> None:
    icons = Icons("data:image/svg+xml,s", {"work": "data:image/svg+xml,w"})
    server = build_server("s", RecordingToolset(["work", "rest"]), title="S", icons=icons)
    with anyio.fail_after(5):
        async with Client(server, mode=era) as client:
            listed = await client.list_tools()
            info = client.server_info
    assert info is not None
    assert info.title == "S"
    assert info.icons is not None
    assert listed.meta is None or "icons" not in str(listed.meta)
    assert [icon.src for icon in info.icons] == ["data:image/svg+xml,s"]
    assert [[icon.src for icon in tool.icons or ()] for tool in listed.tools] == [
        ["data:image/svg+xml,w"],
        [],
    ]


async def test_a_log_level_is_accepted_in_the_handshake_era() -> None:
    async with connect(Shelf(), "legacy") as client:
        request = t.SetLevelRequest(params=t.SetLevelRequestParams(level="info"))
        assert await client.session.send_request(request, t.EmptyResult) == t.EmptyResult()
