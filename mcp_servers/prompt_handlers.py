"""Offers prompts over MCP, and completes their arguments and those of resource templates.

What a prompt says is data and a function of who registers it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mcp_types as types
from mcp import MCPError
from mcp.server import Server, ServerRequestContext

from mcp_servers.announcements import PrincipalOf
from mcp_servers.resource_handlers import ResourceHandlers, page_of, to_contents
from tools.errors import ZondaError, suggest
from tools.mcp_client.wire import to_mcp_result
from tools.spec import Content, ToolResult

logger = logging.getLogger(__name__)

MAX_COMPLETIONS = 100
"""Values of one answer; the protocol's limit."""


@dataclass(frozen=True, slots=True)
class EmbeddedResource:
    """A resource whose content is part of a message."""

    uri: str
    mime_type: str
    content: str | bytes


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """One message that a prompt puts into a host's conversation."""

    role: Literal["user", "assistant"]
    content: Content | EmbeddedResource


@dataclass(frozen=True, slots=True)
class PromptArgument:
    """What a user gives a prompt; `values` are all that it may be, for completion."""

    name: str
    description: str
    is_required: bool = False
    values: Callable[[str], Iterable[str]] | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """Something that a user can pick in a host; `render` gets the arguments that were given."""

    name: str
    description: str
    render: Callable[[Mapping[str, str]], Awaitable[Sequence[PromptMessage]]]
    arguments: tuple[PromptArgument, ...] = ()
    title: str | None = None


ListPrompts = Callable[[], Awaitable[Sequence[Prompt]]]
"""Gives the prompts as they are now, in a stable order, their names all different."""


class PromptHandlers:
    """The request handlers over prompts that may change, and over completion."""

    def __init__(
        self, list_prompts: ListPrompts, resources: ResourceHandlers, principal_of: PrincipalOf
    ) -> None:
        self._list_prompts = list_prompts
        self._resources = resources
        self._principal_of = principal_of

    def attach(self, server: Server[Any]) -> None:
        """Serve prompts and completion."""
        server.add_request_handler("prompts/list", types.PaginatedRequestParams, self._list)
        server.add_request_handler("prompts/get", types.GetPromptRequestParams, self._get)
        server.add_request_handler(
            "completion/complete", types.CompleteRequestParams, self._complete
        )

    async def _list(
        self, context: ServerRequestContext, params: types.PaginatedRequestParams
    ) -> types.ListPromptsResult:
        prompts = [_to_mcp_prompt(prompt) for prompt in await self._list_prompts()]
        shown, cursor = page_of(prompts, params.cursor)
        return types.ListPromptsResult(prompts=shown, next_cursor=cursor)

    async def _get(
        self, context: ServerRequestContext, params: types.GetPromptRequestParams
    ) -> types.GetPromptResult:
        prompt = await self._find(params.name)
        given = params.arguments or {}
        known = [argument.name for argument in prompt.arguments]
        missing = [
            one.name for one in prompt.arguments if one.is_required and not given.get(one.name)
        ]
        if missing:
            problem = f"prompt {prompt.name!r} needs {', '.join(map(repr, missing))}"
            raise MCPError(types.INVALID_PARAMS, problem)
        for name in given:
            if name not in known:
                problem = f"prompt {prompt.name!r} has no argument {name!r}{suggest(name, known)}"
                raise MCPError(types.INVALID_PARAMS, problem)
        messages = [_to_mcp_message(message) for message in await _render(prompt, given)]
        return types.GetPromptResult(description=prompt.description, messages=messages)

    async def _complete(
        self, context: ServerRequestContext, params: types.CompleteRequestParams
    ) -> types.CompleteResult:
        principal = self._principal_of(context)
        if isinstance(params.ref, types.PromptReference):
            values = await self._values(params.ref.name, params.argument.name, principal)
        else:
            values = self._resources.values(params.ref.uri, params.argument.name, principal)
        begun = params.argument.value.casefold()
        found = [value for value in values if value.casefold().startswith(begun)]
        return types.CompleteResult(
            completion=types.Completion(
                values=found[:MAX_COMPLETIONS],
                total=len(found),
                has_more=len(found) > MAX_COMPLETIONS,
            )
        )

    async def _values(self, name: str, argument: str, principal: str) -> Iterable[str]:
        for one in (await self._find(name)).arguments:
            if one.name == argument:
                return () if one.values is None else one.values(principal)
        return ()

    async def _find(self, name: str) -> Prompt:
        prompts = await self._list_prompts()
        for prompt in prompts:
            if prompt.name == name:
                return prompt
        message = f"no prompt is named {name!r}{suggest(name, [one.name for one in prompts])}"
        raise MCPError(types.INVALID_PARAMS, message)


async def _render(prompt: Prompt, arguments: Mapping[str, str]) -> Sequence[PromptMessage]:
    """Render a prompt; the one place where its failures become what a client sees."""
    try:
        return await prompt.render(arguments)
    except ZondaError as exc:
        raise MCPError(types.INVALID_PARAMS, str(exc)) from exc
    except Exception as exc:
        logger.exception("prompt=%s failed", prompt.name)
        message = f"prompt {prompt.name!r} failed inside the server; see its log"
        raise MCPError(types.INTERNAL_ERROR, message) from exc


def _to_mcp_prompt(prompt: Prompt) -> types.Prompt:
    return types.Prompt(
        name=prompt.name,
        title=prompt.title,
        description=prompt.description,
        arguments=[
            types.PromptArgument(
                name=argument.name,
                description=argument.description,
                required=argument.is_required,
            )
            for argument in prompt.arguments
        ],
    )


def _to_mcp_message(message: PromptMessage) -> types.PromptMessage:
    content = message.content
    if isinstance(content, EmbeddedResource):
        resource = to_contents(content.uri, content.mime_type, content.content)
        block: types.ContentBlock = types.EmbeddedResource(resource=resource)
    else:
        (block,) = to_mcp_result(ToolResult((content,))).content
    return types.PromptMessage(role=message.role, content=block)
