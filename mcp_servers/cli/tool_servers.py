"""The MCP servers whose tools Zonda's models may use: its own list, and a file that is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.agent.audit import AuditLog
from runtime.agent.policy import Policy
from runtime.agent.rules import load_policy
from runtime.config import Config, process_environment, servers_file
from tools.errors import ConfigurationError, suggest
from tools.mcp_client.catalogue_store import CatalogueStore
from tools.mcp_client.config import ServerConfig, load_servers
from tools.mcp_client.pins import Pins
from tools.mcp_client.token_store import TokenStore


@dataclass(frozen=True, slots=True)
class Caller:
    """Who names tool servers, where that is another process.

    Attributes:
        environ: its environment.
        own_servers: the file of Zonda's own list; it need not be there.
        folder: its working directory, where its tool servers start.
    """

    environ: Mapping[str, str]
    own_servers: Path
    folder: Path


def find_servers(
    mcp_config: Path | None, caller: Caller | None = None
) -> Mapping[str, ServerConfig]:
    """Return the servers of Zonda's own list and of `mcp_config`, whose entries win.

    They are this process's, unless there is a `caller`.

    Raises:
        ConfigurationError: a file cannot be read or is none of servers.
    """
    environ = process_environment() if caller is None else caller.environ
    own = servers_file() if caller is None else caller.own_servers
    servers = dict(load_servers(own, environ)) if own.exists() else {}
    if mcp_config is not None:
        servers |= load_servers(mcp_config, environ)
    if caller is None:
        return servers
    folder = caller.folder
    return {name: replace(x, cwd=folder / (x.cwd or "")) for name, x in servers.items()}


def find_server(name: str, mcp_config: Path | None) -> ServerConfig:
    """Return one of `find_servers`.

    Raises:
        ConfigurationError: none has that name, or a file cannot be read.
    """
    servers = find_servers(mcp_config)
    if name not in servers:
        raise ConfigurationError(f"no MCP server is named {name!r}{suggest(name, servers)}")
    return servers[name]


def load_rules(config: Config, servers: Mapping[str, ServerConfig]) -> Policy:
    """Return the rules of these servers' entries and of the policy file, where one is set.

    Raises:
        ConfigurationError: the policy file cannot be read, or says what no policy can.
    """
    file = None if config.policy_file is None else load_policy(config.policy_file)
    return Policy.of_servers(servers, file)


def open_audit(config: Config) -> AuditLog | None:
    """Return the log of tool calls; None where none is kept."""
    if not config.audit:
        return None
    return AuditLog(config.audit_file, keeps_contents=config.audit_contents)


def open_pins(config: Config) -> Pins:
    """Return the approved definitions of tools, which are kept in the state folder."""
    return Pins(config.state_dir / "tool-definitions")


def open_store(config: Config) -> CatalogueStore:
    """Return what servers offered when they last ran, which is kept in the state folder."""
    return CatalogueStore(config.state_dir / "tool-catalogues")


def open_tokens(config: Config) -> TokenStore:
    """Return the logins at servers, which are kept in the state folder."""
    return TokenStore(config.state_dir / "tokens")
