"""Counts the calls that agents make, by server and by how they went; knows no argument."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from runtime.telemetry import Histogram
from tools.spec import JsonObject, ToolResult, ToolSpec
from tools.toolset import CallContext, Toolset

CALL_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

ToolOutcome = Literal["ok", "error", "cancelled"]


class ToolCallTally:
    """How many calls each server got, what became of them, and how long they took."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.num_calls = Counter[tuple[str, ToolOutcome]]()
        self.seconds: dict[str, Histogram] = {}

    def add(self, server: str, outcome: ToolOutcome, seconds: float) -> None:
        self.num_calls[server, outcome] += 1
        self.seconds.setdefault(server, Histogram(CALL_BOUNDS_S)).observe(seconds)


class TalliedToolset:
    """A toolset whose calls are counted; servers are those that its tools name."""

    def __init__(self, toolset: Toolset, tally: ToolCallTally) -> None:
        self._toolset = toolset
        self._tally = tally
        self._servers: dict[str, str] = {}

    async def list_tools(self) -> Sequence[ToolSpec]:
        tools = await self._toolset.list_tools()
        self._servers |= {tool.name: tool.server or "" for tool in tools}
        return tools

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> ToolResult:
        began = self._tally.now()
        outcome: ToolOutcome = "cancelled"
        try:
            result = await self._toolset.call_tool(name, arguments, context)
            outcome = "error" if result.is_error else "ok"
        except Exception:
            outcome = "error"
            raise
        finally:
            self._tally.add(self._servers.get(name, ""), outcome, self._tally.now() - began)
        return result
