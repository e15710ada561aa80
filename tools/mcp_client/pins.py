"""Remembers which definitions of tools were approved; a definition that changed is held back.

What a model reads of a tool (name, description, input schema, annotations) is kept per server in
a file of the state folder. A tool that is seen for the first time is approved: the operator named
its server. Later only `approve` makes another definition count. Knows no connections.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mcp_types as types

from tools.errors import ConfigurationError
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.kept_files import SUFFIX, forget_kept, kept_path, sha256, stem, write_kept
from tools.spec import JsonObject

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DefinitionChange:
    """A tool whose definition is another than the approved one.

    `before` is None where the file of approved definitions was damaged.
    """

    server: str
    tool: str
    before: JsonObject | None
    after: JsonObject


@dataclass(frozen=True, slots=True)
class _Pinned:
    """What stands in a server's file: definitions by the server's own names of its tools."""

    server: str
    approved: Mapping[str, JsonObject]
    changed: Mapping[str, JsonObject]


class Pins:
    """The approved definitions of tools, in one file for each server's name and source.

    Several processes may use one folder: a file is replaced at once, and the last one wins.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def hold(self, config: ServerConfig, tools: Sequence[types.Tool]) -> tuple[str, ...]:
        """Return the names of the tools whose definition is not the approved one.

        New ones are approved; all is written down. Where that fails, the log says so.
        """
        found = {tool.name: definition(tool) for tool in tools}
        path = self._path(config)
        try:
            before = _read(path)
            pinned = before or _Pinned(config.name, {}, {})
        except ConfigurationError as exc:
            logger.warning("%s; the tools of server=%s are held back", exc, config.name)
            before, pinned = None, _Pinned(config.name, {}, found)
        after = _compare(pinned, found)
        if after != before:
            try:
                _write(path, after)
            except OSError as exc:
                logger.warning("server=%s: %s cannot be written: %s", config.name, path, exc)
        return tuple(sorted(found.keys() & after.changed.keys()))

    def stamp(self, config: ServerConfig) -> int:
        """Return a number that is another one once somebody has approved something."""
        try:
            return self._path(config).stat().st_mtime_ns
        except OSError:
            return 0

    def changes(self, server: str) -> Sequence[DefinitionChange]:
        """Return what is held back of the servers of this name.

        Raises:
            ConfigurationError: a file cannot be read.
        """
        return [
            DefinitionChange(server, name, pinned.approved.get(name), after)
            for _, pinned in self._files(server)
            for name, after in sorted(pinned.changed.items())
        ]

    def approve(self, server: str) -> None:
        """Approve what `changes` returns.

        Raises:
            ConfigurationError: a file cannot be read or written.
        """
        for path, pinned in self._files(server):
            if pinned.changed:
                approved = {**pinned.approved, **pinned.changed}
                try:
                    _write(path, _Pinned(server, approved, {}))
                except OSError as exc:
                    raise ConfigurationError(f"cannot write {path}: {exc.strerror}") from exc

    def forget(self, server: str) -> None:
        """Forget a server: what it offers next is approved at first sight."""
        forget_kept(self._folder, server)

    def _files(self, server: str) -> Iterator[tuple[Path, _Pinned]]:
        for path in sorted(self._folder.glob(f"{stem(server)}-*{SUFFIX}")):
            if (pinned := _read(path)) is not None and pinned.server == server:
                yield path, pinned

    def _path(self, config: ServerConfig) -> Path:
        source = [config.name, config.command, config.args, config.url]
        return kept_path(self._folder, config.name, source)


def _compare(pinned: _Pinned, found: Mapping[str, JsonObject]) -> _Pinned:
    """Return what is approved and what is not, now that a server offers these definitions."""
    approved, changed = dict(pinned.approved), dict(pinned.changed)
    for name, value in found.items():
        if name in approved and digest(approved[name]) == digest(value):
            changed.pop(name, None)
        elif name in approved or name in changed:
            changed[name] = value
        else:
            approved[name] = value
    return _Pinned(pinned.server, approved, changed)


def why_held(server: str, tools: Sequence[str]) -> str:
    """Say why tools are not offered, and what the operator can do."""
    return (
        f"the definition of {', '.join(tools)} has changed since it was approved, so it is "
        f"disabled; `zonda mcp approve {server}` shows the change and approves it"
    )


def definition(tool: types.Tool) -> JsonObject:
    """Return what a model or a policy goes by, as the server spells it."""
    hints = tool.annotations
    return {
        "name": tool.name,
        "description": tool.description,
        "inputSchema": tool.input_schema,
        "annotations": None if hints is None else hints.model_dump(by_alias=True, mode="json"),
    }


def digest(value: JsonObject) -> str:
    """Return the SHA-256 of a definition, whatever the order of its members."""
    return sha256(json.dumps(value, sort_keys=True))


def _read(path: Path) -> _Pinned | None:
    try:
        value: Any = json.loads(path.read_bytes())
        kept = _Pinned(value["server"], value["approved"], value["changed"])
        tables = (kept.approved, kept.changed)
        if not all(isinstance(one, dict) for table in tables for one in table.values()):
            raise TypeError("a definition is no object")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        text = f"the approved definitions in {path} cannot be read ({type(exc).__name__}: {exc})"
        raise ConfigurationError(text) from exc
    return kept


def _write(path: Path, pinned: _Pinned) -> None:
    value = {"server": pinned.server, "approved": pinned.approved, "changed": pinned.changed}
    write_kept(path, value)
