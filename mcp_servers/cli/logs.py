"""`zonda logs`: the end of what our servers logged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from mcp_servers.cli.options import ConfigFile
from runtime.config import load_config
from runtime.telemetry import NUM_OLD_LOGS
from tools.errors import ConfigurationError, suggest

POLL_S = 0.3


def logs(
    name: Annotated[str, typer.Argument(help="Which log: the command that wrote it.")] = "mcp",
    *,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
    config_file: ConfigFile = None,
) -> None:
    """Print the end of a log file; where it is goes to standard error."""
    folder = load_config(config_file=config_file).state_dir / "logs"
    path = folder / f"{name}.log"
    if not path.is_file():
        known = sorted(found.stem for found in folder.glob("*.log"))
        raise ConfigurationError(f"no log is named {name!r} in {folder}{suggest(name, known)}")
    typer.echo(f"{path}:", err=True)
    end = path.stat().st_size
    for line in last_lines(path, lines):
        typer.echo(line)
    if follow:
        for line in follow_lines(path, end):
            typer.echo(line)


def last_lines(path: Path, num_lines: int) -> list[str]:
    """The last lines of a rotating log, its older files included, without control characters."""
    found: list[str] = []
    for part in (path, *(Path(f"{path}.{age}") for age in range(1, NUM_OLD_LOGS + 1))):
        if len(found) >= num_lines or not part.is_file():
            break
        found = _split(part.read_bytes()) + found
    return found[-num_lines:]


def follow_lines(path: Path, start: int) -> Iterator[str]:
    """Lines written after byte `start`; begins anew when the file was rotated. Never ends."""
    rest = b""
    while True:
        size = path.stat().st_size if path.is_file() else 0
        start = 0 if size < start else start
        if size > start:
            with path.open("rb") as file:
                file.seek(start)
                grown = file.read()
            start += len(grown)
            whole, newline, rest = (rest + grown).rpartition(b"\n")
            yield from _split(whole + newline)
        else:
            time.sleep(POLL_S)


def _split(data: bytes) -> list[str]:
    from mcp_servers.cli.console import plain

    return [plain(line) for line in data.decode("utf-8", "replace").splitlines()]
