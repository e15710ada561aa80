"""Reads the files in which MCP hosts name their tool servers, with our keys under `x-runtime`.

```json
{"mcpServers": {
    "time": {
        "command": "mcp-server-time", "args": ["--local-timezone", "UTC"], "env": {}, "cwd": "/tmp",
        "x-runtime": {"timeout": {"connect": 15, "idle": 60, "total": 600},
                      "tools": {"allow": ["get_current_time"], "ask": [], "deny": []}}},
    "docs": {"url": "https://example.org/mcp", "headers": {"Authorization": "Bearer ${TOKEN}"}}}}
```

The files of Claude Desktop, Claude Code, Cursor (`mcpServers`), VS Code (`servers`, `inputs`)
and mistral.rs (`servers`, a list) are read as they are: comments, trailing commas, variables,
`envFile`. More keys of ours are in `options`. Knows no processes.
Source: documentation of these hosts, November 2026.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tools.errors import ConfigurationError
from tools.mcp_client import mistralrs
from tools.mcp_client.jsonc import parse_jsonc
from tools.mcp_client.oauth_config import OAuthConfig, OAuthEntry, read_oauth
from tools.mcp_client.options import Options, OptionsEntry
from tools.mcp_client.variables import Variables, read_env_file
from tools.mcp_client.vscode import with_sandbox

logger = logging.getLogger(__name__)

INHERITED_VARIABLES = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER")
"""All that a tool server sees of the environment, besides its entry's own `env`."""

_SECTIONS = ("servers", "mcpServers")
_HTTP_TYPES = frozenset({"http", "streamable-http", "streamableHttp", "streamable_http"})
_SSE_TYPE = "sse"
_EDITOR_FOLDERS = frozenset({".vscode", ".cursor"})
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
    """One tool server of the operator's: a command to run, or a URL to connect to.

    Attributes:
        name: its key in the file.
        command: what to run, without a shell; found on the PATH of `env`.
        env: the whole environment of the process.
        cwd: its working directory; None keeps ours.
        url: where it serves streamable HTTP; empty for one that we run.
        headers: sent with every request to `url`.
        is_sse: whether `url` serves the older transport of HTTP with server-sent events.
        oauth: how tokens for `url` are asked for, unless `headers` has an Authorization.
        options: what it may see and use.
        problem: why the entry cannot be used, or None; the server's state is then "failed".
    """

    name: str
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_sse: bool = False
    oauth: OAuthConfig = OAuthConfig()  # noqa: RUF009  frozen
    is_enabled: bool = True
    timeouts: Timeouts = Timeouts()
    policy: ToolPolicy = ToolPolicy()
    options: Options = field(default_factory=Options)
    problem: str | None = None


def load_servers(path: Path, environ: Mapping[str, str]) -> Mapping[str, ServerConfig]:
    """Read a file of tool servers; an entry that is wrong carries its `problem`.

    Raises:
        ConfigurationError: the file cannot be read, is no JSON or names no servers.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as exc:
        raise ConfigurationError(f"cannot read the tool servers in {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path}: not UTF-8 at byte {exc.start}") from exc
    return parse_servers(text, path, environ)


def parse_servers(text: str, path: Path, environ: Mapping[str, str]) -> Mapping[str, ServerConfig]:
    """As `load_servers`, for a text that is, or will be, the file's.

    Raises:
        ConfigurationError: it is no JSON or names no servers.
    """
    try:
        document = parse_jsonc(text)
    except ConfigurationError as exc:
        raise ConfigurationError(f"{path}, {exc}") from exc
    found = document if isinstance(document, dict) else {}
    variables = Variables(environ, _workspace(path), _descriptions(found.get("inputs")))
    if isinstance(found.get("servers"), list):
        return _read_list(found, variables)
    sections = [section for section in _SECTIONS if isinstance(found.get(section), dict)]
    if not sections:
        raise ConfigurationError(
            f'{path}: expected an object {{"mcpServers": {{name: entry}}}}, or "servers" as '
            "VS Code or mistral.rs has it"
        )
    shared = found.get("sandbox")
    return {
        name: _read_entry(
            f"{section}.{name}", name, partial(with_sandbox, entry, shared), variables
        )
        for section in sections
        for name, entry in found[section].items()
    }


def _read_list(document: dict[str, Any], variables: Variables) -> Mapping[str, ServerConfig]:
    """Read the list of mistral.rs; of two servers of one name the second bears its number."""
    servers: dict[str, ServerConfig] = {}
    for number, server in enumerate(document["servers"]):
        name = mistralrs.entry_name(server, number)
        name = f"{name}{number}" if name in servers else name
        make = partial(mistralrs.to_entry, server, document)
        servers[name] = _read_entry(f"servers[{number}]", name, make, variables)
    return servers


def _workspace(path: Path) -> Path:
    """Return the folder that the file is about: `.vscode/mcp.json` is about `.vscode`'s."""
    folder = path.absolute().parent
    return folder.parent if folder.name in _EDITOR_FOLDERS else folder


