"""What a connected server offers: listed page by page, and again when it says that it changed.

Knows the protocol's two eras; knows nothing of processes, URLs or policy.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import anyio
import mcp_types as types
from mcp import Client, MCPError
from mcp.client.session import IncomingMessage
from mcp.client.subscriptions import SubscriptionLost
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from tools.mcp_client.names import exposed_name
from tools.mcp_client.wire import from_mcp_tool
from tools.spec import ToolSpec
from tools.validation import schema_problem

logger = logging.getLogger(__name__)

MAX_PAGES = 100
MAX_TOOLS = 2000
"""Most tools that are taken of one server."""

_FIRST_DELAY_S = 0.5
_MOST_DELAY_S = 60.0


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A server's tool as it is offered, and what the server calls it."""

    spec: ToolSpec
    own_name: str


class Staleness:
    """Whether what was listed may be out of date; many marks between two waits are one."""

    def __init__(self) -> None:
        self._marked = anyio.Event()

    def mark(self) -> None:
        self._marked.set()

    async def wait(self) -> None:
        """Wait for a mark and take it away; a later one counts anew."""
        await self._marked.wait()
        self._marked = anyio.Event()

    async def hear(self, message: IncomingMessage) -> None:
        """Take a server's notification; the `message_handler` of `mcp.Client`."""
        if isinstance(
            message, types.ToolListChangedNotification | types.ResourceListChangedNotification
        ):
            self.mark()


async def list_tools(client: Client) -> list[types.Tool]:
    """Return the tools on all pages of the server's list, asked for anew.

    Raises:
        MCPError: the server refused, or the connection was lost.
        ValidationError: it answered with something else.
    """
    found: list[types.Tool] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES if client.server_capabilities.tools else 0):
        page = await client.list_tools(cursor=cursor, cache_mode="refresh")
        found += page.tools
        cursor = page.next_cursor
        if not cursor or len(found) >= MAX_TOOLS:
            break
    return found[:MAX_TOOLS]


async def has_resources(client: Client) -> bool:
    """Whether there is anything to read; many servers declare resources and have none.

    Raises:
        MCPError: the connection was lost.
        ValidationError: the server answered with something else.
    """
    if client.server_capabilities.resources is None:
        return False
    try:
        if (await client.list_resources(cache_mode="refresh")).resources:
            return True
        return bool((await client.list_resource_templates(cache_mode="refresh")).resource_templates)
    except MCPError as exc:
        if exc.error.code == types.CONNECTION_CLOSED:
            raise
        return False


def usable_tools(server: str, found: Sequence[types.Tool]) -> list[types.Tool]:
    """Leave out tools whose input schema is none, and of two with one name the second."""
    usable: dict[str, types.Tool] = {}
    for tool in found:
        if (problem := schema_problem(tool.input_schema)) is not None:
            logger.warning("server=%s tool=%s left out: %s", server, tool.name, problem)
        else:
            usable.setdefault(tool.name, tool)
    return list(usable.values())


def offer_tools(
    server: str, tools: Sequence[types.Tool], held: Collection[str]
) -> Mapping[str, OfferedTool]:
    """Return the tools that are not held back, by offered name, in order."""
    offered: dict[str, OfferedTool] = {}
    for tool in tools:
        if tool.name not in held:
            name = exposed_name(server, tool.name)
            spec = from_mcp_tool(tool, name=name, server=server)
            offered.setdefault(name, OfferedTool(spec, tool.name))
    return dict(sorted(offered.items()))


async def listen_for_changes(client: Client, server: str, stale: Staleness) -> None:
    """Mark what was listed as stale whenever a server of the modern era says that it changed.

    Servers of the handshake era say so unasked. Ends where a server has nothing to say; a
    stream that breaks off is opened again, and what it missed counts as a change.
    """
    offered = client.server_capabilities
    tools = bool(offered.tools and offered.tools.list_changed)
    resources = bool(offered.resources and offered.resources.list_changed)
    if client.protocol_version not in MODERN_PROTOCOL_VERSIONS or not (tools or resources):
        return
    delay_s = _FIRST_DELAY_S
    while True:
        try:
            async with client.listen(
                tools_list_changed=tools, resources_list_changed=resources
            ) as subscription:
                honored = subscription.honored
                if not (honored.tools_list_changed or honored.resources_list_changed):
                    return
                stale.mark()
                async for _ in subscription:
                    delay_s = _FIRST_DELAY_S
                    stale.mark()
        except SubscriptionLost:
            logger.debug("server=%s: its stream of changes broke off", server)
        except MCPError as exc:
            if exc.error.code == types.METHOD_NOT_FOUND:
                return
            logger.debug("server=%s: its stream of changes: %s", server, exc)
        await anyio.sleep(delay_s)
        delay_s = min(2 * delay_s, _MOST_DELAY_S)
