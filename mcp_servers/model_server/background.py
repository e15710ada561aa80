"""Something slow to open that many wait for: the hub of models, the tool servers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

import anyio

from tools.errors import UnavailableError, ZondaError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Background(Generic[T]):
    """Opens a context in a task of its own once it is wanted, and keeps it open.

    Invariant: once `_settled` is set, exactly one of `_value` and `_error` is not None, until
    the task ends.
    """

    def __init__(self, name: str, open_: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._name = name
        self._open = open_
        self._wanted = anyio.Event()
        self._settled = anyio.Event()
        self._value: T | None = None
        self._error: Exception | None = None

    @property
    def value(self) -> T | None:
        """What was opened; None before that and when it could not be."""
        return self._value

    def want(self) -> None:
        """Let the opening begin; does not wait."""
        self._wanted.set()

    @property
    def opened(self) -> T | None:
        """What was opened; None where nothing is open, now or yet."""
        return self._value

    async def get(self) -> T:
        """Return what was opened, waiting for it.

        Raises:
            ZondaError: it could not be opened; every caller gets the same error.
        """
        self.want()
        await self._settled.wait()
        if isinstance(self._error, ZondaError):
            raise self._error
        if self._value is None:
            text = f"{self._name} could not be opened; the server's log says why"
            raise UnavailableError(text) from self._error
        return self._value

    async def run(self) -> None:
        """Open when wanted, then hold open until cancelled; the body of the task."""
        await self._wanted.wait()
        try:
            async with self._open() as self._value:
                self._settled.set()
                await anyio.sleep_forever()
        except Exception as exc:
            logger.exception("%s could not be opened", self._name)
            self._error = exc
        finally:
            self._value = None
            self._settled.set()
