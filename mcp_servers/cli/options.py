"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", help="File of rules: which tools may be called, and with what."),
]

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="The zonda.toml to read; see `zonda config`."),
]
