"""Settings, read once and frozen: flags over `ZONDA_*` variables over defaults.

The only module that reads the environment. Components take the values they use.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import platformdirs

from tools.errors import ConfigurationError


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
        max_sequences: most sequences that run at the same time.
        max_queue: most sequences that wait.
        max_step_tokens: most tokens of one step, prefill and decode together.
    """

    model: str = "smollm2-135m"
    cache_dir: Path = field(default_factory=lambda: platformdirs.user_cache_path("zonda"))
    state_dir: Path = field(default_factory=lambda: platformdirs.user_state_path("zonda"))
    device: str = "auto"
    threads: int = 0
    context_length: int = 0
    kv_cache_mib: int = 1024
    max_sequences: int = 64
    max_queue: int = 1024
    max_step_tokens: int = 512


def load_config(environ: Mapping[str, str] | None = None, **flags: Any) -> Config:
    """Merge flags (None means not given) over `ZONDA_<NAME>` variables over defaults.

    Raises:
        ConfigurationError: a value of the wrong type or out of range.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for item in fields(Config):
        variable = f"ZONDA_{item.name.upper()}"
        if flags.get(item.name) is not None:
            values[item.name] = flags[item.name]
        elif variable in environ:
            values[item.name] = _parse(variable, item.type, environ[variable])
    config = Config(**values)
    _check(config)
    return config


def process_environment() -> Mapping[str, str]:
    """The process's environment, for whoever starts other processes."""
    return os.environ


def _parse(variable: str, type_name: object, text: str) -> object:
    if type_name == "Path":
        return Path(text).expanduser()
    if type_name == "int":
        try:
            return int(text)
        except ValueError as exc:
            raise ConfigurationError(f"{variable} must be a whole number, not {text!r}") from exc
    return text


def _check(config: Config) -> None:
    if config.device not in {"auto", "cpu", "cuda"}:
        raise ConfigurationError(f"device must be auto, cpu or cuda, not {config.device!r}")
    for name in ("threads", "context_length"):
        if getattr(config, name) < 0:
            raise ConfigurationError(f"{name} must be at least 0, not {getattr(config, name)}")
    for name in ("kv_cache_mib", "max_sequences", "max_queue", "max_step_tokens"):
        if getattr(config, name) < 1:
            raise ConfigurationError(f"{name} must be at least 1, not {getattr(config, name)}")
