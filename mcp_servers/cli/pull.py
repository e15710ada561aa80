"""`zonda pull`: fetches a model."""

from __future__ import annotations

from typing import Annotated

import typer

from mcp_servers.cli.options import ConfigFile
from runtime.config import load_config


def pull(
    model: Annotated[
        str | None,
        typer.Argument(help="A name of `zonda models`, or hf:ORG/REPO[/FILE]; else the default."),
    ] = None,
    *,
    config_file: ConfigFile = None,
) -> None:
    """Fetch a model, unless it is here already, and print where it is."""
    config = load_config(config_file=config_file, model=model)
    from mcp_servers.cli.console import ensure_model, open_console

    typer.echo(ensure_model(config.model, config.cache_dir, open_console(stderr=True)))
