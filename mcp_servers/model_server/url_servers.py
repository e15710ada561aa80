"""Tool servers that a request names by URL, where the operator allows that URL.

Each is connected for one response and sent the headers that the request has for it; what the
request itself was let in with goes nowhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mcp_servers.model_server.service import AgentSetup
from runtime.agent.audit import AuditLog
from runtime.agent.policy import Policy
from runtime.agent.rules import load_policy
from runtime.config import Config
from runtime.http_api.responses_mcp import UrlServer
from tools.toolset import Toolset


@dataclass(frozen=True, slots=True)
class UrlServers:
    """What the operator says of them.

    Attributes:
        urls: those that may be used; a request has to name one exactly.
        policy: the operator's rules, which no request can name a server into.
    """

    urls: tuple[str, ...] = ()
    policy: Policy = field(default_factory=Policy)
    audit: AuditLog | None = None

    @classmethod
    def of_config(cls, config: Config, agent: AgentSetup | None) -> UrlServers:
        """Take what the configuration says, or what is set up for its own servers.

        Raises:
            ConfigurationError: the policy file cannot be read, or says what no policy can.
        """
        urls = tuple(config.mcp_urls.split())
        if agent is not None:
            return cls(urls, agent.policy, agent.audit)
        file = None if config.policy_file is None else load_policy(config.policy_file)
        audit = AuditLog(config.audit_file, keeps_contents=config.audit_contents)
        return cls(urls, Policy(file=file), audit if config.audit else None)


@asynccontextmanager
async def connect(servers: Sequence[UrlServer]) -> AsyncIterator[Toolset]:
    """Connect these servers; leaving ends the connections."""
    from tools.mcp_client.config import ServerConfig
    from tools.mcp_client.toolset import open_toolset

    configs = {
        one.label: ServerConfig(one.label, url=one.url, headers=dict(one.headers))
        for one in servers
    }
    async with open_toolset(configs) as toolset:
        yield toolset
