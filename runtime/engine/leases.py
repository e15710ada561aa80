"""Pins on the pages of conversations that will go on: they end by time or under pressure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runtime.engine.page_pool import PagePool


class Leases:
    """Holds one reference to each leased page.

    A lease that ends costs a recomputation and never an answer: the pages stay findable in
    the prefix cache until the pool hands them out again.
    """

    def __init__(self, pool: PagePool, clock: Callable[[], float]) -> None:
        """`clock` returns seconds that only grow."""
        self._pool = pool
        self._clock = clock
        self._held: dict[str, tuple[float, tuple[int, ...]]] = {}  # name: (deadline, pages)

    def hold(self, name: str, page_ids: Sequence[int], seconds: float) -> None:
        """Pin `page_ids` for `seconds`; they replace what `name` held before."""
        self._pool.retain(page_ids)
        self.drop(name)
        self._held[name] = (self._clock() + seconds, tuple(page_ids))

    def expire(self) -> None:
        """End the leases whose time is over."""
        if not self._held:
            return
        now = self._clock()
        for name in [name for name, (deadline, _) in self._held.items() if deadline <= now]:
            self.drop(name)

    def drop_first(self) -> bool:
        """End the lease that would end first; False when there is none."""
        if not self._held:
            return False
        self.drop(min(self._held, key=lambda name: self._held[name][0]))
        return True

    def drop(self, name: str) -> None:
        """End a lease, if there is one of that name."""
        if name in self._held:
            self._pool.release(self._held.pop(name)[1])
