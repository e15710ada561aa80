"""Which tool calls are made, which a person is asked about and which are refused.

Decides from a tool's definition, its arguments and the operator's rules; what a model or a
tool wrote is compared with patterns, and never obeyed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from runtime.agent.patterns import Pattern, Scalar, fits_any, is_unplaced
from runtime.agent.rules import ANY_SERVER, Decision, PolicyFile, Rule, ServerRules
from runtime.agent.taint import brings_text, can_send, words_of
from tools.errors import suggest
from tools.mcp_client.config import ServerConfig, ToolPolicy
from tools.mcp_client.names import exposed_name, server_prefix
from tools.spec import JsonObject, ToolSpec

logger = logging.getLogger(__name__)

_WRITE_WORDS = {"write", "overwrite"}
_DELETE_WORDS = {"delete", "remove", "rm", "erase", "drop"}
_RUN_WORDS = {"run", "exec", "execute", "shell", "kill"}
_SIDE_EFFECT_WORDS = frozenset(_WRITE_WORDS | _DELETE_WORDS | _RUN_WORDS)
_MAX_TOLD_CHARS = 200


@dataclass(frozen=True, slots=True)
class Verdict:
    """What policy says about a call.

    Attributes:
        decision: whether it is made.
        reason: why, as the end of "…, because it …"; says nothing of the arguments.
        remedy: which line of which file would allow it; empty where it is allowed.
    """

    decision: Decision
    reason: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules of the list of servers and of a policy file; else each tool's kind decides.

    The operator named every server, so its tools are trusted: allowed, except tools
    marked destructive and hintless tools whose name says write, delete or run, which ask.

    Attributes:
        rules: of the list of servers, by the server's name.
        file: of a policy file; the stricter of the two holds.
    """

    rules: Mapping[str, ToolPolicy] = field(default_factory=dict)
    file: PolicyFile | None = None

    @classmethod
    def of_servers(
        cls, servers: Mapping[str, ServerConfig], file: PolicyFile | None = None
    ) -> Self:
        """Take the rules that stand in the configuration of these servers, and a file's."""
        if file is not None:
            for name in file.unknown_servers(servers):
                hint = suggest(name, servers)
                logger.warning("%s: servers.%s is no configured server%s", file.path, name, hint)
        return cls({name: server.policy for name, server in servers.items()}, file)

    def decide(
        self, tool: ToolSpec, arguments: JsonObject | None = None, tainted_by: str | None = None
    ) -> Verdict:
        """Return what happens to a call; deny goes before ask, ask before allow.

        Args:
            tool: what is called.
            arguments: with what; None asks what happens whatever they are.
            tainted_by: the tool that brought text of strangers into the conversation.
        """
        verdict = self._decide(tool, arguments)
        if tainted_by is None or verdict.decision != "allow" or not can_send(tool):
            return verdict
        said = (one.when_tainted for one in self._settings(tool) if one.when_tainted)
        decision: Decision = next(said, "ask")
        if decision == "allow":
            return verdict
        reason = f"can send data out after a result of {tainted_by} that strangers may have written"
        return Verdict(decision, reason, self._line(tool, 'when_tainted = "allow"'))

    def taints(self, tool: ToolSpec) -> bool:
        """Whether results of this tool are not to be trusted."""
        said = (one.taints for one in self._settings(tool) if one.taints is not None)
        return next(said, brings_text(tool))

    def _decide(self, tool: ToolSpec, arguments: JsonObject | None) -> Verdict:
        for rule in self._find("deny", tool):
            if rule.fits(arguments, is_cautious=True):
                remedy = "taking it from there"
                return Verdict("deny", f"is on the deny list ({rule.place})", remedy)
        for rule in self._find("ask", tool):
            if rule.fits(arguments, is_cautious=True):
                remedy = "moving it to the allow list beside it"
                return Verdict("ask", f"is on the ask list ({rule.place})", remedy)
        allowing = list(self._find("allow", tool))
        for rule in allowing:
            if rule.fits(arguments, is_cautious=False):
                return Verdict("allow", f"is on the allow list ({rule.place})")
        return self._limited(tool, arguments, allowing) if allowing else self._default(tool)

    def _limited(
        self, tool: ToolSpec, arguments: JsonObject | None, allowing: Sequence[Rule]
    ) -> Verdict:
        """What happens to a tool that is allowed with some arguments, and not these."""
        is_denied = arguments is not None and self._default(tool).decision == "deny"
        given = arguments or {}
        told = {name: given.get(name) for rule in allowing for name in rule.arguments}
        reason = f"is allowed with other arguments only ({allowing[0].place})"
        remedy = self._line(tool, _allow(tool, told if all(map(_is_told, told.values())) else {}))
        return Verdict("deny" if is_denied else "ask", reason, remedy)

    def _default(self, tool: ToolSpec) -> Verdict:
        decision, reason = _kind(tool)
        for settings in self._settings(tool):
            if settings.default is not None:
                decision, reason = settings.default, f"has no rule (default of {settings.place})"
                break
        remedy = "" if decision == "allow" else self._line(tool, _allow(tool))
        return Verdict(decision, reason, remedy)

    def _settings(self, tool: ToolSpec) -> list[ServerRules]:
        """What the file says of the tool's server, and then of all servers."""
        if self.file is None or tool.server is None:
            return []
        names = (tool.server, ANY_SERVER)
        return [self.file.servers[name] for name in names if name in self.file.servers]

    def _find(self, decision: Decision, tool: ToolSpec) -> Iterator[Rule]:
        """All rules about a tool that decide so."""
        listed = self.rules.get(tool.server or "", ToolPolicy())
        names = {"allow": listed.allow, "ask": listed.ask, "deny": listed.deny}[decision]
        place = f'mcpServers["{tool.server}"]["x-runtime"].tools.{decision}'
        rules = [Rule(name, place) for name in names]
        for settings in self._settings(tool):
            rules += settings.rules.get(decision, ())
        return (rule for rule in rules if rule.names(tool))

    def _line(self, tool: ToolSpec, line: str) -> str:
        """Where a line would have to stand; nowhere for a function of this program."""
        if tool.server is None:
            return ""
        server = json.dumps(tool.server, ensure_ascii=False)
        if self.file is not None:
            return f"{line} under [servers.{server}] in {self.file.path}"
        if line.startswith("allow"):  # arguments are limited in files only
            return f'mcpServers[{server}]["x-runtime"].tools.{line.replace(" = ", ": ", 1)}'
        return f"{line} under [servers.{server}] in a policy file (--policy)"


