"""Failures of a command become one line on stderr and an exit status, never a traceback."""

from __future__ import annotations

import logging
import sys

import typer

from tools.errors import ConfigurationError, InvalidRequestError, ZondaError

logger = logging.getLogger(__name__)

FAILED, MISUSED, BROKEN, INTERRUPTED = 1, 2, 70, 130


def exit_status(exc: BaseException) -> int:
    """Report why a command ended and return its status.

    1 failed, 2 asked wrongly, 70 our own bug (its traceback is logged at DEBUG),
    130 interrupted.
    """
    cause = _first_cause(exc)
    if isinstance(cause, typer.Exit):
        return cause.exit_code
    if isinstance(cause, SystemExit):
        return cause.code if isinstance(cause.code, int) else 0 if cause.code is None else FAILED
    if isinstance(cause, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED
    if isinstance(cause, BrokenPipeError):  # whoever read our output has left
        return FAILED
    if isinstance(cause, typer.TyperException):
        _print_line(f"{cause.format_message()} (`zonda --help` lists commands and options)")
        return MISUSED
    if isinstance(cause, ZondaError):
        _print_line(str(cause))
        misused = isinstance(cause, ConfigurationError | InvalidRequestError)
        return MISUSED if misused else FAILED
    _print_line(f"internal error, {type(cause).__name__}: {cause}; please report it")
    logger.debug("the command failed", exc_info=cause)
    return BROKEN


def _first_cause(exc: BaseException) -> BaseException:
    """Task groups wrap what failed inside them; the first failure is the one to report."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc


def _print_line(message: str) -> None:
    print("zonda:", " ".join(message.split()), file=sys.stderr)
