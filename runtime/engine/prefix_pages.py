"""Prefixes that outlive requests: pinned without end, copied out of the pages and back in.

Copying takes turns: steps run between its pieces. Knows page ids, hashes and bytes; what the
bytes mean is the runner's.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from runtime.engine.scheduler import Scheduler
from runtime.errors import CapacityError

PIECE_BYTES = 8 << 20
"""Copied in one turn: about 3 ms."""

PageBytes = npt.NDArray[np.uint8]
"""`[num_pages, page_bytes]`: the full pages of a prefix, in token order."""

T = TypeVar("T")
Turns = Generator[None, None, T]
"""Work in short turns: whoever drives it calls `next` until it returns, or closes it."""


class PageMemory(Protocol):
    """The bytes of a runner's pages."""

    @property
    def identity(self) -> str:
        """Names all that the bytes depend on but the tokens: weights, number format, kernels."""
        ...

    @property
    def page_bytes(self) -> int:
        """Of one page in all layers."""
        ...

    def read(self, page_ids: Sequence[int], out: PageBytes) -> None:
        """Copy pages to `out`."""
        ...

    def write(self, page_ids: Sequence[int], data: PageBytes) -> None:
        """Copy `data` to pages."""
        ...


class PrefixPages:
    """Finds the full pages of prefixes, pins them and copies them.

    Prefixes are shared by all callers: their pages are those cached without a salt.

    Invariant: pages have a reference for as long as they are copied, and are announced to the
    prefix cache only once they are whole.
    """

    def __init__(self, scheduler: Scheduler, memory: PageMemory | None) -> None:
        """`memory` is None where pages cannot be copied."""
        self._scheduler = scheduler
        self._memory = memory

    def hold(
        self, lease: str, token_ids: Sequence[int], pages: PageBytes | None = None
    ) -> Turns[bool]:
        """Pin a prefix's full pages without end, in place of what `lease` held.

        Pages that are not computed are taken from `pages`, if there is room without dropping
        any lease. False where they could not be had; the lease is then as it was.
        """
        hashes = self._hashes(token_ids)
        leases, cache = self._scheduler.leases, self._scheduler.cache
        if not hashes:
            leases.drop(lease)
            return True
        found = cache.find(hashes)
        if len(found) == len(hashes):
            leases.hold(lease, found, math.inf)
            return True
        if pages is None or self._memory is None:
            return False
        assert pages.shape == (len(hashes), self._memory.page_bytes)
        if (fresh := self._allocate(found, len(hashes) - len(found))) is None:
            return False
        try:
            yield from self._write(fresh, pages[len(found) :])
            for page_hash, page_id in zip(hashes[len(found) :], fresh, strict=True):
                cache.insert(page_hash, page_id)
            # Where a sequence was quicker, its pages are the ones that are found.
            leases.hold(lease, cache.find(hashes), math.inf)
        finally:
            self._scheduler.pool.release([*found, *fresh])
        return True

    def read(self, token_ids: Sequence[int]) -> Turns[PageBytes | None]:
        """Copy a prefix's full pages; None where there are none or not all are computed."""
        hashes = self._hashes(token_ids)
        page_ids = self._scheduler.cache.find(hashes)
        if self._memory is None or not hashes or len(page_ids) < len(hashes):
            return None
        pool = self._scheduler.pool
        pool.retain(page_ids)
        try:
            out = np.empty((len(page_ids), self._memory.page_bytes), np.uint8)
            for piece in _pieces(len(page_ids), self._memory.page_bytes):
                self._memory.read(page_ids[piece], out[piece])
                yield
        finally:
            pool.release(page_ids)
        return out

    def _write(self, page_ids: list[int], data: PageBytes) -> Turns[None]:
        assert self._memory is not None
        for piece in _pieces(len(page_ids), self._memory.page_bytes):
            self._memory.write(page_ids[piece], data[piece])
            yield

    def _allocate(self, found: Sequence[int], num_pages: int) -> list[int] | None:
        """Reference `found` and get so many more, leaving a page to each sequence that runs."""
        pool = self._scheduler.pool
        pool.retain(found)
        try:
            if pool.num_free < num_pages + len(self._scheduler.running):
                raise CapacityError(f"{num_pages} KV pages wanted, {pool.num_free} free")
            page_ids = pool.allocate(num_pages)
        except CapacityError:
            pool.release(found)
            return None
        self._scheduler.cache.forget(page_ids)
        return page_ids

    def _hashes(self, token_ids: Sequence[int]) -> list[bytes]:
        hashes: list[bytes] = []
        self._scheduler.cache.extend_hashes(hashes, token_ids, b"", 0)
        return hashes


def _pieces(num_pages: int, page_bytes: int) -> list[slice]:
    step = max(1, PIECE_BYTES // page_bytes)
    return [slice(first, first + step) for first in range(0, num_pages, step)]
