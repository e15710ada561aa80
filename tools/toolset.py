"""The only interface between whoever wants a tool and whoever has one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import anyio

from tools.errors import UnknownToolError
from tools.questions import Ask, decline
from tools.spec import JsonObject, ToolResult, ToolSpec

ProgressCallback = Callable[[float, float | None, str | None], Awaitable[None]]
"""Called with (done, total or None if unknown, message or None); `done` only grows."""


async def ignore_progress(done: float, total: float | None, message: str | None) -> None:
    """Drop a progress report."""


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a tool may use of its caller. Cancelling the awaiting scope cancels the call.

    Attributes:
        principal: who calls; "" where there is only one caller, as on stdio.
        ask: asks the person behind the caller; declines where there is none.
    """

    report_progress: ProgressCallback = ignore_progress
    principal: str = ""
    ask: Ask = decline


class Toolset(Protocol):
    """A set of tools: Python functions, an external MCP server, a combination, the agent."""

    async def list_tools(self) -> Sequence[ToolSpec]:
        """Return every tool, in a stable order."""
        ...

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> ToolResult:
        """Call one tool.

        Whatever the tool or its server does wrong, wrong arguments included, is a
        `ToolResult` with `is_error` that a model can read.

        Raises:
            UnknownToolError: no tool has that name.
        """
        ...


class Changes:
    """Counts the changes of something; who waits for the next one misses none in between."""

    def __init__(self) -> None:
        self.count = 0
        self._told = anyio.Event()

    def tell(self) -> None:
        """Count one more."""
        self.count += 1
        self._told.set()
        self._told = anyio.Event()

    async def wait(self, seen: int) -> int:
        """Wait until the count is another than `seen`; return it."""
        while self.count == seen:
            await self._told.wait()
        return self.count


@runtime_checkable
class ChangingToolset(Toolset, Protocol):
    """A toolset that says when it offers other tools than before."""

    @property
    def changes(self) -> Changes:
        """Counts how often the list of tools has changed."""
        ...


def find_tool(tools: Sequence[ToolSpec], name: str) -> ToolSpec:
    """Return the tool of that name.

    Raises:
        UnknownToolError: none has it; the message names the nearest ones.
    """
    for tool in tools:
        if tool.name == name:
            return tool
    raise UnknownToolError(name, [tool.name for tool in tools])


class CombinedToolset:
    """Several toolsets as one. Of two tools with one name, the earlier toolset's is kept."""

    def __init__(self, *toolsets: Toolset) -> None:
        self._toolsets = toolsets

    async def list_tools(self) -> Sequence[ToolSpec]:
        return [tool for tool, _ in (await self._owners()).values()]

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> ToolResult:
        owners = await self._owners()
        if name not in owners:
            raise UnknownToolError(name, owners)
        return await owners[name][1].call_tool(name, arguments, context)

    async def _owners(self) -> dict[str, tuple[ToolSpec, Toolset]]:
        owners: dict[str, tuple[ToolSpec, Toolset]] = {}
        for toolset in self._toolsets:
            for tool in await toolset.list_tools():
                owners.setdefault(tool.name, (tool, toolset))
        return owners


class PrefixedToolset:
    """A toolset under other names: `prefix` stands before each."""

    def __init__(self, toolset: Toolset, prefix: str) -> None:
        self._toolset = toolset
        self._prefix = prefix

    async def list_tools(self) -> Sequence[ToolSpec]:
        tools = await self._toolset.list_tools()
        return [replace(tool, name=self._prefix + tool.name) for tool in tools]

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> ToolResult:
        find_tool(await self.list_tools(), name)
        return await self._toolset.call_tool(name.removeprefix(self._prefix), arguments, context)


class FilteredToolset:
    """The tools of a toolset for which `keep` is true; the others do not exist."""

    def __init__(self, toolset: Toolset, keep: Callable[[ToolSpec], bool]) -> None:
        self._toolset = toolset
        self._keep = keep

    async def list_tools(self) -> Sequence[ToolSpec]:
        return [tool for tool in await self._toolset.list_tools() if self._keep(tool)]

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> ToolResult:
        find_tool(await self.list_tools(), name)
        return await self._toolset.call_tool(name, arguments, context)
