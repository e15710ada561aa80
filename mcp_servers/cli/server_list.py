"""`zonda mcp add`, `list`, `test`, `remove`, `approve`: Zonda's own list of MCP servers.

The list is a file as MCP hosts have it (`mcpServers`), beside zonda.toml. An edit keeps the rest
of the file as it is, comments included; nobody else may read it, for it may hold secrets.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcp_servers.cli.options import ConfigFile
from runtime.config import load_config, process_environment, servers_file
from runtime.telemetry import configure_logging
from tools.errors import ConfigurationError, suggest

if TYPE_CHECKING:
    from tools.mcp_client.config import ServerConfig
    from tools.mcp_client.pins import DefinitionChange, Pins
    from tools.mcp_client.server import ServerState
    from tools.mcp_client.token_store import TokenStore

SECTION = "mcpServers"

Name = Annotated[str, typer.Argument(help="The server's name in the list.")]
McpConfig = Annotated[Path | None, typer.Option(help="A file of more MCP servers.")]


def add_server(
    name: Name,
    target: Annotated[
        list[str],
        typer.Argument(metavar="URL | -- COMMAND [ARGS]…", help="Where it is, or what starts it."),
    ],
    *,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable of the command's.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A header of each request.")
    ] = None,
    cwd: Annotated[Path | None, typer.Option(help="The command's working folder.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a server of that name.")] = False,
) -> None:
    """Add an MCP server to the list; `zonda mcp test` then starts it once."""
    _keep_quiet()
    from tools.mcp_client.config import parse_servers
    from tools.mcp_client.jsonc import set_member

    path = _path()
    before = _read(path)
    if not force and name in _entries(before, path):
        raise ConfigurationError(f"{name!r} is in {path} already; --force replaces it")
    entry = _entry(target, env or [], header or [], cwd)
    after = _edited(path, set_member, before, SECTION, name, entry)
    found = parse_servers(after, path, process_environment())[name]
    _write(path, after)
    typer.echo(f"{name} was put into {path}.")
    if found.problem is not None:
        typer.echo(f"It cannot be used as it stands: {found.problem}", err=True)
    else:
        typer.echo(f"Now: zonda mcp test {name}")


def list_servers(
    *,
    mcp_config: McpConfig = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the MCP servers whose tools models may use; starts none of them."""
    _keep_quiet()
    from mcp_servers.cli.tool_servers import find_servers

    servers = find_servers(mcp_config)
    if as_json:
        told = {
            name: {"target": _target(one), "state": _state(one)} for name, one in servers.items()
        }
        typer.echo(json.dumps({"file": str(_path()), "servers": told}))
        return
    if not servers:
        typer.echo(f"No MCP servers; `zonda mcp add` puts them into {_path()}.")
    width = max(map(len, servers), default=0)
    for name, server in servers.items():
        state = "" if _state(server) == "ok" else f"  ({_state(server)})"
        typer.echo(f"{name:<{width}}  {_target(server)}{state}")


def try_server(name: Name, *, mcp_config: McpConfig = None, config_file: ConfigFile = None) -> None:
    """Start an MCP server once and say what it offers; status 1 if it cannot be used."""
    configure_logging()
    import anyio

    from mcp_servers.cli.tool_servers import find_server, open_pins, open_tokens
    from tools.mcp_client.pins import why_held

    server = find_server(name, mcp_config)
    config = load_config(config_file=config_file)
    state, tools = anyio.run(_try, server, open_pins(config), open_tokens(config))
    if state.status != "ready":
        typer.echo(f"{name} {state.reason or 'is ' + state.status}")
        raise typer.Exit(1)
    typer.echo(f"{name} is ready: {len(tools)} tools, protocol {state.protocol_version}")
    for tool in tools:
        typer.echo(f"  {tool}")
    if state.held_tools:
        typer.echo(f"But {why_held(name, state.held_tools)}.")
        raise typer.Exit(1)


def remove_server(name: Name, *, config_file: ConfigFile = None) -> None:
    """Take an MCP server out of the list; forget the definitions of its tools and its login."""
    from mcp_servers.cli.tool_servers import find_servers, open_pins, open_store, open_tokens
    from tools.mcp_client.config import parse_servers
    from tools.mcp_client.jsonc import remove_member

    path = _path()
    before = _read(path)
    entries = _entries(before, path)
    if name not in entries:
        raise ConfigurationError(f"no server is named {name!r} in {path}{suggest(name, entries)}")
    _write(path, _edited(path, remove_member, before, SECTION, name))
    config = load_config(config_file=config_file)
    open_pins(config).forget(name)
    open_store(config).forget(name)
    url = parse_servers(before, path, process_environment())[name].url
    if url and url not in {server.url for server in find_servers(None).values()}:
        open_tokens(config).forget(url)
    typer.echo(f"{name} was taken out of {path}.")


