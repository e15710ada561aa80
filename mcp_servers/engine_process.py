"""The engine process from its start: what a relay runs where no process listens yet."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mcp_servers.sharing.place import CHANGED, EnginePlace, engine_digest
from mcp_servers.sharing.wire import Hello, config_from_json
from mcp_servers.version import installed_version
from runtime.config import Config, process_environment
from runtime.telemetry import configure_logging
from tools.errors import ConfigurationError

if TYPE_CHECKING:
    from mcp_servers.model_server.service import AgentSetup

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> NoReturn:
    """Serve until no host is left.

    Args:
        arguments: folder of the process's files, digest that its relays expect, number of the
            socket that listens, and the configuration as JSON.
    """
    folder, digest, number, settings = arguments
    config, place = config_from_json(settings), EnginePlace(digest, Path(folder))
    if engine_digest(config, process_environment()) != digest:
        sys.exit(CHANGED)
    faulthandler.enable()
    listener = socket.socket(fileno=int(number))
    listener.set_inheritable(False)
    place.pid.write_text(f"{os.getpid()}\n", "utf-8")
    # As in `zonda mcp`: the imports make objects that live as long as the process.
    gc.disable()
    import anyio  # noqa: PLC0415 - after the garbage collector was stopped

    from mcp_servers.model_server.host_log import HostLogHandler  # noqa: PLC0415 - as above
    from mcp_servers.model_server.shared_engine import serve_shared  # noqa: PLC0415 - as above
    from mcp_servers.model_server.stdio import end_process  # noqa: PLC0415 - as above

    gc.freeze()
    gc.enable()
    _configure_logging(config, HostLogHandler())
    serve = partial(serve_shared, config, place, listener, _make_agent)
    try:
        anyio.run(partial(serve, version=installed_version()))
    except BaseException:
        logger.exception("the engine process failed")
        end_process(1)
    end_process(0)


def _make_agent(hello: Hello) -> AgentSetup | None:
    """What `agent_run` needs for the tool servers of one host.

    Raises:
        ConfigurationError: a file of tool servers cannot be read.
    """
    if hello.mcp_config is None and not hello.own_servers.exists():
        return None
    # The command line is imported by those only who have tool servers.
    from mcp_servers.cli.mcp import agent_setup  # noqa: PLC0415
    from mcp_servers.cli.tool_servers import Caller  # noqa: PLC0415

    caller = Caller(hello.environ, hello.own_servers, hello.folder)
    return agent_setup(hello.mcp_config, hello.config, caller)


def _configure_logging(config: Config, of_hosts: logging.Handler) -> None:
    """Log to a file of the engine's own, nothing below INFO; a host gets what is its own."""
    log_file = config.state_dir / "logs" / "engine.log"
    try:
        configure_logging(level=logging.DEBUG, stderr_level=logging.ERROR, log_file=log_file)
    except ConfigurationError as exc:
        configure_logging(level=logging.DEBUG, stderr_level=logging.ERROR)
        logger.warning("no log file is kept: %s", exc)
    root = logging.getLogger()
    for handler in root.handlers:
        handler.setLevel(max(handler.level, logging.INFO))
    root.addHandler(of_hosts)
