"""Resources and prompts of tool servers in what a person writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from mcp_servers.cli.mentions import MAX_RESOURCE_CHARS, expand, prompt_arguments
from runtime.chat.messages import Message
from tools.errors import InvalidRequestError
from tools.resources import Prompt, PromptArgument, PromptMessage
from tools.spec import Content, MediaContent, TextContent
from tools.toolset import CallContext

pytestmark = pytest.mark.anyio
CONTEXT = CallContext()
GREET = Prompt("greet", arguments=(PromptArgument("whom", is_required=True), PromptArgument("how")))
SERVERS = {"notes", "my-db"}
RESOURCES: Mapping[str, Sequence[Content]] = {
    "note://1": [TextContent("hello"), MediaContent("image", b"x", "image/png")],
    "db://t?a=1": [TextContent("rows")],
    "long://": [TextContent("x" * (MAX_RESOURCE_CHARS + 1))],
}


class Scripted:
    """Every server's resources and prompts."""

    async def read_resource(self, server: str, uri: str, context: CallContext) -> Sequence[Content]:
        return RESOURCES[uri]

    async def list_prompts(self, server: str, context: CallContext) -> Sequence[Prompt]:
        return [GREET]

    async def get_prompt(
        self, server: str, name: str, arguments: Mapping[str, str], context: CallContext
    ) -> Sequence[PromptMessage]:
        text = f"{server} {name} {dict(arguments)}"
        return [
            PromptMessage("user", TextContent(text)),
            PromptMessage("assistant", TextContent("!")),
        ]


async def expanded(text: str) -> list[Message]:
    return await expand(text, Scripted(), SERVERS, CONTEXT)


async def test_a_mention_brings_what_the_resource_holds() -> None:
    text = "Sum up @notes:note://1, then (@my-db:db://t?a=1). And @notes:note://1!"
    [message] = await expanded(text)
    assert message == Message(
        "user",
        f"{text}\n\n"
        "Content of note://1 from the tool server notes:\nhello\n"
        "[image image/png, 1 bytes, not shown]\n\n"
        "Content of db://t?a=1 from the tool server my-db:\nrows",
    )


@pytest.mark.parametrize(
    "text",
    [
        "me@notes:8080 and a@b:c",
        "@other:note://1",
        "@notes: hi",
        "/etc:x y",
        "see /notes:greet",
        "@",
    ],
)
async def test_what_names_no_server_stays_as_it_is(text: str) -> None:
    assert await expanded(text) == [Message("user", text)]


async def test_a_long_resource_is_cut() -> None:
    [message] = await expanded("@notes:long://")
    assert len(message.content) < MAX_RESOURCE_CHARS + 300
    assert "characters are not shown" in message.content


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("/notes:greet Ann", {"whom": "Ann"}),
        ('/notes:greet how="very well" Ann', {"how": "very well", "whom": "Ann"}),
        ("/notes:greet whom=Ann warmly and long", {"whom": "Ann", "how": "warmly and long"}),
        (" /notes:greet x=1 ", {"whom": "x=1"}),
        ("/notes:greet whom=O'Hara", {"whom": "O'Hara"}),
    ],
)
async def test_a_prompt_is_made_by_its_server(line: str, arguments: Mapping[str, str]) -> None:
    assert await expanded(line) == [
        Message("user", f"notes greet {arguments}"),
        Message("assistant", "!"),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("/notes:greed Ann", "notes has no prompt 'greed'; did you mean 'greet'?"),
        ("/notes:greet", "the prompt 'greet' needs whom=…"),
        ("/notes:greet a b c", "the prompt 'greet' takes whom, how; ['a', 'b', 'c'] is too much"),
    ],
)
async def test_a_prompt_that_cannot_be_made_says_what_it_needs(line: str, problem: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        await expanded(line)
    assert str(raised.value) == problem


def test_a_prompt_without_arguments_takes_none() -> None:
    assert prompt_arguments(Prompt("p"), []) == {}
    with pytest.raises(InvalidRequestError, match="takes nothing"):
        prompt_arguments(Prompt("p"), ["x"])
