"""Names under which the tools of external servers are offered."""

from __future__ import annotations

import hashlib
import re

MAX_NAME_CHARACTERS = 64

_SEPARATOR = "__"
_FORBIDDEN = re.compile(r"[^A-Za-z0-9_-]")


def server_prefix(server: str) -> str:
    """Return what the name of every tool of `server` (the configured name) starts with."""
    return _FORBIDDEN.sub("_", server)[: MAX_NAME_CHARACTERS // 2] + _SEPARATOR


def exposed_name(server: str, tool: str) -> str:
    """Name a server's tool: `server__tool`, at most 64 characters of `A-Za-z0-9_-`.

    Depends on nothing but the two names, so that prompts and policies stay valid. A name that
    could not be kept as it is ends in 6 hexadecimal digits of its digest: no two tools share
    a name, and none can pose as another server's.
    """
    plain = f"{server}{_SEPARATOR}{tool}"
    name = server_prefix(server) + _FORBIDDEN.sub("_", tool)
    is_ambiguous = _SEPARATOR in server or server.endswith("_")
    if name == plain and len(name) <= MAX_NAME_CHARACTERS and not is_ambiguous:
        return name
    digest = hashlib.sha256(f"{server}\0{tool}".encode()).hexdigest()[:6]
    return f"{name[: MAX_NAME_CHARACTERS - 7]}_{digest}"
