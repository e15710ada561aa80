"""What a model's calls and template support: for reports, with no model at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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


@dataclass(frozen=True, slots=True)
class TemplateFeatures:
    """What a model's chat template does itself, and what the prompt makes up for.

    Attributes:
        wire_format: the name of the format in which the model writes calls.
        renders_tools: whether the template lists tools; else the system turn describes them.
        renders_calls: whether it writes calls and their results.
        renders_system: whether it has a system turn; else that text goes into the first turn.
        has_parallel_calls: whether a turn can hold several calls.
        has_reasoning: whether the model writes thoughts before it answers.
    """

    wire_format: str
    renders_tools: bool
    renders_calls: bool
    renders_system: bool
    has_parallel_calls: bool
    has_reasoning: bool
