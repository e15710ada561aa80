"""`zonda tools list` and `call`: the tools of MCP servers, by hand."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcp_servers.cli.options import ConfigFile, PolicyFile
from runtime.config import load_config
from runtime.telemetry import configure_logging
from tools.errors import ConfigurationError, InvalidArgumentsError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from runtime.agent.policy import Verdict
    from runtime.config import Config
    from tools.mcp_client.config import ServerConfig
    from tools.mcp_client.pins import Pins
    from tools.mcp_client.server import ServerState
    from tools.mcp_client.token_store import TokenStore
    from tools.spec import JsonObject, ToolResult, ToolSpec

McpConfig = Annotated[Path | None, typer.Option(help="A file of more MCP servers.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def tools(ctx: typer.Context) -> None:
    """List and call the tools of the MCP servers that `zonda mcp list` shows."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def list_tools(
    server: Annotated[str | None, typer.Argument(help="Only this server's tools.")] = None,
    *,
    mcp_config: McpConfig = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List the tools of all servers; status 1 if a server cannot be used."""
    configure_logging()
    import anyio

    from mcp_servers.cli.tool_servers import find_server, find_servers, open_pins, open_tokens
    from tools.mcp_client.pins import why_held

    settings = load_config(config_file=config_file)
    chosen = find_servers(mcp_config)
    if server is not None:
        chosen = {server: find_server(server, mcp_config)}
    states, specs = anyio.run(_list, chosen, open_pins(settings), open_tokens(settings))
    if as_json:
        typer.echo(json.dumps({"tools": [_definition(spec) for spec in specs]}))
    else:
        for spec in specs:
            typer.echo(f"{spec.name}: {' '.join(spec.description.split()) or '-'}")
    for name, state in states.items():
        if state.status != "ready":
            typer.echo(f"{name} {state.reason or 'is ' + state.status}", err=True)
        elif state.held_tools:
            typer.echo(f"{name}: {why_held(name, state.held_tools)}", err=True)
    if any(state.status == "failed" for state in states.values()):
        raise typer.Exit(1)


def call_tool(
    server: Annotated[str, typer.Argument(help="The server's name.")],
    tool: Annotated[str, typer.Argument(help="The tool's name on its server.")],
    arguments: Annotated[
        str, typer.Argument(metavar="JSON", help='Its arguments; "-" reads standard input.')
    ] = "{}",
    *,
    mcp_config: McpConfig = None,
    policy: PolicyFile = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Call a tool and print its result; status 1 if that is an error, 2 for wrong arguments."""
    configure_logging()
    import anyio

    from mcp_servers.cli.console import open_console, plain
    from mcp_servers.cli.tool_servers import find_server, find_servers
    from tools.mcp_client.wire import to_mcp_result

    find_server(server, mcp_config)  # says which are known
    value = _parse(sys.stdin.read() if arguments == "-" else arguments)
    config = load_config(config_file=config_file, policy_file=policy)
    result = anyio.run(_call, server, find_servers(mcp_config), tool, value, config)
    if as_json:
        typer.echo(to_mcp_result(result).model_dump_json(by_alias=True, exclude_none=True))
    elif result.text:
        is_shown = open_console(stderr=result.is_error).is_terminal
        typer.echo(plain(result.text) if is_shown else result.text, err=result.is_error)
    if result.is_error:
        raise typer.Exit(1)


SUBCOMMANDS = {"list": list_tools, "call": call_tool}


def _parse(text: str) -> JsonObject:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidRequestError(f"the arguments are no JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise InvalidRequestError(
            f"the arguments have to be a JSON object, not {type(value).__name__}"
        )
    return value


def _definition(spec: ToolSpec) -> JsonObject:
    from tools.mcp_client.wire import to_mcp_tool

    told = to_mcp_tool(spec).model_dump(by_alias=True, exclude_none=True, mode="json")
    return {"server": spec.server, **told}


async def _list(
    servers: Mapping[str, ServerConfig], pins: Pins, tokens: TokenStore
) -> tuple[Mapping[str, ServerState], list[ToolSpec]]:
    from tools.mcp_client.toolset import open_toolset

    async with open_toolset(servers, pins=pins, tokens=tokens) as toolset:
        for name in servers:  # each has its own time to start
            await toolset.wait_for(name, "ready", "failed", "disabled")
        return toolset.states(), list(await toolset.list_tools())


async def _call(
    server: str,
    servers: Mapping[str, ServerConfig],
    tool: str,
    arguments: JsonObject,
    config: Config,
) -> ToolResult:
    """Call a server's tool by its own name or the one under which it is offered.

    Raises:
        UnknownToolError: the server has no such tool.
        InvalidArgumentsError: the arguments do not match its schema; nothing was called.
        ConfigurationError: the operator's rules deny the call.
    """
    from mcp_servers.cli.asking import terminal_asker
    from mcp_servers.cli.console import open_console
    from mcp_servers.cli.tool_servers import load_rules, open_pins, open_tokens
    from tools.mcp_client.names import exposed_name
    from tools.mcp_client.toolset import open_toolset
    from tools.toolset import CallContext

    policy = load_rules(config, servers)
    chosen, pins, tokens = {server: servers[server]}, open_pins(config), open_tokens(config)
    async with open_toolset(chosen, pins=pins, tokens=tokens) as toolset:
        await toolset.wait_for(server, "ready", "failed", "disabled")
        known = {spec.name: spec for spec in await toolset.list_tools()}
        name = tool if tool in known else exposed_name(server, tool)
        context = CallContext(_tell_progress, ask=terminal_asker(open_console(stderr=True)))
        call = partial(toolset.call_tool, name, arguments, context)
        if (spec := known.get(name)) is None:
            return await call()
        return await _call_checked(spec, arguments, policy.decide(spec, arguments), config, call)


async def _call_checked(
    spec: ToolSpec,
    arguments: JsonObject,
    verdict: Verdict,
    config: Config,
    call: Callable[[], Awaitable[ToolResult]],
) -> ToolResult:
    """Call a tool that policy allows, or asks about: whoever types the call has decided."""
    from mcp_servers.cli.tool_servers import open_audit
    from runtime.agent.audit import CallRecord
    from runtime.agent.policy import denial
    from tools.validation import first_problem

    decision, reason = verdict.decision, verdict.reason
    record = CallRecord(
        *(spec.name, spec.server, arguments, decision, reason, None, 0.0, "denied", None)
    )
    began = time.monotonic()
    try:
        if decision == "deny":
            raise ConfigurationError(denial(spec, verdict))
        if (problem := first_problem(spec.input_schema, arguments)) is not None:
            record = replace(record, outcome="refused", reason="wrong arguments")
            raise InvalidArgumentsError(f"wrong arguments for {spec.name}: {problem}")
        record = replace(record, approved_by="user", outcome="unknown")
        result = await call()
        record = replace(record, result=result, outcome="error" if result.is_error else "ok")
        return result
    finally:
        if (audit := open_audit(config)) is not None:
            audit.write("zonda tools call", "", replace(record, seconds=time.monotonic() - began))


async def _tell_progress(done: float, total: float | None, message: str | None) -> None:
    if sys.stderr.isatty():
        of = "" if total is None else f" of {total:g}"
        typer.echo(f"[{done:g}{of}] {message or ''}".rstrip(), err=True)
