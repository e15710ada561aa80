"""Settings, read once and frozen: flags over `ZONDA_*` variables over zonda.toml over defaults.

The only module that reads the environment. Components take the values they use.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import platformdirs

from tools.errors import ConfigurationError, suggest

_BOOLS = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting, with its default.

    Attributes:
        model: name or path of the model used when a request names none.
        cache_dir: where fetched models live.
        state_dir: where log files live.
        device: "auto" (CUDA where there is one, else the CPU), "cpu" or "cuda".
        threads: CPU threads of the operators; 0 takes one per core.
        context_length: most tokens of one sequence; 0 takes the model's own, at most 8192.
        kv_cache_mib: memory for KV pages in MiB.
        kv_type: number format of keys and values on a CPU, "int8" or "bf16".
        max_sequences: most sequences that run at the same time.
        max_queue: most sequences that wait.
        max_step_tokens: most tokens of one step, prefill and decode together.
        max_step_ms: milliseconds that a step may take while sequences decode; prompts are cut
            into pieces that fit.
        max_draft_tokens: most tokens of a sequence that a step on a CPU guesses and checks; 0
            guesses none.
        keep_catalogues: whether the computed beginning of prompts, system text and tools, is
            kept in the cache folder for the next start. Off: the files spell these texts, and
            nothing a user wrote goes to disk unless asked.
        host: address that `zonda serve` binds; other than loopback needs a key.
        port: TCP port that `zonda serve` binds; 0 takes a free one.
        drain_s: seconds that runs get to end when `zonda serve` is stopped.
        any_model_name: whether the default model answers OpenAI's and Anthropic's clients that
            name one which is not here.
        served_model_name: names, separated by spaces, by which OpenAI's and Anthropic's clients
            know the default model; "" is the one in `model`.
        mcp_urls: URLs of tool servers, separated by spaces, that requests of the Responses API
            may name as their `server_url`; "" allows none.
        share: whether every `zonda mcp` of a user with the same settings uses one engine
            process, so that a model is in memory once; off keeps all in the host's own.
        engine_idle_s: seconds that the shared engine process stays after its last host left.
        policy_file: rules of which tools may be called, and with what; None has none but those
            of the list of servers.
        audit: whether each tool call leaves a line in `audit.jsonl` in the state folder.
        audit_contents: whether these lines hold arguments and results, too.
        oauth_issuer: issuer of the authorization server whose tokens `zonda serve` takes, beside
            keys; "" takes none.
        oauth_resource: URL at which clients reach `zonda serve`, which tokens have to name as
            their audience: https://…/mcp.
        oauth_scopes: scopes that a token needs, separated by spaces.
        oauth_keys: URL or file of the issuer's JWK Set; "" asks the issuer where it is.
        access_log: file to which `zonda serve` writes one JSON line per request, "-" for
            standard error; None writes none.
        otlp_endpoint: URL of an OpenTelemetry collector to which `zonda serve` sends spans of its
            requests, without their content; "" sends none.
        tls_cert: certificates, in PEM, with which `zonda serve` speaks HTTPS; with `tls_key`.
        tls_key: the private key of the certificate.
    """

    model: str = "smollm2-135m"
    cache_dir: Path = field(default_factory=lambda: platformdirs.user_cache_path("zonda"))
    state_dir: Path = field(default_factory=lambda: platformdirs.user_state_path("zonda"))
    device: str = "auto"
    threads: int = 0
    context_length: int = 0
    kv_cache_mib: int = 1024
    kv_type: str = "int8"
    max_sequences: int = 64
    max_queue: int = 1024
    max_step_tokens: int = 512
    max_step_ms: int = 50
    max_draft_tokens: int = 16
    keep_catalogues: bool = False
    host: str = "127.0.0.1"
    port: int = 8377
    drain_s: int = 30
    any_model_name: bool = False
    served_model_name: str = ""
    mcp_urls: str = ""
    share: bool = True
    engine_idle_s: int = 300
    policy_file: Path | None = None
    audit: bool = True
    audit_contents: bool = False
    oauth_issuer: str = ""
    oauth_resource: str = ""
    oauth_scopes: str = ""
    oauth_keys: str = ""
    access_log: Path | None = None
    otlp_endpoint: str = ""
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @property
    def audit_file(self) -> Path:
        """Where tool calls are written down."""
        return self.state_dir / "audit.jsonl"


@dataclass(frozen=True, slots=True)
class Settings:
    """A configuration, and who said what.

    Attributes:
        origins: by name: "flag", "default", the variable, or the file and its line.
        path: the file that was read, or would be if it were there.
        is_read: whether that file is there.
    """

    config: Config
    origins: Mapping[str, str]
    path: Path
    is_read: bool


@dataclass(frozen=True, slots=True)
class _Given:
    """A value that somebody gave: where, and whether it has to be parsed from text."""

    value: object
    origin: str
    is_text: bool = False


def load_config(
    environ: Mapping[str, str] | None = None, *, config_file: Path | None = None, **flags: Any
) -> Config:
    """As `load_settings`, without the origins."""
    return load_settings(environ, config_file=config_file, **flags).config


