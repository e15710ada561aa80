"""How strictly a tool's calls can be decoded: what the grammar enforces, and what it leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from tools.spec import ToolSpec

SupportLevel = Literal["strict", "coerced", "lenient", "refused"]


@dataclass(frozen=True, slots=True)
class ToolSupport:
    """What holds for a tool's arguments.

    Attributes:
        level: strict, the grammar enforces all of the schema; coerced, it enforces a schema
            made easier, such as `anyOf` for `oneOf`; lenient, it leaves keywords out, which are
            checked after decoding; refused, calls cannot be decoded and the tool is not offered.
        dropped: keywords that the grammar leaves out.
        problem: why it is refused.
    """

    level: SupportLevel
    dropped: tuple[str, ...] = ()
    problem: str | None = None


@runtime_checkable
class ToolGrader(Protocol):
    """Says how strictly it decodes tools' calls."""

    async def support_of(self, tools: Sequence[ToolSpec]) -> Mapping[str, ToolSupport]:
        """Return the support of each tool by its name."""
        ...


class ToolFilter(Protocol):
    """Says which tools' calls it cannot decode; it decodes all others strictly."""

    async def find_unsupported(self, tools: Sequence[ToolSpec]) -> Mapping[str, str]:
        """Return why, by name, of each tool whose calls cannot be decoded."""
        ...


async def support_of(
    model: ToolGrader | ToolFilter, tools: Sequence[ToolSpec]
) -> Mapping[str, ToolSupport]:
    """Return how strictly `model` decodes the calls of each tool, by the tool's name."""
    if isinstance(model, ToolGrader):
        return await model.support_of(tools)
    problems = await model.find_unsupported(tools)
    return {
        tool.name: ToolSupport("refused", problem=problems[tool.name])
        if tool.name in problems
        else ToolSupport("strict")
        for tool in tools
    }
