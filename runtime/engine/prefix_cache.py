"""Content addresses of full KV pages: equal prefixes are found, whoever computed them.

Knows hashes and page ids; reference counts are the pool's, tensors are the runner's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


class PrefixCache:
    """Maps the hash of a full page, which covers all tokens before it too, to a page id.

    Invariant: hash to page and page to hash are inverse to each other.

    Source: hash chains over pages as in vLLM's automatic prefix caching.
    """

    def __init__(self, page_size: int, identity: str) -> None:
        """`identity` names the model and the KV type, so that equal tokens mean equal bytes."""
        self.page_size = page_size
        self._root = hashlib.blake2b(identity.encode(), digest_size=16).digest()
        self._page_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._page_of)

    def extend_hashes(
        self, hashes: list[bytes], token_ids: Sequence[int], salt: bytes, num_unsalted: int
    ) -> None:
        """Append the hashes of those full pages of `token_ids` that `hashes` lacks.

        `salt` enters with the first page that holds a token after the first `num_unsalted`.
        """
        for start in range(
            len(hashes) * self.page_size,
            len(token_ids) // self.page_size * self.page_size,
            self.page_size,
        ):
            end = start + self.page_size
            digest = hashlib.blake2b(hashes[-1] if hashes else self._root, digest_size=16)
            digest.update(np.asarray(token_ids[start:end], np.int32).tobytes())
            if end > num_unsalted:
                digest.update(salt)
            hashes.append(digest.digest())

    def find(self, hashes: Sequence[bytes]) -> list[int]:
        """Return the pages of the longest cached beginning of `hashes`."""
        page_ids: list[int] = []
        for page_hash in hashes:
            if (page_id := self._page_of.get(page_hash)) is None:
                break
            page_ids.append(page_id)
        return page_ids

    def insert(self, page_hash: bytes, page_id: int) -> None:
        """Announce a computed page; of two pages with one content the first stays."""
        if page_hash not in self._page_of and page_id not in self._hash_of:
            self._page_of[page_hash] = page_id
            self._hash_of[page_id] = page_hash

    def forget(self, page_ids: Sequence[int]) -> None:
        """Drop pages that are about to get other content."""
        for page_id in page_ids:
            if (page_hash := self._hash_of.pop(page_id, None)) is not None:
                del self._page_of[page_hash]
