"""What the relay of `zonda mcp` needs to know of its host.

Imports no more than a relay needs: a host waits for it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from mcp_servers.sharing.place import connect_or_start, find_place
from mcp_servers.sharing.relay import Relay
from mcp_servers.sharing.wire import Hello, Offers
from runtime.config import Config, process_environment, prompts_folder, servers_file
from runtime.telemetry import configure_logging
from tools.errors import ConfigurationError

logger = logging.getLogger(__name__)

USUAL = Offers()


def relay(
    mcp_config: Path | None,
    config: Config,
    status_of: Callable[[Exception], int],
    offers: Offers = USUAL,
    *,
    verbose: bool,
) -> NoReturn:
    """Relay to the engine process that all hosts share, then end this process.

    Args:
        mcp_config: the file of tool servers that the host names.
        config: says which engine process.
        status_of: reports why no engine can be had; returns the status to end with.
        offers: what the host is offered beyond the usual.
        verbose: whether the host's log gets records below INFO.

    Raises:
        ConfigurationError: the file of tool servers cannot be opened, or the policy is wrong.
        UnavailableError: no engine process can be shared here.
    """
    config, environ = _absolute(config), process_environment()
    named = None if mcp_config is None else _readable(mcp_config)
    if config.policy_file is not None:
        # 40 ms that only hosts with rules pay: what is wrong with them ends the process at once.
        from runtime.agent.rules import load_policy  # noqa: PLC0415

        load_policy(config.policy_file)
    place = find_place(config, environ)
    hello = Hello(
        digest=place.digest,
        environ=dict(environ),
        folder=Path.cwd(),
        own_servers=servers_file().absolute(),
        mcp_config=named,
        log_level=logging.DEBUG if verbose else logging.INFO,
        config=config,
        offers=Offers(offers.exposed, (offers.prompts_folder or prompts_folder()).absolute()),
    )

    connection = connect_or_start(place, config)

    def fail(exc: Exception) -> NoReturn:
        _end(status_of(exc))

    Relay(place, config, hello, connection, fail).run()
    _end(0)


def configure_host_logging(config: Config, chosen: Path | None, *, verbose: bool) -> None:
    """Log to stderr and a file: the chosen one, or one in the state folder if that can be had.

    Raises:
        ConfigurationError: the chosen file cannot be written.
    """
    level = logging.DEBUG if verbose else logging.INFO
    default = config.state_dir / "logs" / "mcp.log"
    try:
        configure_logging(level=level, stderr_level=level, log_file=chosen or default)
    except ConfigurationError as exc:
        if chosen is not None:
            raise
        configure_logging(level=level, stderr_level=level)
        logger.warning("no log file is kept: %s", exc)


def _end(status: int) -> NoReturn:
    """End the process now: the other thread waits in a system call."""
    logging.shutdown()
    os._exit(status)


def _absolute(config: Config) -> Config:
    """Let the model's path, where it is one, mean the same to the engine process."""
    path = Path(config.model).expanduser()
    if not path.exists():
        return config
    # A name that is known comes first, as when the model is loaded.
    from runtime.sources import MODELS  # noqa: PLC0415 - 10 ms that only paths pay

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
