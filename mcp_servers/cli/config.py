"""`zonda config`: every setting with its value and where that comes from."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Annotated

import typer

from mcp_servers.cli.options import ConfigFile
from runtime.config import load_settings


def config(
    *,
    config_file: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print every setting, its value and who set it."""
    settings = load_settings(config_file=config_file)
    rows = [
        (item.name, str(getattr(settings.config, item.name)), settings.origins[item.name])
        for item in fields(settings.config)
    ]
    if as_json:
        found = {name: {"value": value, "origin": origin} for name, value, origin in rows}
        typer.echo(json.dumps({"file": str(settings.path), "settings": found}, indent=2))
        return
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, origin in rows:
        typer.echo(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}")
    state = "read" if settings.is_read else "not there"
    typer.echo(f"Flags win over ZONDA_* variables, these over {settings.path} ({state}).")
