"""How much memory is free, and whether a model fits into it.

Free is what the machine and every control group around the process still give. A model that
does not fit is refused before it is loaded: nothing is left to the kernel's out-of-memory
killer.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import MemoryShortError

logger = logging.getLogger(__name__)

HEADROOM_BYTES = 512 << 20
"""Kept free for activations, tokenizers, tool servers and everybody else."""

MIN_CONTEXT = 512
"""A context below this many tokens is not worth loading a model for."""

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What a model may use.

    Attributes:
        context_length: most tokens of one sequence.
        kv_bytes: for KV pages; holds at least one sequence of that length.
    """

    context_length: int
    kv_bytes: int


def plan_memory(
    *,
    weight_bytes: int,
    kv_bytes_per_token: int,
    context_length: int,
    kv_bytes: int,
    free_bytes: int | None,
) -> MemoryPlan:
    """Fit the wanted context and KV memory into what is free; None is not known.

    Raises:
        MemoryShortError: not even a context of `MIN_CONTEXT` tokens fits.
    """
    least = min(MIN_CONTEXT, context_length)
    room = kv_bytes
    if free_bytes is not None:
        room = min(kv_bytes, free_bytes - weight_bytes - HEADROOM_BYTES)
        if room < min(least * kv_bytes_per_token, kv_bytes):
            raise MemoryShortError(
                f"the model needs {_gib(weight_bytes)} for its weights, "
                f"{_gib(least * kv_bytes_per_token)} for {least} tokens of context and "
                f"{_gib(HEADROOM_BYTES)} of headroom, but {_gib(free_bytes)} are free; close "
                "other programs, or choose a smaller model (`zonda models`)"
            )
    fitting = min(context_length, room // kv_bytes_per_token)
    if room < kv_bytes:
        logger.warning(
            "KV pages get %s instead of %s: %s are free, weights take %s, %s stay free",
            *map(_gib, (room, kv_bytes, free_bytes or 0, weight_bytes, HEADROOM_BYTES)),
        )
    if fitting < context_length:
        logger.warning(
            "the context shrinks from %d to %d tokens: that is what %s of KV pages hold",
            *(context_length, fitting, _gib(room)),
        )
    return MemoryPlan(max(1, fitting), room)


def free_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes this process may still take; None where the system does not tell."""
    if sys.platform == "darwin":
        return _free_on_macos()
    free = _read_available(proc / "meminfo")
    limits = [room for room in _cgroup_rooms(proc / "self/cgroup", cgroups) if room is not None]
    known = [*limits, *([] if free is None else [free])]
    return min(known, default=None)


def _read_available(meminfo: Path) -> int | None:
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _read(meminfo), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _cgroup_rooms(membership: Path, root: Path) -> Iterator[int | None]:
    """What is left in each control group from the process's own up to the root."""
    for line in _read(membership).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if number == "0" and not controllers:
            files = ("memory.max", "memory.current", "inactive_file")
            yield from _rooms_up_from(root, name, files)
        elif "memory" in controllers.split(","):
            v1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _rooms_up_from(root / "memory", name, v1)


def _rooms_up_from(top: Path, name: str, files: tuple[str, str, str]) -> Iterator[int | None]:
    # In a container the name may be the host's and lead nowhere here; the top is then its own.
    folder = top / name.lstrip("/")
    for group in (folder, *folder.parents):
        yield _room(group, *files)
        if group == top:
            break


def _room(group: Path, limit_file: str, usage_file: str, cache_key: str) -> int | None:
    """The limit less what is used; file pages that can be dropped count as free."""
    limit, usage = _read(group / limit_file).strip(), _read(group / usage_file).strip()
    if not limit.isdecimal() or not usage.isdecimal():
        return None  # no such group, or "max"
    match = re.search(rf"^{cache_key} (\d+)$", _read(group / "memory.stat"), re.MULTILINE)
    return max(0, int(limit) - int(usage) + (int(match[1]) if match else 0))


def _free_on_macos() -> int | None:
    try:
        done = subprocess.run(["/usr/bin/vm_stat"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return parse_vm_stat(done.stdout)


def parse_vm_stat(text: str) -> int | None:
    """Free memory as macOS's `vm_stat` prints it: pages that are free or can be dropped."""
    size = re.search(r"page size of (\d+) bytes", text)
    pages = re.findall(r"^Pages (?:free|inactive|speculative|purgeable):\s+(\d+)\.", text, re.M)
    return int(size[1]) * sum(map(int, pages)) if size and pages else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.1f} GiB"
