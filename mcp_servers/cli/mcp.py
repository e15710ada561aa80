"""`zonda mcp`: the model server for one MCP host, over stdin and stdout.

Its subcommands keep Zonda's own list of MCP servers; see `server_list`.
"""

from __future__ import annotations

import gc
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mcp_servers.cli import server_content, server_list, server_login
from mcp_servers.cli.errors import exit_status
from mcp_servers.cli.options import (
    Admin,
    ConfigFile,
    Device,
    Expose,
    McpConfig,
    Model,
    PolicyFile,
    Prompts,
    Verbose,
    make_surface,
)
from mcp_servers.sharing.host import configure_host_logging, relay
from mcp_servers.sharing.wire import Offers
from runtime.config import Config, load_config, servers_file
from tools.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcp_servers.cli.tool_servers import Caller
    from mcp_servers.model_server.service import AgentSetup
    from mcp_servers.model_server.tools import Surface

logger = logging.getLogger(__name__)


SUBCOMMANDS = {
    "add": server_list.add_server,
    "list": server_list.list_servers,
    "test": server_list.try_server,
    "remove": server_list.remove_server,
    "approve": server_list.approve_server,
    "login": server_login.log_in_to_server,
    "logout": server_login.log_out_of_server,
    "resources": server_content.resources,
    "prompts": server_content.prompts,
}


def mcp(  # noqa: PLR0913 - one argument for each option
    ctx: typer.Context,
    *,
    model: Model = None,
    mcp_config: McpConfig = None,
    policy: PolicyFile = None,
    config_file: ConfigFile = None,
    device: Device = None,
    admin: Admin = False,
    expose: Expose = None,
    prompts: Prompts = None,
    share: Annotated[
        bool | None,
        typer.Option(
            "--share/--no-share",
            help="Use the one engine process of all hosts, or keep everything in this process.",
        ),
    ] = None,
    log_file: Annotated[
        Path | None,
        typer.Option(help="Where to log, besides stderr; in the state folder if absent."),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Serve local models to an MCP host over stdin and stdout.

    The subcommands keep the list of MCP servers whose tools Zonda's models may use.
    """
    if ctx.invoked_subcommand is not None:
        return
    config = load_config(
        config_file=config_file, model=model, device=device, policy_file=policy, share=share
    )
    configure_host_logging(config, log_file, verbose=verbose)
    surface = partial(make_surface, config, admin=admin, expose=expose, prompts=prompts)
    if config.share and not admin:
        offers = Offers(tuple(expose or ()), prompts)
        if offers != Offers():
            surface()  # what is wrong with it is said here
        try:
            relay(mcp_config, config, exit_status, offers, verbose=verbose)
        except UnavailableError as exc:
            logger.warning("the engine is not shared: %s", exc)
    _serve(mcp_config, config, surface)


def _serve(
    mcp_config: Path | None, config: Config, make_surface: Callable[[], Surface]
) -> NoReturn:
    """Keep everything in this process."""
    # The imports make 200,000 objects that live as long as the process: collecting garbage
    # between them costs a host 0.1 s of its wait for the first answer.
    gc.disable()
    import anyio

    from mcp_servers.model_server.stdio import end_process, serve_stdio
    from mcp_servers.version import installed_version

    agent = agent_setup(mcp_config, config)
    surface = make_surface()
    gc.freeze()
    gc.enable()
    try:
        anyio.run(partial(serve_stdio, config, agent, surface, version=installed_version()))
    except BaseException as exc:  # noqa: BLE001 - the top of the program: it becomes one line
        end_process(exit_status(exc))
    end_process(0)


def agent_setup(
    mcp_config: Path | None, config: Config, caller: Caller | None = None
) -> AgentSetup | None:
    """What `agent_run` needs for the servers of a file, and our own; None when there are none.

    They are this process's, unless there is a `caller`.
    """
    own_servers = servers_file() if caller is None else caller.own_servers
    if mcp_config is None and not own_servers.exists():
        return None
    from mcp_servers.cli.tool_servers import (
        find_servers,
        load_rules,
        open_audit,
        open_pins,
        open_store,
        open_tokens,
    )
    from mcp_servers.model_server.service import AgentSetup
    from tools.mcp_client.toolset import open_toolset

    servers = find_servers(mcp_config, caller)
    if not servers:
        named = mcp_config or own_servers
        logger.warning("%s names no server, so agent_run is not offered", named)
        return None
    toolset = partial(
        open_toolset,
        servers,
        pins=open_pins(config),
        store=open_store(config),
        tokens=open_tokens(config),
    )
    policy = load_rules(config, servers)
    return AgentSetup(tuple(servers), toolset, policy, open_audit(config))
