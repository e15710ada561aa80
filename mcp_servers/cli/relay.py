"""`zonda mcp` where hosts share an engine: what its relay needs to know of this host.

Imports no more than a relay needs: a host waits for it.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from mcp_servers.cli.errors import exit_status
from mcp_servers.cli.version import installed_version
from mcp_servers.sharing.place import find_place
from mcp_servers.sharing.relay import Relay
from mcp_servers.sharing.wire import Hello
from runtime.config import Config, process_environment, servers_file
from tools.errors import ConfigurationError, UnavailableError

logger = logging.getLogger(__name__)


def relay(mcp_config: Path | None, config: Config, *, log_level: int) -> None:
    """Relay to the engine process that all hosts share, then end this process.

    Returns only when no engine can be shared here; the reason is logged.

    Raises:
        ConfigurationError: the file of tool servers cannot be opened.
    """
    config, version, environ = _absolute(config), installed_version(), process_environment()
    try:
        place = find_place(config, version, environ)
    except UnavailableError as exc:
        logger.warning("the engine is not shared: %s", exc)
        return
    hello = Hello(
        digest=place.digest,
        environ=dict(environ),
        folder=Path.cwd(),
        own_servers=servers_file().absolute(),
        mcp_config=None if mcp_config is None else _readable(mcp_config),
        log_level=log_level,
        idle_s=config.engine_idle_s,
    )
    Relay(place, config, hello, _fail, version=version).run()
    logging.shutdown()
    os._exit(0)  # the other thread waits in a system call


def _fail(exc: Exception) -> NoReturn:
    status = exit_status(exc)
    logging.shutdown()
    os._exit(status)


def _absolute(config: Config) -> Config:
    """Let the model's path, where it is one, mean the same to the engine process."""
    path = Path(config.model).expanduser()
    if not path.exists():
        return config
    from runtime.sources import MODELS

    return config if config.model in MODELS else replace(config, model=str(path.absolute()))


def _readable(mcp_config: Path) -> Path:
    """Return the path for the engine process; a wrong one is found before that is started.

    Raises:
        ConfigurationError: the file cannot be opened.
    """
    try:
        mcp_config.open("rb").close()
    except OSError as exc:
        raise ConfigurationError(
            f"cannot read the tool servers in {mcp_config}: {exc.strerror}"
        ) from exc
    return mcp_config.absolute()
