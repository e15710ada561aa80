"""Which tool calls are made, which a person is asked about and which are refused.

Decides from a tool's definition and the operator's rules; never looks at what a model or
a tool wrote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from tools.mcp_client.config import ServerConfig, ToolPolicy
from tools.mcp_client.names import exposed_name, server_prefix
from tools.spec import ToolSpec

Decision = Literal["allow", "ask", "deny"]

_WRITE_WORDS = {"write", "overwrite"}
_DELETE_WORDS = {"delete", "remove", "rm", "erase", "drop"}
_RUN_WORDS = {"run", "exec", "execute", "shell", "kill"}
_SIDE_EFFECT_WORDS = frozenset(_WRITE_WORDS | _DELETE_WORDS | _RUN_WORDS)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What policy says about a call, and why, as the end of "…, because it …"."""

    decision: Decision
    reason: str


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules by configured server name; tools without a rule get the default of their kind.

    The operator named every server, so its tools are trusted: allowed, except tools
    marked destructive and hintless tools whose name says write, delete or run, which ask.
    """

    rules: Mapping[str, ToolPolicy] = field(default_factory=dict)

    @classmethod
    def of_servers(cls, servers: Mapping[str, ServerConfig]) -> Self:
        """Take the rules that stand in the configuration of these servers."""
        return cls({name: server.policy for name, server in servers.items()})

    def decide(self, tool: ToolSpec) -> Verdict:
        """Return what happens to calls of `tool`; deny goes before ask, ask before allow."""
        rules = self.rules.get(tool.server or "", ToolPolicy())
        if _names(rules.deny, tool):
            return Verdict("deny", "is on the deny list")
        if _names(rules.ask, tool):
            return Verdict("ask", "is on the ask list")
        if _names(rules.allow, tool):
            return Verdict("allow", "is on the allow list")
        return _default(tool)


def denial(tool: ToolSpec, verdict: Verdict) -> str:
    """Say that a call was refused, and which line of the configuration would allow it."""
    sentence = f"{tool.name} was not called, because it {verdict.reason}"
    if verdict.decision == "ask":
        sentence += " and nobody can be asked"
    if tool.server is None:
        return sentence + "."
    where = f'mcpServers["{tool.server}"]["x-runtime"].tools'
    if verdict.decision == "deny":
        return f"{sentence}: {where}.deny."
    return f'{sentence}; {where}.allow: ["{_rule_name(tool, tool.server)}"] would allow it.'


def _default(tool: ToolSpec) -> Verdict:
    hints = tool.annotations
    if tool.server is None:
        return Verdict("allow", "is a function of this program")
    if hints.destructive and not hints.read_only:
        return Verdict("ask", "is marked destructive")
    if hints.destructive is None and not hints.read_only:
        words = {word.lower() for word in _WORD.findall(_own_name(tool, tool.server))}
        if found := sorted(words & _SIDE_EFFECT_WORDS):
            return Verdict("ask", f"is not marked harmless and its name says {found[0]!r}")
    return Verdict("allow", "belongs to a server the operator named")


def _names(rules: Sequence[str], tool: ToolSpec) -> bool:
    """Whether a rule names the tool: by its name on its server, as offered, or all by `*`."""
    server = tool.server or ""
    return any(
        rule in {"*", tool.name} or exposed_name(server, rule) == tool.name for rule in rules
    )


def _own_name(tool: ToolSpec, server: str) -> str:
    return tool.name.removeprefix(server_prefix(server))


def _rule_name(tool: ToolSpec, server: str) -> str:
    own_name = _own_name(tool, server)
    return own_name if exposed_name(server, own_name) == tool.name else tool.name
