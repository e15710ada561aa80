"""Derived tokenizers kept on disk, so that a large vocabulary is turned into merges once.

A file's name is the digest of all it was made of; it is written whole or not at all. A cache
that cannot be read or written costs time, never an answer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from runtime.tokenizer.pieces import Pieces

logger = logging.getLogger(__name__)

# Counts up when the same vocabulary is to give another tokenizer.json.
_VERSION = 1


def load_or_derive(
    pieces: Pieces, adds_space: object, folder: Path, derive: Callable[[], str]
) -> str:
    """Return the tokenizer.json that `derive` makes of these pieces, from `folder` if it is there.

    Takes 0.1 s for 262,144 pieces when it is, and seconds when it is not.
    """
    path = folder / f"{_digest(pieces, adds_space)}.json"
    try:
        text = path.read_text(encoding="utf-8")
        if text.endswith("}}"):  # files are written whole; this is for a disk that was full
            return text
        logger.warning("%s is cut off", path)
    except FileNotFoundError:
        logger.info("deriving the merges of %d pieces", len(pieces.texts))
    except (OSError, UnicodeDecodeError) as exc:
        logger.warning("%s cannot be read: %s", path, exc)
    text = derive()
    try:
        _write_whole(path, text)
    except OSError as exc:
        logger.warning("the derived tokenizer is not kept: %s", exc)
    return text


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _digest(pieces: Pieces, adds_space: object) -> str:
    made_of = [_VERSION, adds_space, pieces.texts, pieces.types, pieces.scores]
    named_ids = sorted(pieces.named_ids.items())
    source = json.dumps([*made_of, named_ids], ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(source.encode(), digest_size=16).hexdigest()
