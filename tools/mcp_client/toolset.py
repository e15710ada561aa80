"""The tools of many external servers as one toolset, each server on its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import anyio

from tools.errors import ConfigurationError, ToolServerError, UnknownToolError, suggest
from tools.mcp_client import content
from tools.mcp_client.catalogue_store import CatalogueStore
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.names import server_prefix
from tools.mcp_client.pins import Pins, why_held
from tools.mcp_client.server import ServerConnection, ServerState, Status
from tools.mcp_client.token_store import TokenStore
from tools.resources import Prompt, PromptMessage, Resource
from tools.sampling import Sampler
from tools.spec import Content, JsonObject, ToolResult, ToolSpec
from tools.toolset import CallContext, Changes, find_tool
from tools.validation import first_problem


@asynccontextmanager
async def open_toolset(
    configs: Mapping[str, ServerConfig],
    *,
    start_wait_s: float = 15.0,
    pins: Pins | None = None,
    store: CatalogueStore | None = None,
    sampler: Sampler | None = None,
    tokens: TokenStore | None = None,
) -> AsyncIterator[McpToolset]:
    """Start every server at the same time, and end them all, children included, on leaving.

    Does not wait for the servers: `list_tools` does, until `start_wait_s` seconds after this.
    Tools whose definition is not the one that `pins` has approved are not offered. A server whose
    catalogue is in `store` is started on first use. `sampler` answers the servers whose
    configuration lets them sample. Servers that want a login are called with what `tokens` keeps.
    """
    changes = Changes()
    connections = [
        ServerConnection(config, changes.tell, pins, store=store, sampler=sampler, tokens=tokens)
        for _, config in sorted(configs.items())
    ]
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        for connection in connections:
            group.start_soon(connection.run, name=f"tool server {connection.name}")
        try:
            yield McpToolset(connections, changes, anyio.current_time() + start_wait_s)
        except Exception as exc:  # noqa: BLE001  raised below, outside of the group: not wrapped
            failure = exc
        finally:
            group.cancel_scope.cancel()
    if failure is not None:
        raise failure


class McpToolset:
    """Tools of external servers, ordered by server, then name. Built by `open_toolset`.

    A server that has resources also has our tools `list_resources` and `read_resource`.
    The tools of a server that is not there are absent; calls of them are results with
    `is_error` that say why.

    Attributes:
        changes: counts how often other tools were offered than before: a server came up or was
            given up, or said that its tools have changed.
    """

    def __init__(
        self, connections: Sequence[ServerConnection], changes: Changes, start_deadline: float
    ) -> None:
        self.changes = changes
        self._connections = {connection.name: connection for connection in connections}
        self._start_deadline = start_deadline

    async def list_tools(self) -> Sequence[ToolSpec]:
        """Return the tools of every server that is there; waits while servers start."""
        with anyio.CancelScope(deadline=self._start_deadline):
            for connection in self._connections.values():
                await connection.wait_until_known()
        return self._tools()

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> ToolResult:
        try:
            connection = await self._find(name)
            schema = find_tool(connection.tools, name).input_schema
            if (problem := first_problem(schema, arguments)) is not None:
                return _error(f"Invalid arguments for {name}: {problem}")
            return await connection.call(name, arguments, context)
        except ToolServerError as exc:
            return _error(str(exc))

    def states(self) -> Mapping[str, ServerState]:
        """Return where each server stands, by its configured name."""
        return {name: connection.state for name, connection in self._connections.items()}

    async def wait_for(self, server: str, *statuses: Status) -> ServerState:
        """Wait until a server, by its configured name, has one of the statuses."""
        return await self._connections[server].wait_for(*statuses)

    async def list_resources(self, server: str, context: CallContext) -> Sequence[Resource]:
        """Return what a server, by its configured name, has to read.

        Raises:
            ConfigurationError: no server has that name.
            ToolServerError: it cannot be asked.
        """
        return await self._server(server).list_resources(context)

    async def read_resource(self, server: str, uri: str, context: CallContext) -> Sequence[Content]:
        """Read a resource of a server.

        Raises:
            ConfigurationError: no server has that name.
            ToolServerError: it cannot be asked, or refuses.
        """
        return await self._server(server).read_resource(uri, context)

    async def list_prompts(self, server: str, context: CallContext) -> Sequence[Prompt]:
        """Return the prompts of a server.

        Raises:
            ConfigurationError: no server has that name.
            ToolServerError: it cannot be asked.
        """
        return await self._server(server).ask("the list of prompts", context, content.list_prompts)

    async def get_prompt(
        self, server: str, name: str, arguments: Mapping[str, str], context: CallContext
    ) -> Sequence[PromptMessage]:
        """Let a server make the messages of one of its prompts.

        Raises:
            ConfigurationError: no server has that name.
            ToolServerError: it cannot be asked, or refuses.
        """
        get = partial(content.get_prompt, name=name, arguments=arguments)
        return await self._server(server).ask(f"the prompt {name}", context, get)

    def _server(self, name: str) -> ServerConnection:
        if name not in self._connections:
            hint = suggest(name, self._connections)
            raise ConfigurationError(f"no MCP server is named {name!r}{hint}")
        return self._connections[name]

    async def _find(self, name: str) -> ServerConnection:
        """Return the server that offers the tool.

        Raises:
            UnknownToolError: none does.
            ToolServerError: it would be a tool of a server that is not there.
        """
        if (owner := self._owner(name)) is not None:
            return owner
        # Only the server that the name points to is waited for, whatever the others do.
        for connection in self._connections.values():
            if name.startswith(server_prefix(connection.name)):
                await connection.wait_until_known()
                if (owner := self._owner(name)) is not None:
                    return owner
                if name in connection.held_names:
                    raise ToolServerError(why_held(connection.name, [name]))
                if (reason := connection.state.reason) is not None:
                    raise ToolServerError(
                        f"server {connection.name!r} is not available: it {reason}"
                    )
        raise UnknownToolError(name, [tool.name for tool in self._tools()])

    def _owner(self, name: str) -> ServerConnection | None:
        for connection in self._connections.values():
            if any(tool.name == name for tool in connection.tools):
                return connection
        return None

    def _tools(self) -> list[ToolSpec]:
        return [tool for connection in self._connections.values() for tool in connection.tools]


def _error(text: str) -> ToolResult:
    return ToolResult.from_text(text, is_error=True)