def _descriptions(inputs: Any) -> Mapping[str, str]:
    """Return what an editor would say when it asks, by input id."""
    entries = inputs if isinstance(inputs, list) else []
    return {
        str(entry["id"]): str(entry.get("description", ""))
        for entry in entries
        if isinstance(entry, dict) and "id" in entry
    }


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


class _Runtime(OptionsEntry):
    model_config = ConfigDict(extra="forbid")

    enabled: bool = True
    timeout: _Timeout = _Timeout()
    tools: _Tools = _Tools()
    oauth: OAuthEntry = OAuthEntry()


class _Entry(BaseModel):
    """An entry as it stands in the file; other hosts' keys are ignored."""

    type: str | None = None
    command: str = Field(default="", max_length=4096)
    args: tuple[str, ...] = ()
    env: dict[str, str | int | float | None] = {}
    env_file: str | None = Field(default=None, alias="envFile")
    cwd: str | None = None
    url: str | None = None
    headers: dict[str, str] = {}
    disabled: bool = False
    oauth: Any = None
    auth: Any = None
    runtime: _Runtime = Field(default=_Runtime(), alias="x-runtime")


def _read_entry(
    place: str, name: str, make: Callable[[], Any], variables: Variables
) -> ServerConfig:
    """Check what `make` returns; what is wrong with it becomes the server's `problem`."""
    try:
        return _build(name, _Entry.model_validate(make()), variables)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_context=False)[0]
        problem = f"{'.'.join(map(str, (place, *error['loc'])))}: {error['msg']}"
    except ConfigurationError as exc:
        problem = f"{place}: {exc}"
    logger.warning("server=%s cannot be used: %s", name, problem)
    return ServerConfig(name, problem=problem)


def _build(name: str, entry: _Entry, variables: Variables) -> ServerConfig:
    timeout, tools = entry.runtime.timeout, entry.runtime.tools
    config = ServerConfig(
        name=name,
        is_enabled=entry.runtime.enabled and not entry.disabled,
        timeouts=Timeouts(timeout.connect, timeout.idle, timeout.total),
        policy=ToolPolicy(tools.allow, tools.ask, tools.deny),
        options=entry.runtime.options(variables),
    )
    kind = entry.type or ("http" if entry.url is not None else "stdio")
    if kind in _HTTP_TYPES or kind == _SSE_TYPE:
        return replace(
            config,
            url=_url(entry, variables),
            headers=_headers(entry, variables),
            is_sse=kind == _SSE_TYPE,
            oauth=read_oauth(entry.runtime.oauth, entry.auth, entry.oauth, variables.expand),
        )
    if kind != "stdio":
        raise ConfigurationError(
            f"{kind!r} servers cannot be used; give a `command`, or the `url` of a server of "
            'type "http" (streamable HTTP) or "sse"'
        )
    if not entry.command:
        raise ConfigurationError("`command` is missing")
    expand = variables.expand
    return replace(
        config,
        command=expand(entry.command),
        args=tuple(expand(argument) for argument in entry.args),
        env=_environment(entry, variables),
        cwd=None if entry.cwd is None else Path(expand(entry.cwd)).expanduser(),
    )


def _environment(entry: _Entry, variables: Variables) -> Mapping[str, str]:
    """Return what the process sees: the few we pass on, then `envFile`, then `env`."""
    environ = {
        key: variables.environ[key] for key in INHERITED_VARIABLES if key in variables.environ
    }
    if entry.env_file is not None:
        path = Path(variables.expand(entry.env_file)).expanduser()
        environ |= read_env_file(variables.folder / path)
    for key, value in entry.env.items():
        if value is None:  # as in VS Code: taken away
            environ.pop(key, None)
        else:
            environ[key] = variables.expand(str(value))
    return environ


def _url(entry: _Entry, variables: Variables) -> str:
    url = variables.expand(entry.url or "")
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ConfigurationError(f"`url` must be http://… or https://…, not {entry.url or ''!r}")
    return url


def _headers(entry: _Entry, variables: Variables) -> Mapping[str, str]:
    headers = {key: variables.expand(value) for key, value in entry.headers.items()}
    for key, value in headers.items():
        if not (f"{key}{value}".isascii() and f"{key}{value}".isprintable()):  # may be secret
            raise ConfigurationError(f"headers.{key}: only printable ASCII can be sent")
    return headers
