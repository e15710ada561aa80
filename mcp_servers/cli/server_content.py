"""`zonda mcp resources` and `prompts`: what MCP servers have beside tools, by hand."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from mcp_servers.cli.options import ConfigFile
from mcp_servers.cli.tools import AsJson, McpConfig
from runtime.config import load_config
from runtime.telemetry import configure_logging

if TYPE_CHECKING:
    from pathlib import Path

    from tools.mcp_client.toolset import McpToolset
    from tools.resources import Prompt, PromptMessage, Resource
    from tools.spec import Content
    from tools.toolset import CallContext

T = TypeVar("T")
Ask = Callable[["McpToolset", "CallContext"], Awaitable[T]]
Server = Annotated[str, typer.Argument(help="The server's name.")]


def resources(
    server: Server,
    uri: Annotated[str | None, typer.Argument(help="What to read; lists all without it.")] = None,
    *,
    mcp_config: McpConfig = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List what a server has to read, or read one of it."""
    configure_logging()
    if uri is None:
        listed = _ask(server, mcp_config, config_file, partial(_list_resources, server))
        _print([asdict(one) for one in listed], map(_resource_line, listed), as_json=as_json)
        return
    parts = _ask(server, mcp_config, config_file, partial(_read, server, uri))
    _print([_content(part) for part in parts], (part.as_text for part in parts), as_json=as_json)


def prompts(
    server: Server,
    name: Annotated[str | None, typer.Argument(help="Which one; lists all without it.")] = None,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]…", help="What it is made with.")
    ] = None,
    *,
    mcp_config: McpConfig = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List a server's prompts, or let it make one."""
    configure_logging()
    if name is None:
        listed = _ask(server, mcp_config, config_file, partial(_list_prompts, server))
        _print([asdict(one) for one in listed], map(_prompt_line, listed), as_json=as_json)
        return
    get = partial(_get_prompt, server, name, arguments or [])
    said = _ask(server, mcp_config, config_file, get)
    told = [{"role": one.role, "content": _content(one.content)} for one in said]
    _print(told, (f"{one.role}: {one.content.as_text}" for one in said), as_json=as_json)


def _ask(
    server: str, mcp_config: Path | None, config_file: Path | None, ask: Ask[Sequence[T]]
) -> Sequence[T]:
    """Start one server and ask it something.

    Raises:
        ConfigurationError: none has that name.
        ToolServerError: it cannot be used, or refuses.
    """
    import anyio

    from mcp_servers.cli.asking import terminal_asker
    from mcp_servers.cli.console import open_console
    from mcp_servers.cli.tool_servers import find_server, open_pins, open_tokens
    from tools.mcp_client.toolset import open_toolset
    from tools.toolset import CallContext

    config = find_server(server, mcp_config)
    settings = load_config(config_file=config_file)
    pins, tokens = open_pins(settings), open_tokens(settings)

    async def run() -> Sequence[T]:
        context = CallContext(ask=terminal_asker(open_console(stderr=True)))
        async with open_toolset({server: config}, pins=pins, tokens=tokens) as toolset:
            return await ask(toolset, context)

    return anyio.run(run)


async def _list_resources(
    server: str, toolset: McpToolset, context: CallContext
) -> Sequence[Resource]:
    return await toolset.list_resources(server, context)


async def _read(
    server: str, uri: str, toolset: McpToolset, context: CallContext
) -> Sequence[Content]:
    return await toolset.read_resource(server, uri, context)


async def _list_prompts(server: str, toolset: McpToolset, context: CallContext) -> Sequence[Prompt]:
    return await toolset.list_prompts(server, context)


async def _get_prompt(
    server: str, name: str, words: Sequence[str], toolset: McpToolset, context: CallContext
) -> Sequence[PromptMessage]:
    from mcp_servers.cli.mentions import get_prompt

    return await get_prompt(toolset, server, name, words, context)


def _print(value: Any, lines: Any, *, as_json: bool) -> None:
    from mcp_servers.cli.console import open_console, plain

    if as_json:
        typer.echo(json.dumps(value))
        return
    is_terminal = open_console().is_terminal
    for line in lines:
        typer.echo(plain(line) if is_terminal else line)


def _content(part: Content) -> Any:
    from tools.mcp_client.wire import to_mcp_content

    return to_mcp_content(part).model_dump(by_alias=True, exclude_none=True, mode="json")


def _resource_line(one: Resource) -> str:
    told = " ".join(one.description.split())
    kind = f" ({one.mime_type})" if one.mime_type else ""
    return f"{one.uri}{kind}: {one.name}" + (f", {told}" if told else "")


def _prompt_line(one: Prompt) -> str:
    takes = " ".join(
        f"{argument.name}=…" if argument.is_required else f"[{argument.name}=…]"
        for argument in one.arguments
    )
    return f"{one.name} {takes}".rstrip() + f": {' '.join(one.description.split()) or '-'}"
