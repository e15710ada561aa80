"""A model and the tools of MCP servers, opened together for one command."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

from mcp_servers.cli.mentions import ServerContent, expand
from mcp_servers.cli.tool_servers import load_rules, open_audit
from runtime.agent.audit import AuditLog
from runtime.agent.events import AgentEnd, AgentEvent
from runtime.agent.loop import AgentModel
from runtime.agent.policy import Policy
from runtime.agent.sampling import NamedModel, model_sampler
from runtime.chat.messages import Message
from runtime.config import Config
from runtime.hub import Hub
from tools.mcp_client.catalogue_store import CatalogueStore
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.pins import Pins
from tools.mcp_client.server import ServerState
from tools.mcp_client.token_store import TokenStore
from tools.mcp_client.toolset import open_toolset
from tools.questions import Ask
from tools.toolset import CallContext, Toolset


@dataclass(frozen=True, slots=True)
class Session:
    """A loaded model with its tools, their policy and audit log, and their servers' states.

    `content` is what else these servers have; None where there are none.
    """

    model_name: str
    model: AgentModel
    toolset: Toolset
    policy: Policy
    states: Callable[[], Mapping[str, ServerState]]
    audit: AuditLog | None = None
    content: ServerContent | None = None


@asynccontextmanager
async def open_session(
    config: Config,
    servers: Mapping[str, ServerConfig],
    pins: Pins | None = None,
    *,
    store: CatalogueStore | None = None,
    tokens: TokenStore | None = None,
) -> AsyncIterator[Session]:
    """Start the tool servers and load the model meanwhile; leaving ends both.

    A server whose catalogue is in `store` is started on first use. Servers that may sample get
    text of the session's model.

    Raises:
        ZondaError: the model cannot be loaded, or the policy file is wrong.
    """
    policy = load_rules(config, servers)
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(Hub(config))

        @asynccontextmanager
        async def hold() -> AsyncIterator[NamedModel]:
            yield await hub.get(None)

        sampler = model_sampler(hold)
        opened = open_toolset(servers, pins=pins, store=store, sampler=sampler, tokens=tokens)
        toolset = await stack.enter_async_context(opened)
        model = await hub.get(None)
        audit = open_audit(config)
        yield Session(config.model, model, toolset, policy, toolset.states, audit, toolset)


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


async def with_mentions(session: Session, messages: Sequence[Message], ask: Ask) -> list[Message]:
    """Return the messages, the last with what it mentions of the session's tool servers.

    Raises:
        InvalidRequestError: a server has no such prompt, or it needs other arguments.
        ToolServerError: a server cannot be asked, or refuses.
    """
    if session.content is None:
        return list(messages)
    context = CallContext(ask=ask)
    text = messages[-1].content
    return [*messages[:-1], *await expand(text, session.content, set(session.states()), context)]
