"""Entry of the command `zonda` and of `python -m mcp_servers`."""

from __future__ import annotations

import sys

from mcp_servers.quick_start import start_relay


def main() -> None:
    """Run the command line; never returns."""
    start_relay(sys.argv[1:])
    from mcp_servers.cli import run_command_line  # noqa: PLC0415 - a relay does without it

    run_command_line()


if __name__ == "__main__":
    main()
