"""`zonda connect`: writes Zonda into the file of an MCP host, and out of it again."""

from __future__ import annotations

import difflib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from mcp_servers.cli.hosts import ENTRY, Host, find_host, host_entry, host_file, own_command
from mcp_servers.cli.options import ConfigFile
from runtime.config import process_environment
from tools.errors import ConfigurationError

BACKUP_SUFFIX = ".before-zonda"


def connect(
    host: Annotated[str, typer.Argument(help="claude-desktop, claude-code, cursor or vscode.")],
    *,
    undo: Annotated[bool, typer.Option("--undo", help="Take Zonda out of the file.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the change, write nothing.")
    ] = False,
    file: Annotated[
        Path | None, typer.Option(help="The host's file; its usual place if absent.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model that this host is to use.")] = None,
    mcp_config: Annotated[
        Path | None, typer.Option(help="File of MCP servers whose tools agent_run may use.")
    ] = None,
    config_file: ConfigFile = None,
) -> None:
    """Let an MCP host start Zonda; keeps the rest of its file, and a copy from before."""
    from tools.mcp_client.jsonc import remove_member, set_member

    known, environ = find_host(host), process_environment()
    path = (file or host_file(known, sys.platform, environ, Path.home())).expanduser()
    path = Path(os.path.realpath(path))  # a linked file stays linked
    before = _read(path)
    try:
        if undo:
            after = remove_member(before or "", known.section, ENTRY)
        else:
            entry = host_entry(known, path, _command(model, mcp_config, config_file), environ)
            after = set_member(before or "", known.section, ENTRY, entry)
    except ConfigurationError as exc:
        raise ConfigurationError(f"{path}, {exc}; nothing was changed") from exc
    if after == (before or ""):
        typer.echo(f"{path} stays as it is: zonda is {'not ' if undo else ''}in it.")
    elif dry_run:
        typer.echo(_difference(path, before or "", after))
    else:
        _write(path, before, after)
        typer.echo(_told(known, path, is_undo=undo, has_backup=before is not None))


def _command(model: str | None, mcp_config: Path | None, config_file: Path | None) -> list[str]:
    """Return what the host runs; it starts us in a folder of its own, so paths are whole."""
    command = [*own_command(), "mcp"]
    if model is not None:
        is_path = Path(model).expanduser().exists()
        command += ["--model", _whole(Path(model)) if is_path else model]
    if mcp_config is not None:
        command += ["--mcp-config", _whole(mcp_config)]
    if config_file is not None:
        command += ["--config", _whole(config_file)]
    return command


def _whole(path: Path) -> str:
    return str(path.expanduser().absolute())


def _read(path: Path) -> str | None:
    """Return the file's text with its own line ends; None where there is no file."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigurationError(f"cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path}: not UTF-8 at byte {exc.start}") from exc


def _write(path: Path, before: str | None, after: str) -> None:
    """Replace the file at once, with its permissions; what was there is kept beside it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if before is not None:
            shutil.copy2(path, _backup(path))
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as draft:
            draft.write(after.encode("utf-8"))
        try:
            if before is not None:
                shutil.copymode(path, draft.name)
            Path(draft.name).replace(path)
        finally:
            Path(draft.name).unlink(missing_ok=True)
    except OSError as exc:
        raise ConfigurationError(f"cannot write {path}: {exc.strerror}") from exc


def _backup(path: Path) -> Path:
    return path.with_name(path.name + BACKUP_SUFFIX)


def _difference(path: Path, before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), str(path), str(path), lineterm=""
    )
    return "\n".join(lines)


def _told(host: Host, path: Path, *, is_undo: bool, has_backup: bool) -> str:
    done = "zonda was taken out of" if is_undo else "zonda was put into"
    kept = f" The file as it was is {_backup(path).name} beside it." if has_backup else ""
    return f"{done} {path}.{kept}\nNow {host.then}."
