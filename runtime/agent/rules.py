"""Reads a policy file: an operator's rules of which tools may be called, and with what.

```toml
[servers.filesystem]                # a name of the list of servers; "*" is all of them
deny = [{ tool = "*", arguments = { path = "**/.ssh/**" } }]
ask = ["move_file"]
allow = ["read_*", { tool = "write_file", arguments = { path = "/home/me/notes/**" } }]
default = "ask"                     # of tools that no rule names; else hints and names decide

[servers.fetch]
taints = true                       # what it returns is not to be trusted; else hints decide
when_tainted = "deny"               # what may send data out, after such a result; else "ask"
```

Tools are named as on their server, or as they are offered; `*` and `?` are wildcards. Of what
arguments may be, see `runtime.agent.patterns`; a list of patterns is a choice.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from runtime.agent.patterns import Pattern, Scalar, fits_any, glob, is_unplaced
from tools.errors import ConfigurationError, suggest
from tools.mcp_client.names import exposed_name, server_prefix
from tools.spec import JsonObject, ToolSpec

Decision = Literal["allow", "ask", "deny"]

ANY_SERVER = "*"
_DECISIONS: tuple[Decision, ...] = get_args(Decision)
_KEYS = (*_DECISIONS, "default", "taints", "when_tainted")


@dataclass(frozen=True, slots=True)
class Rule:
    """Names tools, and what their arguments may be.

    Attributes:
        tool: a name or a glob.
        place: where the rule stands, as a person finds it.
        arguments: what the named arguments may be, any of several; others may be anything.
    """

    tool: str
    place: str
    arguments: Mapping[str, tuple[Pattern, ...]] = field(default_factory=dict)

    def names(self, tool: ToolSpec) -> bool:
        """Whether the rule is about this tool, called by its own or its offered name."""
        server = tool.server or ""
        own_name = tool.name.removeprefix(server_prefix(server))
        is_exact = exposed_name(server, self.tool) == tool.name
        return is_exact or glob(self.tool, own_name) or glob(self.tool, tool.name)

    def fits(self, arguments: JsonObject | None, *, is_cautious: bool) -> bool:
        """Whether a call with these arguments is meant; None: whether every call is."""
        if arguments is None:
            return not self.arguments
        return all(
            name in arguments and fits_any(patterns, arguments[name], is_cautious=is_cautious)
            for name, patterns in self.arguments.items()
        )


@dataclass(frozen=True, slots=True)
class ServerRules:
    """What the file says of one server, or of all; None where it says nothing.

    Attributes:
        place: where it stands, as a person finds it.
        rules: by what they decide.
        default: decides about tools that no rule names.
        taints: whether results are not to be trusted.
        when_tainted: decides about tools that may send data out, after such results.
    """

    place: str = ""
    rules: Mapping[Decision, tuple[Rule, ...]] = field(default_factory=dict)
    default: Decision | None = None
    taints: bool | None = None
    when_tainted: Decision | None = None


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """The rules of a file, by the server's name, or `ANY_SERVER`."""

    path: Path
    servers: Mapping[str, ServerRules] = field(default_factory=dict)

    def unknown_servers(self, known: Collection[str]) -> list[str]:
        """Servers that there are rules of, and that are not known: likely misspelled."""
        return sorted(self.servers.keys() - {*known, ANY_SERVER})


def load_policy(path: Path) -> PolicyFile:
    """Read a policy file.

    Raises:
        ConfigurationError: it cannot be read, is no TOML, or says what no policy can; the
            message names the file and the place.
    """
    try:
        return parse_policy(path.read_bytes().decode("utf-8"), path)
    except OSError as exc:
        raise ConfigurationError(f"cannot read the policy {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path}: not UTF-8 at byte {exc.start}") from exc


def parse_policy(text: str, path: Path) -> PolicyFile:
    """As `load_policy`, of a text that is, or will be, the file's.

    Raises:
        ConfigurationError: as `load_policy`.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:  # its message ends with the line
        raise ConfigurationError(f"{path} is no TOML: {exc}") from exc
    except RecursionError as exc:
        raise ConfigurationError(f"{path} is no policy: it nests too deep") from exc
    _check_keys(document, ("servers",), path, "")
    found = _table(document.get("servers", {}), path, "servers")
    servers = {name: _server(part, path, f"servers.{name}") for name, part in found.items()}
    return PolicyFile(path, servers)


def _server(value: Any, path: Path, place: str) -> ServerRules:
    table = _table(value, path, place)
    _check_keys(table, _KEYS, path, place)
    rules: dict[Decision, tuple[Rule, ...]] = {}
    for decision in _DECISIONS:
        listed = table.get(decision, [])
        if not isinstance(listed, list):
            raise _wrong(path, f"{place}.{decision}", "a list of tools", listed)
        rules[decision] = tuple(
            _rule(one, path, f"{place}.{decision}[{at}]") for at, one in enumerate(listed)
        )
    taints = table.get("taints")
    if taints is not None and not isinstance(taints, bool):
        raise _wrong(path, f"{place}.taints", "true or false", taints)
    default = _decision(table.get("default"), path, f"{place}.default")
    when_tainted = _decision(table.get("when_tainted"), path, f"{place}.when_tainted")
    return ServerRules(f"{place} of {path}", rules, default, taints, when_tainted)


def _rule(value: Any, path: Path, place: str) -> Rule:
    where = f"{place} of {path}"
    if isinstance(value, str) and value:
        return Rule(value, where)
    if not isinstance(value, dict):
        raise _wrong(path, place, 'a tool\'s name or { tool = "…", arguments = { … } }', value)
    _check_keys(value, ("tool", "arguments"), path, place)
    tool = value.get("tool")
    if not (isinstance(tool, str) and tool):
        raise _wrong(path, f"{place}.tool", "a tool's name", tool)
    arguments = _table(value.get("arguments", {}), path, f"{place}.arguments")
    patterns = {
        name: _patterns(one, path, f"{place}.arguments.{name}") for name, one in arguments.items()
    }
    return Rule(tool, where, patterns)


def _patterns(value: Any, path: Path, place: str) -> tuple[Pattern, ...]:
    values = value if isinstance(value, list) and value else [value]
    for one in values:
        if not isinstance(one, Scalar):
            raise _wrong(path, place, "a text, number or truth value, or a list of them", one)
        if is_unplaced(one):
            raise _wrong(path, place, "a path that begins with /, ~/ or **/", one)
    return tuple(map(Pattern, values))


def _decision(value: Any, path: Path, place: str) -> Decision | None:
    if value is not None and value not in _DECISIONS:
        raise _wrong(path, place, "allow, ask or deny", value)
    return next((decision for decision in _DECISIONS if decision == value), None)


def _table(value: Any, path: Path, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, place, "a table", value)
    return value


def _check_keys(table: Mapping[str, Any], known: Collection[str], path: Path, place: str) -> None:
    for key in table:
        if key not in known:
            within = f"{place}: " if place else ""
            raise ConfigurationError(
                f"{path}: {within}no key is named {key!r}{suggest(key, known)}"
            )


def _wrong(path: Path, place: str, wanted: str, found: Any) -> ConfigurationError:
    said = "nothing" if found is None else repr(found)
    return ConfigurationError(f"{path}: {place} must be {wanted}, not {said}")
