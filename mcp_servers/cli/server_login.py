"""`zonda mcp login`, `logout`: a person's login at an MCP server that asks for one."""

from __future__ import annotations

import logging
import subprocess
import sys
import webbrowser
from functools import partial
from typing import Annotated
from urllib.parse import urlsplit

import typer

from mcp_servers.cli.options import ConfigFile
from mcp_servers.cli.server_list import McpConfig, Name
from runtime.config import load_config
from runtime.telemetry import configure_logging
from tools.errors import ToolServerError


def log_in_to_server(
    name: Name,
    *,
    browser: Annotated[
        bool, typer.Option(help="Open the login in a browser, besides showing where it is.")
    ] = True,
    mcp_config: McpConfig = None,
    config_file: ConfigFile = None,
) -> None:
    """Log in at an MCP server in a browser; what comes of it is kept in the state folder."""
    configure_logging(level=logging.CRITICAL, stderr_level=logging.CRITICAL)
    import anyio

    from mcp_servers.cli.tool_servers import find_server, open_tokens
    from tools.mcp_client.login import log_in

    server = find_server(name, mcp_config)
    store = open_tokens(load_config(config_file=config_file))
    grant = anyio.run(log_in, server, store, partial(_show, is_opened=browser))
    typer.echo(f"Logged in at {name} through {grant.issuer}.")
    scope = None if grant.tokens is None else grant.tokens.scope
    if scope:
        typer.echo(f"Granted: {scope}")


def log_out_of_server(
    name: Name, *, mcp_config: McpConfig = None, config_file: ConfigFile = None
) -> None:
    """Give back what a login at an MCP server has got, and forget it."""
    configure_logging(level=logging.WARNING, stderr_level=logging.WARNING)
    import anyio

    from mcp_servers.cli.tool_servers import find_server, open_tokens
    from tools.mcp_client.login import log_out

    server = find_server(name, mcp_config)
    store = open_tokens(load_config(config_file=config_file))
    was_there = anyio.run(log_out, server, store)
    typer.echo(f"Logged out of {name}." if was_there else f"There is no login at {name}.")


async def _show(url: str, *, is_opened: bool) -> None:
    """Show where a person logs in, and open it in a browser; no shell sees the URL.

    Raises:
        ToolServerError: it is no page of the web.
    """
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        scheme = ""
    if scheme not in {"http", "https"} or not (url.isascii() and url.isprintable()):
        raise ToolServerError(f"the login is at {url!r}, which is no page that can be opened")
    typer.echo(f"Log in at: {url}")
    if is_opened:
        import anyio.to_thread

        # A browser in the terminal stays until it is left, and has to be answered meanwhile.
        await anyio.to_thread.run_sync(_open, url, abandon_on_cancel=True)


def _open(url: str) -> None:
    if sys.platform == "darwin":  # the library would build a script of it
        subprocess.run(["/usr/bin/open", url], check=False)  # noqa: S603  no shell
    else:
        webbrowser.open(url)