def load_settings(
    environ: Mapping[str, str] | None = None, *, config_file: Path | None = None, **flags: Any
) -> Settings:
    """Merge flags (None means not given), `ZONDA_<NAME>` variables, zonda.toml and defaults.

    Args:
        environ: the process's own where absent.
        config_file: has to be there; otherwise `ZONDA_CONFIG` names one that has to be there,
            otherwise zonda.toml in the platform's configuration folder is read if it is there.
        flags: by the names of `Config`.

    Raises:
        ConfigurationError: a file that cannot be read, an unknown setting, or a value of the
            wrong type or out of range; the message says where it stands.
    """
    environ = os.environ if environ is None else environ
    chosen = config_file or (Path(environ["ZONDA_CONFIG"]) if "ZONDA_CONFIG" in environ else None)
    path = (chosen or platformdirs.user_config_path("zonda") / "zonda.toml").expanduser()
    in_file = _read_file(path, is_wanted=chosen is not None)
    values: dict[str, Any] = {}
    origins = {}
    for item in fields(Config):
        given = _find(item.name, flags, environ, in_file or {})
        origins[item.name] = "default" if given is None else given.origin
        if given is not None:
            values[item.name] = _convert(item.name, str(item.type), given)
    config = Config(**values)
    _check(config, origins)
    return Settings(config, origins, path, is_read=in_file is not None)


def process_environment() -> Mapping[str, str]:
    """The process's environment, for whoever starts other processes."""
    return os.environ


def servers_file() -> Path:
    """Where Zonda's own list of MCP servers is, beside zonda.toml; it need not be there."""
    return platformdirs.user_config_path("zonda") / "mcp.json"


def prompts_folder() -> Path:
    """Where a user's prompt files are, beside zonda.toml; it need not be there."""
    return platformdirs.user_config_path("zonda") / "prompts"


def _find(
    name: str, flags: Mapping[str, Any], environ: Mapping[str, str], in_file: Mapping[str, _Given]
) -> _Given | None:
    variable = f"ZONDA_{name.upper()}"
    if flags.get(name) is not None:
        return _Given(flags[name], "flag")
    if variable in environ:
        return _Given(environ[variable], variable, is_text=True)
    return in_file.get(name)


def _read_file(path: Path, *, is_wanted: bool) -> dict[str, _Given] | None:
    """What a zonda.toml says, by name; None when it is not there and need not be."""
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except FileNotFoundError as exc:
        if is_wanted:
            raise ConfigurationError(f"no configuration is at {path}; see `zonda config`") from exc
        return None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"the configuration {path} cannot be read: {exc}") from exc
    except tomllib.TOMLDecodeError as exc:  # its message ends with the line
        raise ConfigurationError(f"{path} is no TOML: {exc}") from exc
    known = [item.name for item in fields(Config)]
    found = {}
    for name, value in document.items():
        origin = f"{path}, line {_line_of(name, text)}"
        if name not in known:
            raise ConfigurationError(
                f"{origin}: no setting is named {name!r}{suggest(name, known)}"
            )
        found[name] = _Given(value, origin)
    return found


def _line_of(name: str, text: str) -> int:
    """The line that sets a top-level key; 1 where it is spelled in a way we don't look for."""
    pattern = re.compile(rf"\s*\[*\s*[\"']?{re.escape(name)}[\"']?\s*[=.\]]")
    lines = enumerate(text.splitlines(), 1)
    return next((number for number, line in lines if pattern.match(line)), 1)


def _convert(name: str, type_name: str, given: _Given) -> object:
    """A value of the setting's type. Flags have it; text is parsed; a file's is checked."""
    value = _parse(type_name, str(given.value)) if given.is_text else given.value
    if type_name == "bool" and isinstance(value, bool):
        return value
    if type_name == "int" and isinstance(value, int) and not isinstance(value, bool):
        return value
    if type_name == "str" and isinstance(value, str | Path):
        return value
    if type_name in {"Path", "Path | None"} and isinstance(value, str | Path):
        return Path(value).expanduser()
    wanted = {"bool": "true or false", "int": "a whole number"}.get(type_name, "a text")
    raise ConfigurationError(f"{given.origin}: {name} must be {wanted}, not {given.value!r}")


def _parse(type_name: str, text: str) -> object:
    """A variable's value; the text itself where it is none of that type."""
    if type_name == "bool":
        return _BOOLS.get(text.lower(), text)
    if type_name == "int":
        with suppress(ValueError):
            return int(text)
    return text


def _check(config: Config, origins: Mapping[str, str]) -> None:
    def refuse(name: str, wanted: str) -> ConfigurationError:
        where = "" if origins[name] in {"flag", "default"} else f"{origins[name]}: "
        return ConfigurationError(f"{where}{name} must be {wanted}, not {getattr(config, name)!r}")

    if config.device not in {"auto", "cpu", "cuda"}:
        raise refuse("device", "auto, cpu or cuda")
    if config.kv_type not in {"int8", "bf16"}:
        raise refuse("kv_type", "int8 or bf16")
    if not 0 <= config.port <= 65535:
        raise refuse("port", "from 0 to 65535")
    if config.oauth_issuer and not config.oauth_resource:
        raise refuse("oauth_resource", "the URL of /mcp as clients know it, beside oauth_issuer")
    for name in ("threads", "context_length", "drain_s", "engine_idle_s", "max_draft_tokens"):
        if getattr(config, name) < 0:
            raise refuse(name, "at least 0")
    limits = ("kv_cache_mib", "max_sequences", "max_queue", "max_step_tokens", "max_step_ms")
    for name in limits:
        if getattr(config, name) < 1:
            raise refuse(name, "at least 1")
