"""`zonda logs`: the end of what our servers logged, or of the tool calls that were made."""

from __future__ import annotations

import json
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
    audit: Annotated[
        bool, typer.Option("--audit", help="The tool calls of all commands, not a log.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --audit: lines of JSON.")] = False,
    config_file: ConfigFile = None,
) -> None:
    """Print the end of a log file; where it is goes to standard error."""
    config = load_config(config_file=config_file)
    path = config.audit_file if audit else _find_log(config.state_dir / "logs", name)
    if audit and not path.is_file():
        raise ConfigurationError(f"no tool calls are written down in {path} yet")
    show = describe_call if audit and not as_json else str
    typer.echo(f"{path}:", err=True)
    end = path.stat().st_size
    for line in last_lines(path, lines):
        typer.echo(show(line))
    if follow:
        for line in follow_lines(path, end):
            typer.echo(show(line))


def describe_call(line: str) -> str:
    """A line of the audit log as a person reads it; one that is none as it is."""
    try:
        call = json.loads(line)
        sizes = f"{call['arguments_bytes']} -> {call['result_bytes'] or 0} bytes"
        by = f", approved by {call['approved_by']}" if call["approved_by"] else ""
        of = f" of {call['principal']}" if call["principal"] else ""
        told = (
            f"{call['time']} {call['outcome']:<7} {call['tool']}: {call['seconds']:.3f} s, {sizes};"
            f" {call['verdict'] or 'not asked'}: {call['reason']}{by}; {call['run']}{of}"
        )
    except (ValueError, KeyError, TypeError):
        return line
    contents = {name: call[name] for name in ("arguments", "result") if name in call}
    return f"{told} {json.dumps(contents)}" if contents else told


def _find_log(folder: Path, name: str) -> Path:
    path = folder / f"{name}.log"
    if not path.is_file():
        known = sorted(found.stem for found in folder.glob("*.log"))
        raise ConfigurationError(f"no log is named {name!r} in {folder}{suggest(name, known)}")
    return path


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
