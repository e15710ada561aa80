"""What a relay and the engine process say to each other beside MCP's own lines.

The relay's first line is a `Hello`. Lines of the engine that begin with `PRIVATE` are for the
relay: a welcome, a refusal, records of its host's log. All others are MCP messages.
"""

from __future__ import annotations

import json
import logging
import socket
import struct
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from runtime.config import Config
from tools.errors import ConfigurationError

PRIVATE = b"#"
MAX_HELLO_BYTES = 4 * 1024 * 1024
MAX_LOG_TEXT = 8_000

_SOL_LOCAL, _LOCAL_PEERCRED = 0, 1  # macOS: sys/un.h


@dataclass(frozen=True, slots=True)
class Offers:
    """What a host is offered beyond the usual.

    Attributes:
        exposed: tools that are usually not offered.
        prompts_folder: of prompt files; None is the one beside zonda.toml.
    """

    exposed: tuple[str, ...] = ()
    prompts_folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Hello:
    """What the engine process has to know of a host; nothing here is another host's business.

    Attributes:
        digest: of the program and the engine's settings; see `place.engine_digest`.
        environ: the host's, for the variables of its tool servers.
        folder: the host's working directory; its tool servers start there.
        own_servers: the file of Zonda's own list; it need not be there.
        mcp_config: the file that the host names, if any.
        log_level: records of this host from here on go to the relay.
        config: the host's settings; those of `place.HOSTS_OWN` are its own.
        offers: what it was started to offer.
    """

    digest: str
    environ: Mapping[str, str]
    folder: Path
    own_servers: Path
    mcp_config: Path | None
    log_level: int
    config: Config
    offers: Offers = Offers()

    def to_line(self) -> bytes:
        values = {**asdict(self), "config": config_to_json(self.config)}
        return json.dumps(values, default=str).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Hello:
        """Read a line.

        Raises:
            ConfigurationError: it is no greeting of this version.
        """
        try:
            found = json.loads(line)
            named = found["mcp_config"]
            paths = {
                "folder": Path(found["folder"]),
                "own_servers": Path(found["own_servers"]),
                "mcp_config": None if named is None else Path(named),
            }
            prompts = found["offers"]["prompts_folder"]
            offers = Offers(
                tuple(found["offers"]["exposed"]), None if prompts is None else Path(prompts)
            )
            config = config_from_json(found["config"])
            return cls(**{**found, **paths, "config": config, "offers": offers})
        except (ValueError, TypeError, KeyError, RecursionError) as exc:
            raise ConfigurationError("the first line is no greeting of a Zonda relay") from exc


def private_line(kind: str, value: Any) -> bytes:
    """Make a line for the relay: "welcome", "refused" or "log"."""
    return PRIVATE + json.dumps({kind: value}).encode() + b"\n"


def read_private(line: bytes) -> tuple[str, Any]:
    """Return kind and value of a `private_line`."""
    [(kind, value)] = json.loads(line.removeprefix(PRIVATE)).items()
    return kind, value


def log_line(record: logging.LogRecord) -> bytes:
    """Make the line that carries a record to the relay, with its traceback and cut to size."""
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    return private_line("log", [record.name, record.levelno, text[:MAX_LOG_TEXT]])


def config_to_json(config: Config) -> str:
    """Spell a configuration; its paths become absolute."""
    values = asdict(config)
    paths = {name: str(x.absolute()) for name, x in values.items() if isinstance(x, Path)}
    return json.dumps({**values, **paths}, sort_keys=True)


def config_from_json(text: str) -> Config:
    """Read what `config_to_json` spelled."""
    values = json.loads(text)
    paths = [item.name for item in fields(Config) if str(item.type).startswith("Path")]
    given = {name: Path(values[name]) for name in paths if values[name] is not None}
    return Config(**{**values, **given})


def peer_uid(connection: socket.socket) -> int | None:
    """Return the user behind the other end; None where the system does not say."""
    if hasattr(socket, "SO_PEERCRED"):  # struct ucred: pid, uid, gid
        data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int(struct.unpack("=iII", data)[1])
    if sys.platform == "darwin":  # struct xucred: version, uid, number of groups, 16 groups
        data = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 76)
        return int(struct.unpack_from("=II", data)[1])
    return None
