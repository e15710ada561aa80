"""Files of the state folder that are kept for one tool server each; only their owner reads them."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any

SUFFIX = ".json"

_FORBIDDEN = re.compile(r"[^A-Za-z0-9_-]")


def kept_path(folder: Path, server: str, source: Any) -> Path:
    """Return where something is kept of a server that comes from `source`, which JSON can say.

    Two servers of one name in two files of two hosts do not share it.
    """
    return folder / f"{stem(server)}-{sha256(json.dumps(source))[:16]}{SUFFIX}"


def stem(server: str) -> str:
    """Return how the names of a server's files begin."""
    return f"{_FORBIDDEN.sub('_', server)[:40]}-{sha256(server)[:8]}"


def sha256(text: str) -> str:
    """Return the digest of any text that JSON can hold."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def write_kept(path: Path, value: Any) -> None:
    """Replace a file at once; it is made with mode 0600, its folder with 0700.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as draft:
        draft.write(json.dumps(value).encode())
    try:
        Path(draft.name).replace(path)
    finally:
        Path(draft.name).unlink(missing_ok=True)


def forget_kept(folder: Path, server: str) -> None:
    """Remove whatever is kept of a server."""
    for path in folder.glob(f"{stem(server)}-*{SUFFIX}"):
        path.unlink(missing_ok=True)
