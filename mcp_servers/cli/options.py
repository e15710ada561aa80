"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.config import Config, prompts_folder
from tools.errors import ConfigurationError, suggest

if TYPE_CHECKING:
    from mcp_servers.model_server.tools import Surface

PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", help="File of rules: which tools may be called, and with what."),
]

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="The zonda.toml to read; see `zonda config`."),
]
Model = Annotated[str | None, typer.Option(help="Name or path of the model; see `zonda models`.")]
McpConfig = Annotated[
    Path | None,
    typer.Option(help="File of MCP servers (`mcpServers`) whose tools agent_run may use."),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Log every request.")]
Admin = Annotated[
    bool, typer.Option("--admin", help="Let hosts load and unload models, by tools for that.")
]
Expose = Annotated[
    list[str] | None,
    typer.Option(help="A tool that is usually not offered: chat; may be repeated."),
]
Prompts = Annotated[
    Path | None,
    typer.Option(help="Folder of prompt files; `prompts` beside zonda.toml if absent."),
]


def make_surface(
    config: Config, *, admin: bool, expose: list[str] | None, prompts: Path | None
) -> Surface:
    """Put together what a server offers beyond the usual.

    Raises:
        ConfigurationError: a tool that is not there, or a folder that was named and is not.
    """
    from mcp_servers.model_server.tools import EXPOSABLE, Surface
    from runtime.sources import MODELS

    for name in expose or ():
        if name not in EXPOSABLE:
            hint = suggest(name, EXPOSABLE)
            raise ConfigurationError(f"--expose names a tool, and none is {name!r}{hint}")
    if prompts is not None and not prompts.is_dir():
        raise ConfigurationError(f"--prompts must be a folder, and {prompts} is none")
    loadable = tuple(dict.fromkeys([config.model, *MODELS])) if admin else None
    return Surface(loadable, frozenset(expose or ()), prompts or prompts_folder())
