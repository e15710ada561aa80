"""The tool servers of a response: which of their tools it has, and which calls ask first.

Only servers of the operator's configuration are here, and those at URLs that it allows. What the
request says can make a call ask, and never allows what the operator's policy asks about or denies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from runtime.agent.audit import AuditLog
from runtime.agent.policy import Policy, Verdict
from runtime.http_api.faults import bad_request
from runtime.http_api.responses_messages import own_name
from runtime.http_api.responses_shapes import AnyTool, ApprovalFilter, McpTool, ToolFilter
from tools.errors import UnknownToolError, suggest
from tools.spec import JsonObject, ToolResult, ToolSpec
from tools.toolset import CallContext, CombinedToolset, FilteredToolset, Toolset

_LABEL = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{0,8192}")
_NOT_SENT = frozenset(
    ("host", "connection", "content-length", "content-type", "transfer-encoding", "accept")
)


@dataclass(frozen=True, slots=True)
class ToolSources:
    """Which tool servers requests may use: by these names, and at these URLs."""

    names: Sequence[str] = ()
    urls: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class UrlServer:
    """A tool server that a request brings: where it is, and what is sent to it."""

    label: str
    url: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ToolAccess:
    """The tool servers of a response, opened.

    Attributes:
        why_absent: by a server's name, why it offers nothing; None where it is there.
    """

    toolset: Toolset
    policy: Policy
    audit: AuditLog | None
    why_absent: Callable[[str], str | None]


@dataclass(frozen=True)
class AskingPolicy(Policy):
    """The operator's policy, and tools that ask first where it would allow them."""

    asking: frozenset[str] = field(default_factory=frozenset)

    def decide(
        self, tool: ToolSpec, arguments: JsonObject | None = None, tainted_by: str | None = None
    ) -> Verdict:
        verdict = Policy.decide(self, tool, arguments, tainted_by)
        if verdict.decision == "allow" and tool.name in self.asking:
            return Verdict("ask", "needs the client's approval (require_approval)")
        return verdict


@dataclass(frozen=True, slots=True)
class OfferedTools:
    """What a response's model may call.

    Attributes:
        toolset: the client's functions, which nobody here calls, and the servers' tools.
        specs: what it lists.
        by_label: the servers' tools by label.
    """

    toolset: Toolset
    policy: Policy
    audit: AuditLog | None
    specs: tuple[ToolSpec, ...]
    by_label: Mapping[str, tuple[ToolSpec, ...]]
    errors: Mapping[str, str]

    @property
    def servers(self) -> dict[str, str]:
        """Of each tool that is called here, its server."""
        return {spec.name: label for label, specs in self.by_label.items() for spec in specs}


def check_servers(tools: Sequence[AnyTool], sources: ToolSources) -> None:
    """Refuse servers that are neither in the configuration nor at a URL that it allows.

    Raises:
        FaultError: names the field.
    """
    for at, tool in enumerate(tools):
        if not isinstance(tool, McpTool):
            continue
        where = f"tools[{at}]"
        for name in ("connector_id", "tunnel_id"):
            if getattr(tool, name) is not None:
                raise bad_request("only a hosted service has these", f"{where}.{name}")
        if tool.allowed_callers is not None and "direct" not in tool.allowed_callers:
            raise bad_request("the only caller is 'direct'", f"{where}.allowed_callers")
        if tool.server_url is None:
            _check_label(tool, sources, where)
        else:
            _check_url(tool, tool.server_url, sources, where)


def _check_label(tool: McpTool, sources: ToolSources, where: str) -> None:
    for name in ("headers", "authorization"):
        if getattr(tool, name) is not None:
            text = "the configuration says what this server is sent"
            raise bad_request(text, f"{where}.{name}")
    if tool.server_label not in sources.names:
        text = f"no tool server is named {tool.server_label!r}"
        text += suggest(tool.server_label, sources.names)
        raise bad_request(text, f"{where}.server_label")


