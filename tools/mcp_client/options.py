"""What an entry's `x-runtime` may say of a server beside its tools: what it may see and use.

```json
{"roots": ["~/project", {"uri": "file:///data", "name": "Data"}],
 "sampling": {"allow": true, "max_tokens": 512, "per_minute": 10, "tools": false},
 "max_parallel": 4, "start": "first use",
 "limits": {"cpu_s": 600, "memory_mb": 4096, "processes": 64},
 "sandbox": {"kind": "bwrap", "network": false,
             "write": ["~/project"], "read_only": ["~/project/.git"], "hide": ["~/.ssh"]}}
```

Knows no processes and no protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from tools.errors import ConfigurationError
from tools.mcp_client.variables import Variables

_Count = Annotated[int, Field(ge=1, le=1_000_000)]


@dataclass(frozen=True, slots=True)
class Root:
    """A folder that a server is told it may work in; `uri` is a `file:` one."""

    uri: str
    name: str | None = None

    @property
    def path(self) -> Path:
        return Path(unquote(urlsplit(self.uri).path))


@dataclass(frozen=True, slots=True)
class SamplingBudget:
    """How much a server may let our model write: tokens of an answer, answers a minute."""

    max_tokens: int = 512
    per_minute: int = 10
    has_tools: bool = False


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """Limits of each process of a server; None for none. Enforced on Linux.

    Attributes:
        cpu_s: seconds of processor time in its life.
        memory_mb: MiB of memory of its own; address space that is only reserved does not count.
        num_processes: processes and threads beyond those that its user has when it starts. The
            system does not hold the superuser to it.
    """

    cpu_s: int | None = None
    memory_mb: int | None = 4096
    num_processes: int | None = None


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A server run by `bwrap`: it reads files but those of `hidden`, and writes in `writable`.

    Attributes:
        has_network: whether it reaches the network; otherwise not even this machine's services.
        read_only: what it may not write within `writable`.
    """

    has_network: bool = False
    writable: tuple[Path, ...] = ()
    read_only: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """What a server may see and use.

    Attributes:
        roots: what it is told when it asks for roots; it is not asked to where there are none.
        sampling: what it may ask our model for; None for nothing.
        max_parallel: calls that it gets at the same time; others wait for their turn.
        is_lazy: whether it is started on first use where it is known what it offers.
    """

    roots: tuple[Root, ...] = ()
    sampling: SamplingBudget | None = None
    max_parallel: int = 4
    is_lazy: bool = True
    limits: ProcessLimits = ProcessLimits()
    sandbox: Sandbox | None = None


class _RootEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    uri: str
    name: str | None = None


class _SamplingEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    allow: bool = False
    max_tokens: _Count = 512
    per_minute: _Count = 10
    tools: bool = False


class _LimitsEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    cpu_s: _Count | None = None
    memory_mb: _Count | None = 4096
    processes: _Count | None = None


class _SandboxEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["bwrap"]
    network: bool = False
    write: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()


class OptionsEntry(BaseModel):
    """The options as they stand in the file."""

    roots: tuple[str | _RootEntry, ...] = ()
    sampling: _SamplingEntry = _SamplingEntry()
    max_parallel: Annotated[int, Field(ge=1, le=256)] = 4
    start: Literal["first use", "at once"] = "first use"
    limits: _LimitsEntry = _LimitsEntry()
    sandbox: Literal["bwrap", "none"] | _SandboxEntry = "none"

    def options(self, variables: Variables) -> Options:
        """Return what the file means.

        Raises:
            ConfigurationError: a root is no local folder, or a variable is not set.
        """
        asked, limits = self.sampling, self.limits
        budget = SamplingBudget(asked.max_tokens, asked.per_minute, asked.tools)
        return Options(
            roots=tuple(_root(entry, variables) for entry in self.roots),
            sampling=budget if asked.allow else None,
            max_parallel=self.max_parallel,
            is_lazy=self.start == "first use",
            limits=ProcessLimits(limits.cpu_s, limits.memory_mb, limits.processes),
            sandbox=self._sandbox(variables),
        )

    def _sandbox(self, variables: Variables) -> Sandbox | None:
        if self.sandbox == "none":
            return None
        entry = _SandboxEntry(kind="bwrap") if self.sandbox == "bwrap" else self.sandbox
        writable, read_only, hidden = (
            tuple(_path(text, variables) for text in texts)
            for texts in (entry.write, entry.read_only, entry.hide)
        )
        return Sandbox(entry.network, writable, read_only, hidden)


def _path(text: str, variables: Variables) -> Path:
    return (variables.folder / Path(variables.expand(text)).expanduser()).absolute()


def _root(entry: str | _RootEntry, variables: Variables) -> Root:
    text, name = (entry, None) if isinstance(entry, str) else (entry.uri, entry.name)
    uri = variables.expand(text)
    if not uri.startswith("file:"):
        if "://" in uri:
            raise ConfigurationError(f"roots: {text!r} is no local folder: give a path or file:///")
        return Root(_path(text, variables).as_uri(), name)
    parts = urlsplit(uri)
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise ConfigurationError(
            f"roots: {text!r} is no local folder: give file:///, then its path"
        )
    return Root(f"file://{parts.path}", name)
