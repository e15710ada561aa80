"""`zonda workbench`: the bundled tool server, over stdin and stdout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.telemetry import configure_logging


def workbench(
    *,
    root: Annotated[
        Path, typer.Option(help="Folder whose files the file tools may read.")
    ] = Path(),
) -> None:
    """Serve offline tools over stdin and stdout: clock, calculator, notes, files."""
    configure_logging()
    import anyio

    from mcp_servers.workbench.server import serve

    anyio.run(serve, root)
