"""A model and the tools of MCP servers, opened together for one command."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

from mcp_servers.cli.tool_servers import load_rules, open_audit
from runtime.agent.audit import AuditLog
from runtime.agent.events import AgentEnd, AgentEvent
from runtime.agent.loop import AgentModel
from runtime.agent.policy import Policy
from runtime.config import Config
from runtime.hub import Hub
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.pins import Pins
from tools.mcp_client.server import ServerState
from tools.mcp_client.toolset import open_toolset
from tools.toolset import Toolset


@dataclass(frozen=True, slots=True)
class Session:
    """A loaded model with its tools, their policy and audit log, and their servers' states."""

    model_name: str
    model: AgentModel
    toolset: Toolset
    policy: Policy
    states: Callable[[], Mapping[str, ServerState]]
    audit: AuditLog | None = None


@asynccontextmanager
async def open_session(
    config: Config, servers: Mapping[str, ServerConfig], pins: Pins | None = None
) -> AsyncIterator[Session]:
    """Start the tool servers and load the model meanwhile; leaving ends both.

    Raises:
        ZondaError: the model cannot be loaded, or the policy file is wrong.
    """
    policy = load_rules(config, servers)
    async with AsyncExitStack() as stack:
        toolset = await stack.enter_async_context(open_toolset(servers, pins=pins))
        hub = await stack.enter_async_context(Hub(config))
        model = await hub.get(None)
        audit = open_audit(config)
        yield Session(config.model, model, toolset, policy, toolset.states, audit)


async def watch(
    events: AsyncGenerator[AgentEvent, None], show: Callable[[AgentEvent], None]
) -> AgentEnd:
    """Show a run's events as they come; return the last."""
    async with aclosing(events):
        async for event in events:
            show(event)
            if isinstance(event, AgentEnd):
                return event
    raise AssertionError("an agent's last event is its end")