def _check_url(tool: McpTool, url: str, sources: ToolSources, where: str) -> None:
    if url not in sources.urls:
        text = (
            "this URL is not among those that this server's operator allows (ZONDA_MCP_URLS);"
            " servers of its configuration are used by their server_label alone"
        )
        raise bad_request(text, f"{where}.server_url")
    if tool.server_label in sources.names:  # whose rules it would have
        text = f"{tool.server_label!r} is a server of the configuration; choose another label"
        raise bad_request(text, f"{where}.server_label")
    if not _LABEL.fullmatch(tool.server_label):
        text = "a label is 1 to 64 letters, digits, _ and -"
        raise bad_request(text, f"{where}.server_label")
    for name, value in (tool.headers or {}).items():
        if not _HEADER.fullmatch(name) or name.lower() in _NOT_SENT:
            raise bad_request("this header cannot be sent", f"{where}.headers")
        if not _HEADER_VALUE.fullmatch(value):
            raise bad_request("a header's value is visible ASCII", f"{where}.headers")
    if not _HEADER_VALUE.fullmatch(tool.authorization or ""):
        raise bad_request("a token is visible ASCII", f"{where}.authorization")


def servers_by_url(wanted: Sequence[McpTool]) -> list[UrlServer]:
    """The servers that a request brings, which `check_servers` has let through."""
    found: list[UrlServer] = []
    for tool in wanted:
        if tool.server_url is not None:
            headers = dict(tool.headers or {})
            if tool.authorization is not None:
                headers["authorization"] = f"Bearer {tool.authorization}"
            found.append(UrlServer(tool.server_label, tool.server_url, headers))
    return found


async def offer_tools(
    access: ToolAccess, wanted: Sequence[McpTool], functions: Sequence[ToolSpec]
) -> OfferedTools:
    """Ask the servers what they offer, and put the client's functions beside it.

    Raises:
        FaultError: a function has the name of a server's tool.
    """
    by_server = {tool.server_label: tool for tool in wanted}
    toolset = FilteredToolset(
        access.toolset,
        lambda spec: (
            (spec.server or "") in by_server and _is_allowed(by_server[spec.server or ""], spec)
        ),
    )
    listed = await toolset.list_tools()
    names = {spec.name for spec in listed}
    for spec in functions:
        if spec.name in names:
            raise bad_request(f"a tool server has a tool {spec.name!r} too", "tools")
    by_label = {
        label: tuple(spec for spec in listed if spec.server == label) for label in by_server
    }
    missing = {label: access.why_absent(label) for label, specs in by_label.items() if not specs}
    asking = frozenset(spec.name for spec in listed if _asks(by_server[spec.server or ""], spec))
    return OfferedTools(
        CombinedToolset(ClientFunctions(functions), toolset),
        AskingPolicy(access.policy.rules, access.policy.file, asking),
        access.audit,
        (*functions, *listed),
        by_label,
        {label: why for label, why in missing.items() if why is not None},
    )


def write_listed(label: str, specs: Sequence[ToolSpec]) -> list[JsonObject]:
    """A server's tools as an item lists them."""
    return [
        {
            "name": own_name(label, spec.name),
            "description": spec.description,
            "input_schema": spec.input_schema,
            "annotations": {
                "readOnlyHint": bool(spec.annotations.read_only),
                "destructiveHint": spec.annotations.destructive,
            },
        }
        for spec in specs
    ]


@dataclass(frozen=True, slots=True)
class ClientFunctions:
    """Functions that the client calls itself: they are listed, and a call never comes here."""

    specs: Sequence[ToolSpec]

    async def list_tools(self) -> Sequence[ToolSpec]:
        return [replace(spec, server=None) for spec in self.specs]

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> ToolResult:
        raise UnknownToolError(name, [])


def _is_allowed(tool: McpTool, spec: ToolSpec) -> bool:
    allowed = tool.allowed_tools
    if isinstance(allowed, list):
        return own_name(tool.server_label, spec.name) in allowed
    return allowed is None or _fits(allowed, tool.server_label, spec)


def _asks(tool: McpTool, spec: ToolSpec) -> bool:
    """Whether the client wants to be asked; where it says nothing, always."""
    wish = tool.require_approval
    if not isinstance(wish, ApprovalFilter):
        return wish != "never"
    if wish.always is not None and _fits(wish.always, tool.server_label, spec):
        return True
    return wish.never is None or not _fits(wish.never, tool.server_label, spec)


def _fits(wanted: ToolFilter, label: str, spec: ToolSpec) -> bool:
    if wanted.tool_names is not None and own_name(label, spec.name) not in wanted.tool_names:
        return False
    is_read_only = bool(spec.annotations.read_only)
    return wanted.read_only is None or wanted.read_only == is_read_only