def approve_server(
    name: Name,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config_file: ConfigFile = None,
) -> None:
    """Show which tools of a server changed their definition, and let them be used again."""
    from mcp_servers.cli.tool_servers import open_pins

    pins = open_pins(load_config(config_file=config_file))
    changes = pins.changes(name)
    if not changes:
        typer.echo(f"No definition of a tool of {name} has changed since it was approved.")
        return
    for change in changes:
        typer.echo(_difference(change))
    if not yes and not typer.confirm(f"Approve {len(changes)} definitions of {name}?"):
        raise typer.Exit(1)
    pins.approve(name)
    typer.echo(f"Approved: {', '.join(change.tool for change in changes)}.")


def _keep_quiet() -> None:
    """What is wrong with an entry is told by the command itself."""
    configure_logging(level=logging.CRITICAL, stderr_level=logging.CRITICAL)


def _path() -> Path:
    return Path(os.path.realpath(servers_file()))  # a linked file stays linked


def _entry(
    target: Sequence[str], env: Sequence[str], headers: Sequence[str], cwd: Path | None
) -> dict[str, Any]:
    """Return an entry of the file, as MCP hosts have them."""
    if len(target) == 1 and target[0].startswith(("http://", "https://")):
        if env or cwd is not None:
            raise ConfigurationError("--env and --cwd are for a command; a URL takes --header")
        kept = {"headers": _pairs(headers, "--header")} if headers else {}
        return {"type": "http", "url": target[0], **kept}
    if headers:
        raise ConfigurationError("--header is for a URL; a command takes --env")
    entry: dict[str, Any] = {"command": target[0], "args": list(target[1:])}
    if env:
        entry["env"] = _pairs(env, "--env")
    if cwd is not None:
        entry["cwd"] = str(cwd.expanduser().absolute())
    return entry


def _pairs(given: Sequence[str], option: str) -> dict[str, str]:
    pairs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ConfigurationError(f"{option} takes NAME=VALUE, not {name!r}")
        pairs[name] = value
    return pairs


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except OSError as exc:
        raise ConfigurationError(f"cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path}: not UTF-8 at byte {exc.start}") from exc


def _entries(text: str, path: Path) -> dict[str, Any]:
    from tools.mcp_client.jsonc import parse_jsonc

    if not text.strip("\ufeff \t\r\n"):
        return {}
    try:
        document = parse_jsonc(text)
    except ConfigurationError as exc:
        raise ConfigurationError(f"{path}, {exc}") from exc
    entries = document.get(SECTION) if isinstance(document, dict) else None
    return entries if isinstance(entries, dict) else {}


def _edited(path: Path, edit: Any, *arguments: Any) -> str:
    try:
        text: str = edit(*arguments)
    except ConfigurationError as exc:
        raise ConfigurationError(f"{path}, {exc}; nothing was changed") from exc
    return text


def _write(path: Path, text: str) -> None:
    """Replace the file at once; only its owner may read it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as draft:
            draft.write(text.encode("utf-8"))  # made with mode 0600
        try:
            Path(draft.name).replace(path)
        finally:
            Path(draft.name).unlink(missing_ok=True)
    except OSError as exc:
        raise ConfigurationError(f"cannot write {path}: {exc.strerror}") from exc


def _target(server: ServerConfig) -> str:
    """Say what a server is, without what may be secret: variables, headers, query."""
    if server.url:
        return server.url.partition("?")[0]
    return " ".join([server.command, *server.args])


def _state(server: ServerConfig) -> str:
    if server.problem is not None:
        return f"cannot be used: {server.problem}"
    return "ok" if server.is_enabled else "disabled"


async def _try(
    server: ServerConfig, pins: Pins, tokens: TokenStore
) -> tuple[ServerState, list[str]]:
    from tools.mcp_client.toolset import open_toolset

    async with open_toolset({server.name: server}, pins=pins, tokens=tokens) as toolset:
        state = await toolset.wait_for(server.name, "ready", "failed", "disabled")
        return state, [tool.name for tool in await toolset.list_tools()]


def _difference(change: DefinitionChange) -> str:
    """Show a change line by line; JSON spells out what a terminal would obey."""
    before, after = (
        [] if value is None else json.dumps(value, indent=2).splitlines()
        for value in (change.before, change.after)
    )
    told = (f"{change.server}: {change.tool}, as approved", f"{change.tool}, as it is now")
    return "\n".join(difflib.unified_diff(before, after, *told, lineterm=""))
