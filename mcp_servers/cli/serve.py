"""`zonda serve`: the model server for many MCP hosts, over HTTP."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mcp_servers.cli.errors import exit_status
from mcp_servers.cli.mcp import agent_setup
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
from runtime.config import load_config, process_environment
from runtime.telemetry import configure_logging


def serve(  # noqa: PLR0913 - one argument for each option
    *,
    host: Annotated[
        str | None, typer.Option(help="Address to bind; other than loopback needs a key.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="TCP port; 0 takes a free one.")] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="File of keys, one a line, KEY or NAME:SCOPES:KEY; or ZONDA_API_KEY."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name under which clients reach this server; may be repeated."),
    ] = None,
    model: Model = None,
    served_model_name: Annotated[
        list[str] | None,
        typer.Option(help="What clients call the model; may be repeated. Its own name if absent."),
    ] = None,
    any_model_name: Annotated[
        bool, typer.Option("--any-model-name", help="Answer with it whatever model is named.")
    ] = False,
    mcp_config: McpConfig = None,
    policy: PolicyFile = None,
    config_file: ConfigFile = None,
    device: Device = None,
    admin: Admin = False,
    expose: Expose = None,
    prompts: Prompts = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificates in PEM: serve HTTPS, with --tls-key.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's private key.")] = None,
    access_log: Annotated[
        Path | None, typer.Option(help="File for one JSON line per request; - is standard error.")
    ] = None,
    log_file: Annotated[
        Path | None, typer.Option(help="Where to log, besides standard error.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Serve local models to many MCP hosts over HTTP."""
    config = load_config(
        config_file=config_file,
        model=model,
        served_model_name=" ".join(served_model_name) if served_model_name else None,
        any_model_name=any_model_name or None,
        device=device,
        host=host,
        port=port,
        policy_file=policy,
        tls_cert=tls_cert,
        tls_key=tls_key,
        access_log=access_log,
    )
    level = logging.DEBUG if verbose else logging.INFO
    configure_logging(level=level, stderr_level=level, log_file=log_file)
    import anyio

    from mcp_servers.guard import make_access, read_keys
    from mcp_servers.model_server.otlp import open_traces
    from mcp_servers.model_server.stdio import end_process
    from mcp_servers.model_server.tls import load_tls
    from mcp_servers.model_server.web import listen, serve_http
    from mcp_servers.request_record import open_access_log
    from mcp_servers.resource_server import make_resource_server
    from mcp_servers.version import installed_version

    keys = [] if api_key_file is None else read_keys(api_key_file)
    if not keys and (key := process_environment().get("ZONDA_API_KEY")):
        keys = key.split()
    access = make_access(config.host, keys, allow_host or (), make_resource_server(config))
    agent = agent_setup(mcp_config, config)
    surface = make_surface(config, admin=admin, expose=expose, prompts=prompts)
    tls = load_tls(config.tls_cert, config.tls_key)
    listener = listen(config.host, config.port)
    try:
        with open_access_log(config.access_log) as record, open_traces(config.otlp_endpoint):
            serving = partial(serve_http, config, agent, surface, listener, access)
            anyio.run(partial(serving, version=installed_version(), tls=tls, record=record))
    except BaseException as exc:  # noqa: BLE001 - the top of the program: it becomes one line
        end_process(exit_status(exc))
    end_process(0)
