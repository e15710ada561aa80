"""Prefixes' KV pages on disk: written whole or not at all, and used only when nothing differs.

A file is named by its beginning: what its pages depend on, and the tokens. The beginning is
compared, never parsed, so that a file says nothing we did not know; a checksum covers all of it.
Only its owner may read it: the tokens spell what was computed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from runtime.engine.prefix_pages import PageBytes, PageMemory

logger = logging.getLogger(__name__)

VERSION = 1
_MAGIC = b"ZONDAKV1"
_LENGTH = struct.Struct("<I")  # bytes of the JSON that follows
_DIGEST_BYTES = 20
_SUFFIX = ".pages"
_KEPT_S = 30 * 24 * 3600
"""What nobody used for so long is deleted when something new is written."""

_WRITTEN_WITHIN_S = 600
"""A file that is still being written after so long belongs to a process that ended."""


class SavedPages:
    """A folder of prefixes for engines of one model; several processes may share it.

    Layout of a file: magic, length of the JSON, JSON (identity of the pages, sizes, digest of
    the tokens), tokens as int32, pages, blake2b-160 of all before; little-endian.
    """

    def __init__(
        self,
        folder: Path,
        memory: PageMemory,
        page_size: int,
        *,
        max_files: int = 16,
        max_bytes: int = 1 << 30,
    ) -> None:
        """Keep at most so many files and bytes; the least recently used go first.

        Args:
            folder: holds nothing else.
            memory: whose pages are kept.
            page_size: tokens of a page.
            max_files: at least 1.
            max_bytes: of all files.
        """
        self._folder = folder
        self._memory = memory
        self._page_size = page_size
        self._max_files = max_files
        self._max_bytes = max_bytes

    def load(self, token_ids: Sequence[int]) -> PageBytes | None:
        """Read a prefix's full pages; None where there is no whole file of them.

        A file that is damaged is deleted.
        """
        start = self._start(token_ids)
        path = self._path(start)
        shape = (len(token_ids) // self._page_size, self._memory.page_bytes)
        num_bytes = len(start) + shape[0] * shape[1] + _DIGEST_BYTES
        try:
            with path.open("rb") as file:
                # Sizes are compared first: no file decides how much is read.
                is_whole = os.fstat(file.fileno()).st_size == num_bytes
                data = np.empty(num_bytes if is_whole else 0, np.uint8)
                is_whole = is_whole and file.readinto(data.data) == num_bytes
            if is_whole and _is_intact(data, start):
                os.utime(path)  # what is used lately is kept
                return data[len(start) : -_DIGEST_BYTES].reshape(shape)
            logger.warning("%s is damaged; it is deleted and its pages are computed again", path)
            path.unlink()
        except FileNotFoundError:
            pass
        except OSError as exc:
            logger.warning("kept pages cannot be read (%s)", exc)
        return None

    def touch(self, token_ids: Sequence[int]) -> bool:
        """Whether there is a file of a prefix, which counts as used now."""
        try:
            os.utime(self._path(self._start(token_ids)))
        except OSError:
            return False
        return True

    def save(self, token_ids: Sequence[int], pages: PageBytes) -> bool:
        """Write a prefix's full pages; False where the disk, or the limits, do not let us."""
        start = self._start(token_ids)
        if len(start) + pages.nbytes + _DIGEST_BYTES > self._max_bytes:
            return False
        body = np.ascontiguousarray(pages).data.cast("B")
        digest = hashlib.blake2b(start, digest_size=_DIGEST_BYTES)
        digest.update(body)
        fresh: Path | None = None
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:  # mode 0600
                fresh = Path(file.name)
                for part in (start, body, digest.digest()):
                    file.write(part)
            fresh.replace(self._path(start))
        except OSError as exc:
            logger.warning("pages cannot be kept in %s (%s)", self._folder, exc)
            return False
        finally:
            if fresh is not None:
                with suppress(OSError):  # it has its name by now, or is of no use
                    fresh.unlink()
        self._remove_stale()
        return True

    def _start(self, token_ids: Sequence[int]) -> bytes:
        """All of a file that stands before its pages."""
        num_tokens = len(token_ids) // self._page_size * self._page_size
        tokens = np.asarray(token_ids[:num_tokens], "<i4").tobytes()
        facts = {
            "version": VERSION,
            "identity": self._memory.identity,
            "page_size": self._page_size,
            "page_bytes": self._memory.page_bytes,
            "num_tokens": num_tokens,
            "tokens": hashlib.blake2b(tokens, digest_size=_DIGEST_BYTES).hexdigest(),
        }
        header = json.dumps(facts).encode()
        return _MAGIC + _LENGTH.pack(len(header)) + header + tokens

    def _path(self, start: bytes) -> Path:
        name = hashlib.blake2b(start, digest_size=_DIGEST_BYTES).hexdigest()
        return self._folder / f"{name}{_SUFFIX}"

    def _remove_stale(self) -> None:
        """Delete what was long not used, what is over the limits, and what was never finished."""
        now = time.time()
        kept: list[tuple[float, int, Path]] = []
        for path in self._folder.iterdir():
            with suppress(OSError):  # other processes may be at it too
                stat = path.stat()
                is_file = path.suffix == _SUFFIX
                if now - stat.st_mtime > (_KEPT_S if is_file else _WRITTEN_WITHIN_S):
                    path.unlink()
                elif is_file:
                    kept.append((stat.st_mtime, stat.st_size, path))
        kept.sort(reverse=True)
        num_bytes = 0
        for index, (_, size, path) in enumerate(kept):
            num_bytes += size
            if index >= self._max_files or num_bytes > self._max_bytes:
                with suppress(OSError):
                    path.unlink()


def _is_intact(data: PageBytes, start: bytes) -> bool:
    """Whether a file begins as it must and its checksum is right."""
    if data[: len(start)].tobytes() != start:
        return False
    digest = hashlib.blake2b(data[:-_DIGEST_BYTES].data, digest_size=_DIGEST_BYTES).digest()
    return data[-_DIGEST_BYTES:].tobytes() == digest
