"""Keeps what each tool server offers, so that one can be offered before it is started.

One file for each configuration of a server, named by its digest: another command, variable or
root is another server. What is read here counts only as far as the pins approve of it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mcp_types as types

from tools.mcp_client.config import ServerConfig
from tools.mcp_client.kept_files import forget_kept, kept_path, write_kept

logger = logging.getLogger(__name__)

MAX_AGE_S = 24 * 3600.0
"""A catalogue that is older is not used: its server is started, and asked."""

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What a server offered when it was last connected, and over which protocol."""

    tools: Sequence[types.Tool]
    protocol_version: str
    has_resources: bool = False


class CatalogueStore:
    """Catalogues in a folder; several processes may use one, and the last one wins."""

    def __init__(self, folder: Path, max_age_s: float = MAX_AGE_S) -> None:
        self._folder = folder
        self._max_age_s = max_age_s

    def load(self, config: ServerConfig) -> Catalogue | None:
        """Return what is known of a server; None when it has to be asked."""
        path = self._path(config)
        try:
            if time.time() - path.stat().st_mtime > self._max_age_s:
                return None
            value: Any = json.loads(path.read_bytes())
            tools = [types.Tool.model_validate(tool, by_name=False) for tool in value["tools"]]
            return Catalogue(tools, str(value["protocol"]), bool(value["resources"]))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
            logger.warning("server=%s: %s is not used: %s", config.name, path, exc)
            return None

    def save(self, config: ServerConfig, catalogue: Catalogue) -> None:
        """Keep what a server offers. Where that fails, the log says so."""
        value = {
            "server": config.name,
            "protocol": catalogue.protocol_version,
            "resources": catalogue.has_resources,
            "tools": [
                tool.model_dump(by_alias=True, exclude_unset=True, mode="json")
                for tool in catalogue.tools
            ],
        }
        path = self._path(config)
        try:
            write_kept(path, value)
        except (OSError, ValueError) as exc:
            logger.warning("server=%s: %s cannot be written: %s", config.name, path, exc)

    def forget(self, server: str) -> None:
        """Forget what a server offers."""
        forget_kept(self._folder, server)

    def _path(self, config: ServerConfig) -> Path:
        asked = config.options
        source = [
            *(_FORMAT, config.name, config.command, config.args, sorted(config.env.items())),
            *(str(config.cwd), config.url, sorted(config.headers.items())),
            [asdict(root) for root in asked.roots],
            None if asked.sampling is None else asdict(asked.sampling),
        ]
        return kept_path(self._folder, config.name, source)
