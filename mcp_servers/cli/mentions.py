"""What a person writes of tool servers in a prompt: `@server:uri` and `/server:prompt name=value`.

A mention adds what the resource holds to the message; a line that begins with a prompt becomes
the messages that the server makes of it. What names no server stays as it is.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from runtime.agent.limits import clip
from runtime.chat.messages import Message
from tools.errors import InvalidRequestError, suggest
from tools.resources import Prompt, PromptMessage
from tools.spec import Content
from tools.toolset import CallContext

MAX_RESOURCE_CHARS = 16_384
"""Longest text of a resource that a message gets; of a longer one head and tail."""

_MENTION = re.compile(r"(?<![\w@.])@([\w.-]+):([^\s]+)")
_COMMAND = re.compile(r"/([^\s:/]+):(\S+)(?:\s+(.*))?", re.DOTALL)
_END = ".,;:!?)\"'"


class ServerContent(Protocol):
    """What is asked of tool servers; `McpToolset` is one."""

    async def read_resource(
        self, server: str, uri: str, context: CallContext
    ) -> Sequence[Content]: ...

    async def list_prompts(self, server: str, context: CallContext) -> Sequence[Prompt]: ...

    async def get_prompt(
        self, server: str, name: str, arguments: Mapping[str, str], context: CallContext
    ) -> Sequence[PromptMessage]: ...


async def expand(
    text: str, content: ServerContent, servers: Collection[str], context: CallContext
) -> list[Message]:
    """Return the messages that a text stands for; most are one message of the user's.

    Raises:
        InvalidRequestError: a server has no such prompt, or it needs other arguments.
        ToolServerError: a server cannot be asked, or refuses.
    """
    command = _COMMAND.fullmatch(text.strip())
    if command is not None and command[1] in servers:
        words = _split(command[3] or "")
        said = await get_prompt(content, command[1], command[2], words, context)
        return [Message(one.role, one.content.as_text) for one in said]
    told = [text]
    for server, uri in _mentions(text, servers):
        parts = await content.read_resource(server, uri, context)
        body = clip("\n".join(part.as_text for part in parts), MAX_RESOURCE_CHARS)
        told.append(f"Content of {uri} from the tool server {server}:\n{body}")
    return [Message("user", "\n\n".join(told))]


def _mentions(text: str, servers: Collection[str]) -> list[tuple[str, str]]:
    """Return what is mentioned, once each; a sentence's end is no part of a URI."""
    found = [(match[1], match[2].rstrip(_END)) for match in _MENTION.finditer(text)]
    return [(server, uri) for server, uri in dict.fromkeys(found) if server in servers and uri]


async def get_prompt(
    content: ServerContent, server: str, name: str, words: Sequence[str], context: CallContext
) -> Sequence[PromptMessage]:
    """Let a server make a prompt with the arguments that words give.

    Raises:
        InvalidRequestError: it has no such prompt, or that needs other arguments.
        ToolServerError: it cannot be asked, or refuses.
    """
    known = {prompt.name: prompt for prompt in await content.list_prompts(server, context)}
    if name not in known:
        raise InvalidRequestError(f"{server} has no prompt {name!r}{suggest(name, known)}")
    arguments = prompt_arguments(known[name], words)
    return await content.get_prompt(server, name, arguments, context)


def prompt_arguments(prompt: Prompt, words: Sequence[str]) -> dict[str, str]:
    """Return the arguments that words give: `name=value`, or values in the prompt's order.

    Raises:
        InvalidRequestError: there are too many, or one that is required is missing.
    """
    names = [argument.name for argument in prompt.arguments]
    given: dict[str, str] = {}
    plain: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in names:
            given[name] = value
        else:
            plain.append(word)
    free = [name for name in names if name not in given]
    if len(plain) > len(free) == 1:  # one text, and nobody quotes in a conversation
        plain = [" ".join(plain)]
    if len(plain) > len(free):
        takes = ", ".join(names) or "nothing"
        raise InvalidRequestError(f"the prompt {prompt.name!r} takes {takes}; {plain} is too much")
    given |= dict(zip(free, plain, strict=False))
    missing = [one.name for one in prompt.arguments if one.is_required and one.name not in given]
    if missing:
        wanted = " ".join(f"{name}=…" for name in missing)
        raise InvalidRequestError(f"the prompt {prompt.name!r} needs {wanted}")
    return given


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # an apostrophe is no quotation mark
        return text.split()
