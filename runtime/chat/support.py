"""How strictly a tool's calls can be decoded: what the grammar enforces, and what it leaves out."""

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
