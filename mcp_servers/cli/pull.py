"""`zonda pull`: fetches a model."""

from __future__ import annotations

from typing import Annotated

import typer

from runtime.config import load_config


def pull(
    model: Annotated[str | None, typer.Argument(help="Name; the default model if absent.")] = None,
) -> None:
    """Fetch a model, unless it is here already, and print where it is."""
    config = load_config(model=model)
    from mcp_servers.cli.console import ensure_model, open_console

    typer.echo(ensure_model(config.model, config.cache_dir, open_console(stderr=True)))
