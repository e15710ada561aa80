"""Where log records go, stderr and a rotating file when one is wanted; and how times add up.

Standard output is never touched: it belongs to the protocol. Nothing a user wrote is logged
above DEBUG, so a log file may be shown to others.
"""

from __future__ import annotations

import logging
import sys
from bisect import bisect_left
from collections.abc import Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path

from tools.errors import ConfigurationError

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
PACKAGES = ("runtime", "tools", "mcp_servers")
MAX_LOG_BYTES = 2_000_000
NUM_OLD_LOGS = 3


def configure_logging(
    *, level: int = logging.INFO, stderr_level: int = logging.WARNING, log_file: Path | None = None
) -> None:
    """Send records to stderr and, when given, to `log_file` (2 MB, three older ones kept).

    Our packages log from `level` on, everything else from WARNING on; stderr shows what is
    at least `stderr_level`. Calling it again replaces the handlers of the call before.

    Raises:
        ConfigurationError: `log_file` cannot be written.
    """
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setLevel(stderr_level)
    handlers: list[logging.Handler] = [stderr]
    if log_file is not None:
        handlers.append(_open_log_file(log_file))
    logging.basicConfig(format=FORMAT, level=logging.WARNING, handlers=handlers, force=True)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(level)


def _open_log_file(path: Path) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return RotatingFileHandler(
            path, maxBytes=MAX_LOG_BYTES, backupCount=NUM_OLD_LOGS, encoding="utf-8"
        )
    except OSError as exc:
        raise ConfigurationError(
            f"the log file {str(path)!r} cannot be written ({exc.strerror}); "
            "name another with --log-file"
        ) from exc


class Histogram:
    """Counts values by the first bound that they do not exceed, and sums them.

    Written by one thread, read by any.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)  # the last one is of values above all bounds
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
