"""What the SDK raises when a server is missing, ends, or answers with what it must not."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import mcp_types as types
from mcp import MCPError
from pydantic import ValidationError

from tools.errors import ToolServerError

FAILURES = (
    MCPError,
    ToolServerError,
    ValidationError,
    RuntimeError,
    OSError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
)


def tell_first(group: BaseExceptionGroup[Exception]) -> str | None:
    """Say what went wrong first, as the rest of a sentence; None where it is only a loss."""
    told = (_tell(failure) for failure in _leaves(group) if not _is_loss(failure))
    return next(told, None)


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _tell(failure: BaseException) -> str:
    if isinstance(failure, ToolServerError):
        return str(failure)
    return f"answers with something that cannot be used: {failure}"


def _is_loss(failure: BaseException) -> bool:
    return isinstance(failure, MCPError) and failure.error.code == types.CONNECTION_CLOSED
