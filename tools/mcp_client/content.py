"""Asks a tool server for results, resources and prompts, and takes what it says with care."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import mcp_types as types
from mcp import MCPError

from tools.mcp_client.exchange import Exchange, Replies
from tools.mcp_client.wire import clean_text, from_mcp_content, from_mcp_resource, from_mcp_result
from tools.resources import Prompt, PromptArgument, PromptMessage, Resource
from tools.spec import Content, JsonObject, ToolResult

MAX_PAGES = 100
MAX_LISTED = 2000
"""Most resources, templates or prompts that are taken of one server."""

_MAX_DESCRIPTION_CHARACTERS = 2048
_MAX_NAME_CHARACTERS = 512

P = TypeVar(
    "P", types.ListResourcesResult, types.ListResourceTemplatesResult, types.ListPromptsResult
)


async def call_tool(exchange: Exchange, own_name: str, arguments: JsonObject) -> ToolResult:
    """Call a tool by the server's own name for it.

    Raises:
        MCPError: it refused, or the connection was lost.
        ValidationError, RuntimeError: its answer is no result.
    """

    async def send(
        replies: Replies, state: str | None
    ) -> types.CallToolResult | types.InputRequiredResult:
        result = await exchange.client.session.call_tool(
            own_name,
            arguments,
            progress_callback=exchange.on_progress,
            input_responses=replies,
            request_state=state,
            allow_input_required=True,
        )
        assert isinstance(result, types.CallToolResult | types.InputRequiredResult)
        return result

    return from_mcp_result(await exchange.settle(send))


async def list_resources(exchange: Exchange) -> Sequence[Resource]:
    """Return a server's resources, then its templates; none where it has no such thing.

    Raises:
        MCPError: it refused, or the connection was lost.
    """
    if exchange.client.server_capabilities.resources is None:
        return []
    client = exchange.client
    found = [
        Resource(
            uri=str(one.uri),
            name=_name(one.name),
            description=_description(one.description),
            mime_type=one.mime_type,
            size=one.size,
        )
        for page in await _pages(partial(client.list_resources, cache_mode="refresh"))
        for one in page.resources
    ]
    templates = [
        Resource(
            uri=one.uri_template,
            name=_name(one.name),
            description=_description(one.description),
            mime_type=one.mime_type,
            is_template=True,
        )
        for page in await _pages(partial(client.list_resource_templates, cache_mode="refresh"))
        for one in page.resource_templates
    ]
    return [*found[:MAX_LISTED], *templates[:MAX_LISTED]]


async def read_resource(exchange: Exchange, uri: str) -> Sequence[Content]:
    """Read what is at `uri` now.

    Raises:
        MCPError: it refused, or the connection was lost.
    """

    async def send(
        replies: Replies, state: str | None
    ) -> types.ReadResourceResult | types.InputRequiredResult:
        return await exchange.client.session.read_resource(
            uri, input_responses=replies, request_state=state, allow_input_required=True
        )

    result = await exchange.settle(send)
    return [from_mcp_resource(part) for part in result.contents]


async def list_prompts(exchange: Exchange) -> Sequence[Prompt]:
    """Return a server's prompts; none where it has no such thing.

    Raises:
        MCPError: it refused, or the connection was lost.
    """
    if exchange.client.server_capabilities.prompts is None:
        return []
    pages = await _pages(partial(exchange.client.list_prompts, cache_mode="refresh"))
    found = [_prompt(one) for page in pages for one in page.prompts]
    return found[:MAX_LISTED]


async def get_prompt(
    exchange: Exchange, name: str, arguments: Mapping[str, str]
) -> Sequence[PromptMessage]:
    """Let a server make the messages of a prompt.

    Raises:
        MCPError: it refused, or the connection was lost.
    """

    async def send(
        replies: Replies, state: str | None
    ) -> types.GetPromptResult | types.InputRequiredResult:
        return await exchange.client.session.get_prompt(
            name,
            dict(arguments),
            input_responses=replies,
            request_state=state,
            allow_input_required=True,
        )

    result = await exchange.settle(send)
    return [PromptMessage(one.role, from_mcp_content(one.content)) for one in result.messages]


async def _pages(ask: Callable[..., Awaitable[P]]) -> list[P]:
    """Return all pages of a list; none of one that the server does not have after all."""
    pages: list[P] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        try:
            page = await ask(cursor=cursor)
        except MCPError as exc:
            if exc.error.code == types.METHOD_NOT_FOUND:
                break
            raise
        pages.append(page)
        cursor = page.next_cursor
        if not cursor:
            break
    return pages


def _prompt(one: types.Prompt) -> Prompt:
    arguments: Sequence[Any] = one.arguments or ()
    return Prompt(
        name=one.name,
        description=_description(one.description),
        arguments=tuple(
            PromptArgument(each.name, _description(each.description), bool(each.required))
            for each in arguments
        ),
    )


def _name(text: str) -> str:
    return clean_text(text, _MAX_NAME_CHARACTERS)


def _description(text: str | None) -> str:
    return clean_text(text or "", _MAX_DESCRIPTION_CHARACTERS)
