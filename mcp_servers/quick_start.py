"""`zonda mcp` as hosts start it: the relay at once, without the command line's library.

That library and what it needs cost a host 0.1 s and 10 MB for each conversation. Whatever is
more than plain options of `zonda mcp` is left to it; see `mcp_servers.cli.mcp`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mcp_servers.sharing.host import configure_host_logging, relay
from runtime.config import load_config
from tools.errors import UnavailableError

OPTIONS = ("--model", "--mcp-config", "--policy", "--config", "--device", "--log-file")
FLAGS = ("--verbose", "--share")


def start_relay(arguments: Sequence[str]) -> None:
    """Become the relay where the arguments ask for nothing else; return where they do."""
    if arguments[:1] != ["mcp"] or (given := read_options(arguments[1:])) is None:
        return
    try:
        config = load_config(
            config_file=_path(given, "--config"),
            model=given.get("--model"),
            device=given.get("--device"),
            policy_file=_path(given, "--policy"),
            share=True if "--share" in given else None,
        )
        if not config.share:
            return
        verbose = "--verbose" in given
        configure_host_logging(config, _path(given, "--log-file"), verbose=verbose)
        relay(_path(given, "--mcp-config"), config, _status_of, verbose=verbose)
    except UnavailableError:  # the command line says so, and keeps everything in one process
        return
    except Exception as exc:  # noqa: BLE001 - the top of the program: it becomes one line
        sys.exit(_status_of(exc))


def read_options(arguments: Sequence[str]) -> Mapping[str, str] | None:
    """Return values by option, "" for a flag; None where anything else is among them."""
    given: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name in FLAGS and not equals:
            given[name] = ""
        elif name in OPTIONS and (equals or (rest and not rest[0].startswith("-"))):
            given[name] = value if equals else rest.pop(0)
        else:
            return None
    return given


def _path(given: Mapping[str, str], name: str) -> Path | None:
    return Path(given[name]) if name in given else None


def _status_of(exc: Exception) -> int:
    from mcp_servers.cli.errors import exit_status  # noqa: PLC0415 - only who fails waits for it

    return exit_status(exc)
