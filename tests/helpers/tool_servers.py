"""Toolsets and tool servers to test against: well-behaved ones here, broken ones as scripts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.errors import UnknownToolError
from tools.mcp_client.config import ServerConfig, Timeouts
from tools.spec import JsonObject, ToolResult, ToolSpec
from tools.toolset import CallContext


@dataclass
class RecordingToolset:
    """The in-memory twin of any toolset: offers `names`, answers with the arguments it got."""

    names: Sequence[str]
    calls: list[tuple[str, JsonObject]] = field(default_factory=list)

    async def list_tools(self) -> Sequence[ToolSpec]:
        return [ToolSpec(name, f"Does {name}.", {"type": "object"}) for name in self.names]

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> ToolResult:
        if name not in self.names:
            raise UnknownToolError(name, self.names)
        self.calls.append((name, arguments))
        return ToolResult(structured=dict(arguments))


def scripted_server(name: str, *modes: str, timeouts: Timeouts | None = None) -> ServerConfig:
    """Configure `tool_server_script.py`, which misbehaves in these modes or when its tools say."""
    script = Path(__file__).with_name("tool_server_script.py")
    return python_server(name, str(script), *modes, timeouts=timeouts)


def changing_server(name: str, tools: Mapping[str, str] | None = None) -> ServerConfig:
    """Configure `changing_server.py`, of the modern era, which offers these tools to begin with."""
    script = Path(__file__).with_name("changing_server.py")
    limits = Timeouts(connect_s=15, idle_s=10, total_s=15)
    return ServerConfig(
        name, sys.executable, ("-P", str(script), json.dumps(tools or {})), timeouts=limits
    )


def python_server(name: str, *args: str, timeouts: Timeouts | None = None) -> ServerConfig:
    """Configure a server that is this Python, without site packages, with `args`."""
    limits = timeouts or Timeouts(connect_s=5, idle_s=5, total_s=10)
    return ServerConfig(name, sys.executable, ("-S", *args), timeouts=limits)


def is_running(pid: int) -> bool:
    """Tell whether a process lives; one that only waits to be reaped does not."""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self").exists()  # just gone, or a system without /proc
    return status.rpartition(")")[2].split()[0] != "Z"
