"""An event loop whose clock jumps: minutes of waiting cost a test nothing.

Good for what stays in this process and in one thread; a worker thread would be overtaken.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class _JumpingSelector(selectors.DefaultSelector):
    """Passes the time that the loop would have slept at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            return super().select(None)
        ready = super().select(0)
        if not ready:
            self.now += max(timeout, 0.0)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Its time stands still while anything can run, then jumps to the next timer."""

    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


VIRTUAL_TIME = ("asyncio", {"loop_factory": VirtualTimeLoop})
"""What a test module's fixture `anyio_backend` returns."""
