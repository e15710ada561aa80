"""Fixed pool of KV-cache pages with reference counts.

The pool hands out page ids; it never touches tensors and knows no content. Free pages are
handed out least recently freed first, so what they hold can be shared again until then.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from runtime.errors import CapacityError


class PagePool:
    """Allocates, shares and frees pages.

    Invariant: a page is on the free list exactly when its reference count is 0.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._ref_count = [0] * num_pages
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_pages))

    @property
    def num_free(self) -> int:
        """Pages that `allocate` can hand out."""
        return len(self._free)

    def ref_count(self, page_id: int) -> int:
        return self._ref_count[page_id]

    def allocate(self, num_pages: int) -> list[int]:
        """Take `num_pages` pages off the free list, with one reference each.

        Raises:
            CapacityError: fewer than `num_pages` pages are free; nothing was taken.
        """
        if num_pages > len(self._free):
            raise CapacityError(f"{num_pages} KV pages wanted, {len(self._free)} free")
        page_ids = [self._free.popitem(last=False)[0] for _ in range(num_pages)]
        for page_id in page_ids:
            self._ref_count[page_id] = 1
        return page_ids

    def retain(self, page_ids: Sequence[int]) -> None:
        """Add one reference to each page; a free page leaves the free list with its content."""
        for page_id in page_ids:
            self._free.pop(page_id, None)
            self._ref_count[page_id] += 1

    def release(self, page_ids: Sequence[int]) -> None:
        """Drop one reference to each page; the last of `page_ids` becomes free first.

        The end of a sequence is less likely to be shared than its beginning, so it goes first.
        """
        for page_id in reversed(page_ids):
            assert self._ref_count[page_id] > 0, f"page {page_id} released twice"
            self._ref_count[page_id] -= 1
            if self._ref_count[page_id] == 0:
                self._free[page_id] = None
