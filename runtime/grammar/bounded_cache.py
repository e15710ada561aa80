"""A cache bounded by the bytes of what it holds; knows nothing of what that is."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

Value = TypeVar("Value")


class BoundedCache(Generic[Value]):
    """Values by key; the least recently used go first, the newest always stays.

    Safe to call from several threads. Invariant: `num_bytes` is the sum over the entries.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.num_bytes = 0
        self._entries: OrderedDict[bytes, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Value | None:
        """Return the value under `key`, which becomes the most recently used."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: bytes, value: Value, num_bytes: int) -> None:
        """Store `value` under `key`, unless somebody else did so meanwhile."""
        with self._lock:
            if key not in self._entries:
                self._entries[key] = (value, num_bytes)
                self.num_bytes += num_bytes
            while self.num_bytes > self._max_bytes and len(self._entries) > 1:
                _, (_, freed) = self._entries.popitem(last=False)
                self.num_bytes -= freed