def denial(tool: ToolSpec, verdict: Verdict) -> str:
    """Say that a call was refused, and which line of the configuration would allow it."""
    sentence = f"{tool.name} was not called, because it {verdict.reason}"
    if verdict.decision == "ask":
        sentence += " and nobody can be asked"
    return f"{sentence}; {verdict.remedy} would allow it." if verdict.remedy else f"{sentence}."


def _kind(tool: ToolSpec) -> tuple[Decision, str]:
    """What is done with a tool that no rule names, and why."""
    hints = tool.annotations
    if tool.server is None:
        return "allow", "is a function of this program"
    if hints.destructive and not hints.read_only:
        return "ask", "is marked destructive"
    found = sorted(words_of(tool) & _SIDE_EFFECT_WORDS)
    if found and hints.destructive is None and not hints.read_only:
        return "ask", f"is not marked harmless and its name says {found[0]!r}"
    return "allow", "belongs to a server the operator named"


def _is_told(value: Any) -> bool:
    """Whether a pattern can say that an argument may be this."""
    values = value if isinstance(value, list) else [value]
    patterns = [Pattern(one) for one in values if isinstance(one, Scalar) and not is_unplaced(one)]
    is_short = len(json.dumps(value)) <= _MAX_TOLD_CHARS
    return is_short and fits_any(patterns, value, is_cautious=False)


def _allow(tool: ToolSpec, arguments: Mapping[str, Any] | None = None) -> str:
    """A line that would allow a call, with these arguments or any."""
    server = tool.server or ""
    own_name = tool.name.removeprefix(server_prefix(server))
    name = json.dumps(own_name if exposed_name(server, own_name) == tool.name else tool.name)
    if not arguments:
        return f"allow = [{name}]"
    told = ", ".join(
        f"{_key(name)} = {json.dumps(value, ensure_ascii=False)}"
        for name, value in arguments.items()
    )
    return f"allow = [{{ tool = {name}, arguments = {{ {told} }} }}]"


def _key(key: str) -> str:
    is_bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if is_bare else json.dumps(key)
