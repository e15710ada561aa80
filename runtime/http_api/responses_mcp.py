"""The tool servers of a response: which of their tools it has, and which calls ask first.

Only servers of the operator's configuration are here. What the request says can make a call ask,
and can never allow what the operator's policy asks about or denies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from runtime.agent.audit import AuditLog
from runtime.agent.policy import Policy, Verdict
from runtime.http_api.faults import bad_request
from runtime.http_api.responses_messages import own_name
from runtime.http_api.responses_shapes import ApprovalFilter, FunctionTool, McpTool, ToolFilter
from tools.errors import UnknownToolError, suggest
from tools.spec import JsonObject, ToolResult, ToolSpec
from tools.toolset import CallContext, CombinedToolset, FilteredToolset, Toolset


@dataclass(frozen=True, slots=True)
class ToolAccess:
    """The tool servers of the configuration, opened.

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


def check_servers(tools: Sequence[FunctionTool | McpTool], known: Sequence[str]) -> None:
    """Refuse what is no server of the configuration.

    Raises:
        FaultError: names the field.
    """
    for at, tool in enumerate(tools):
        if not isinstance(tool, McpTool):
            continue
        where = f"tools[{at}]"
        for name in ("server_url", "connector_id", "tunnel_id", "headers", "authorization"):
            if getattr(tool, name) is not None:
                text = (
                    "only tool servers of this server's configuration can be used, by their"
                    " server_label; the operator adds them with --mcp-config"
                )
                raise bad_request(text, f"{where}.{name}")
        if tool.allowed_callers is not None and "direct" not in tool.allowed_callers:
            raise bad_request("the only caller is 'direct'", f"{where}.allowed_callers")
        if tool.server_label not in known:
            text = f"no tool server is named {tool.server_label!r}"
            text += suggest(tool.server_label, known)
            raise bad_request(text, f"{where}.server_label")


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
