"""The command `zonda`: one file per command, imported when that command is asked for.

A command's module bears its name and so does the function in it; a module with `SUBCOMMANDS`
has more functions, by their names. What is heavy (torch, mcp) is imported inside the function,
so that `--help` needs none of it.
"""

from __future__ import annotations

import importlib
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from mcp_servers.cli.errors import exit_status

COMMANDS = (
    *("demo", "run", "chat", "mcp", "serve", "tools", "connect", "doctor", "pull", "models"),
    *("config", "logs", "workbench", "bench"),
)


class _Commands(TyperGroup):
    """Finds commands by module name, so that only the one that runs is imported."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"mcp_servers.cli.{cmd_name}")
        command = typer.Typer(add_completion=False, rich_markup_mode=None)
        function = getattr(module, cmd_name)
        subcommands = getattr(module, "SUBCOMMANDS", None)
        if subcommands is None:
            command.command(cmd_name)(function)
        else:
            command.callback(invoke_without_command=True)(function)
            for name, subcommand in subcommands.items():
                command.command(name)(subcommand)
        return typer.main.get_command(command)


# Without rich: its help pages cost 0.1 s, and `--help` has 0.3 s on a slow machine.
app = typer.Typer(
    cls=_Commands,
    help="Typed tools backed by local models, served over MCP.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def zonda(
    ctx: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Handle what stands before a command."""
    if version:
        from mcp_servers.version import installed_version

        typer.echo(installed_version())
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def run_command_line() -> NoReturn:
    """Run the command that the process's arguments name, then end the process."""
    try:
        status = app(prog_name="zonda", standalone_mode=False)
    except BaseException as exc:  # noqa: BLE001 - the top of the program: it becomes one line
        status = exit_status(exc)
    sys.exit(status)
