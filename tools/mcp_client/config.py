"""Reads the `mcpServers` files that MCP hosts use, with our keys under `x-runtime`.

```json
{"mcpServers": {"time": {
    "command": "mcp-server-time", "args": ["--local-timezone", "UTC"], "env": {}, "cwd": "/tmp",
    "x-runtime": {"timeout": {"connect": 15, "idle": 60, "total": 600},
                  "tools": {"allow": ["get_current_time"], "ask": [], "deny": []}}}}}
```

Knows no processes. `${NAME}`, `${NAME:-default}` and `${env:NAME}` are expanded in command,
args, env and cwd. Source: reference of MCP hosts' configuration, Claude Desktop and others.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tools.errors import ConfigurationError

logger = logging.getLogger(__name__)

INHERITED_VARIABLES = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER")
"""All that a tool server sees of the environment, besides its entry's own `env`."""

_VARIABLE = re.compile(r"\$\{(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_Seconds = Annotated[float, Field(gt=0, le=86_400)]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits in seconds: until a server is ready, of silence within a call, of a whole call."""

    connect_s: float = 15.0
    idle_s: float = 60.0
    total_s: float = 600.0


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """Tools, by the server's own names, that run without asking, after asking, or never."""

    allow: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """One tool server of the operator's.

    Attributes:
        name: its key in the file.
        command: what to run, without a shell; found on the PATH of `env`.
        env: the whole environment of the process.
        cwd: its working directory; None keeps ours.
        problem: why the entry cannot be used, or None; the server's state is then "failed".
    """

    name: str
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    is_enabled: bool = True
    timeouts: Timeouts = Timeouts()
    policy: ToolPolicy = ToolPolicy()
    problem: str | None = None


def load_servers(path: Path, environ: Mapping[str, str]) -> Mapping[str, ServerConfig]:
    """Read a file of tool servers; an entry that is wrong carries its `problem`.

    Raises:
        ConfigurationError: the file cannot be read, is no JSON or has no `mcpServers`.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigurationError(f"cannot read the tool servers in {path}: {exc.strerror}") from exc
    except json.JSONDecodeError as exc:
        where = f"{path}, line {exc.lineno}, column {exc.colno}"
        raise ConfigurationError(f"{where}: not JSON: {exc.msg}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path}: not UTF-8 at byte {exc.start}") from exc
    servers = document.get("mcpServers") if isinstance(document, dict) else None
    if not isinstance(servers, dict):
        raise ConfigurationError(f'{path}: expected an object {{"mcpServers": {{name: entry}}}}')
    return {name: _read_entry(name, entry, environ) for name, entry in servers.items()}


class _Timeout(BaseModel):
    model_config = ConfigDict(extra="forbid")

    connect: _Seconds = 15.0
    idle: _Seconds = 60.0
    total: _Seconds = 600.0


class _Tools(BaseModel):
    model_config = ConfigDict(extra="forbid")

    allow: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


class _Runtime(BaseModel):
    model_config = ConfigDict(extra="forbid")

    enabled: bool = True
    timeout: _Timeout = _Timeout()
    tools: _Tools = _Tools()


class _Entry(BaseModel):
    """An entry as it stands in the file; other hosts' keys are ignored."""

    type: str = "stdio"
    command: str = Field(default="", max_length=4096)
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str | None = None
    url: str | None = None
    disabled: bool = False
    runtime: _Runtime = Field(default=_Runtime(), alias="x-runtime")


def _read_entry(name: str, entry: Any, environ: Mapping[str, str]) -> ServerConfig:
    try:
        return _build(name, _Entry.model_validate(entry), environ)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in ("mcpServers", name, *error["loc"]))
        problem = f"{place}: {error['msg']}"
    except ConfigurationError as exc:
        problem = f"mcpServers.{name}: {exc}"
    logger.warning("server=%s cannot be used: %s", name, problem)
    return ServerConfig(name, problem=problem)


def _build(name: str, entry: _Entry, environ: Mapping[str, str]) -> ServerConfig:
    if entry.type != "stdio" or entry.url is not None:
        kind = entry.type if entry.type != "stdio" else "http"
        raise ConfigurationError(f"{kind} servers cannot be used yet; give a `command`")
    if not entry.command:
        raise ConfigurationError("`command` is missing")
    own = {key: _expand(value, environ) for key, value in entry.env.items()}
    inherited = {key: environ[key] for key in INHERITED_VARIABLES if key in environ}
    timeout, tools = entry.runtime.timeout, entry.runtime.tools
    return ServerConfig(
        name=name,
        command=_expand(entry.command, environ),
        args=tuple(_expand(argument, environ) for argument in entry.args),
        env=inherited | own,
        cwd=None if entry.cwd is None else Path(_expand(entry.cwd, environ)).expanduser(),
        is_enabled=entry.runtime.enabled and not entry.disabled,
        timeouts=Timeouts(timeout.connect, timeout.idle, timeout.total),
        policy=ToolPolicy(tools.allow, tools.ask, tools.deny),
    )


def _expand(text: str, environ: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = environ.get(name, default)
        if found is None:
            raise ConfigurationError(f"{match[0]}: the variable {name} is not set")
        return found

    return _VARIABLE.sub(value, text)
