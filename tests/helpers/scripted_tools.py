"""Tools that do what a test says, and say what they were asked and what still runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from tools.errors import UnknownToolError
from tools.spec import JsonObject, ToolAnnotations, ToolResult, ToolSpec
from tools.toolset import CallContext

Behaviour = Callable[[JsonObject], Awaitable[ToolResult]]


def make_spec(
    name: str,
    *,
    server: str | None = None,
    read_only: bool | None = None,
    destructive: bool | None = None,
    open_world: bool | None = None,
) -> ToolSpec:
    """Make a tool without arguments of note."""
    return ToolSpec(
        name=name,
        description=f"The tool {name}.",
        input_schema={"type": "object"},
        annotations=ToolAnnotations(
            read_only=read_only, destructive=destructive, open_world=open_world
        ),
        server=server,
    )


async def echo(arguments: JsonObject) -> ToolResult:
    """Return the arguments."""
    return ToolResult(structured=arguments)


async def fail(arguments: JsonObject) -> ToolResult:
    """Return an error a model can read."""
    return ToolResult.from_text("it broke", is_error=True)


@dataclass
class ScriptedToolset:
    """A `Toolset` of behaviours; `running` lists the calls that are not over."""

    tools: Sequence[tuple[ToolSpec, Behaviour]]
    called: list[tuple[str, JsonObject]] = field(default_factory=list)
    running: list[str] = field(default_factory=list)

    async def list_tools(self) -> Sequence[ToolSpec]:
        return [spec for spec, _ in self.tools]

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> ToolResult:
        behaviours = {spec.name: behaviour for spec, behaviour in self.tools}
        if name not in behaviours:
            raise UnknownToolError(name, behaviours)
        self.called.append((name, arguments))
        self.running.append(name)
        try:
            return await behaviours[name](arguments)
        finally:
            self.running.remove(name)
