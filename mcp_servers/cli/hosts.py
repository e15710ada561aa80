"""The MCP hosts we know: where each keeps its servers, and how an entry of ours looks there.

Source: documentation of Claude Desktop, Claude Code, Cursor and VS Code, November 2026.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.errors import ConfigurationError, suggest

ENTRY = "zonda"
"""Our name in a host's file."""

_WINDOWS_DRIVES = "/mnt/"


@dataclass(frozen=True, slots=True)
class Host:
    """One MCP host.

    Attributes:
        title: what people call it.
        path: its file, below the home folder or the platform's folder for settings.
        is_in_home: which of the two.
        section: the member of the file that holds the servers.
        states_type: whether an entry says that it is a command.
        then: what to do for it to read its file again.
        home_variable: names the folder that it takes for the home folder, where it is set.
    """

    title: str
    path: str
    is_in_home: bool
    section: str
    states_type: bool
    then: str
    home_variable: str = ""


HOSTS: Mapping[str, Host] = {
    "claude-desktop": Host(
        title="Claude Desktop",
        path="Claude/claude_desktop_config.json",
        is_in_home=False,
        section="mcpServers",
        states_type=False,
        then="quit and start Claude Desktop",
    ),
    "claude-code": Host(
        title="Claude Code",
        path=".claude.json",
        is_in_home=True,
        section="mcpServers",
        states_type=True,
        then="start a new session of Claude Code",
        home_variable="CLAUDE_CONFIG_DIR",
    ),
    "cursor": Host(
        title="Cursor",
        path=".cursor/mcp.json",
        is_in_home=True,
        section="mcpServers",
        states_type=False,
        then="switch zonda on in Cursor's settings, under MCP",
    ),
    "vscode": Host(
        title="VS Code",
        path="Code/User/mcp.json",
        is_in_home=False,
        section="servers",
        states_type=True,
        then="run `MCP: List Servers` in VS Code and start zonda",
    ),
}


def find_host(name: str) -> Host:
    """Return the host of that name.

    Raises:
        ConfigurationError: we know none; the message names the nearest.
    """
    if name not in HOSTS:
        raise ConfigurationError(f"no host is named {name!r}{suggest(name, HOSTS)}")
    return HOSTS[name]


def host_file(host: Host, platform: str, environ: Mapping[str, str], home: Path) -> Path:
    """Return where a host keeps its servers; `platform` is as in `sys.platform`."""
    if host.is_in_home:
        return Path(environ.get(host.home_variable) or home) / host.path
    if platform == "darwin":
        settings = home / "Library" / "Application Support"
    elif platform == "win32":
        settings = Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
    else:
        settings = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    return settings / host.path


def host_entry(
    host: Host, file: Path, command: Sequence[str], environ: Mapping[str, str]
) -> Mapping[str, Any]:
    """Return the entry that lets a host run `command`.

    A file on a Windows drive, seen from WSL, belongs to a Windows host: it goes through `wsl.exe`.
    """
    distribution = environ.get("WSL_DISTRO_NAME")
    if distribution and str(file).startswith(_WINDOWS_DRIVES):
        command = ("wsl.exe", "-d", distribution, "--exec", *command)
    kind = {"type": "stdio"} if host.states_type else {}
    return {**kind, "command": command[0], "args": list(command[1:])}


def own_command() -> tuple[str, ...]:
    """Return how another program starts this installation, wherever that is started."""
    script = Path(sys.executable).parent / "zonda"
    return (str(script),) if script.is_file() else (sys.executable, "-m", "mcp_servers")
