"""Entry of the command `zonda` and of `python -m mcp_servers`."""

from __future__ import annotations

from mcp_servers.cli import run_command_line


def main() -> None:
    """Run the command line; never returns."""
    run_command_line()


if __name__ == "__main__":
    main()
