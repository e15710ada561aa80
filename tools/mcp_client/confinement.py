"""Confines a tool server: limits of the system for its processes, and `bwrap` as a sandbox.

Limits are set from outside right after the start, so that no code of ours runs in the child;
what the server starts later inherits them. Linux only.
Source: prlimit(2), bwrap(1).
"""

from __future__ import annotations

import logging
import os
import resource
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.errors import ToolServerError
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.options import ProcessLimits

logger = logging.getLogger(__name__)

_MIB = 1 << 20


def confined_command(config: ServerConfig) -> list[str]:
    """Return what is run for a server, without a shell: its command, or `bwrap` with it.

    Raises:
        ToolServerError: there is no `bwrap`; the message is the rest of a sentence.
    """
    command = [config.command, *config.args]
    sandbox = config.options.sandbox
    if sandbox is None:
        return command
    bwrap = shutil.which("bwrap", path=config.env.get("PATH", os.defpath))
    if bwrap is None:
        raise ToolServerError(
            "cannot be started: its sandbox needs `bwrap`, which is not on its PATH; install "
            'bubblewrap, or say "x-runtime": {"sandbox": "none"} in its entry'
        )
    folder = str(config.cwd or Path.cwd())
    return [
        *(bwrap, "--die-with-parent", "--unshare-all"),
        *(("--share-net",) if sandbox.has_network else ()),
        *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"),  # noqa: S108  its own
        *("--ro-bind-try", folder, folder),  # it may be in /tmp, which is empty in there
        *_bind("--bind-try", sandbox.writable),
        *_bind("--ro-bind-try", sandbox.read_only),
        *(part for path in sandbox.hidden for part in _hide(path)),
        *("--chdir", folder, "--", *command),
    ]


def _bind(option: str, paths: Sequence[Path]) -> list[str]:
    return [part for path in paths for part in (option, str(path), str(path))]


def _hide(path: Path) -> Sequence[str]:
    """Put something empty in a path's place; what is not there needs no hiding."""
    if path.is_dir():
        return ("--tmpfs", str(path))
    return ("--ro-bind", "/dev/null", str(path)) if path.exists() else ()


def limit_process(pid: int, server: str, limits: ProcessLimits) -> None:
    """Put limits on a process that was just started; what is not enforced is told in the log."""
    if sys.platform == "linux":
        wanted = {
            resource.RLIMIT_CPU: limits.cpu_s,
            resource.RLIMIT_DATA: None if limits.memory_mb is None else limits.memory_mb * _MIB,
        }
        if limits.num_processes is not None:
            wanted[resource.RLIMIT_NPROC] = _num_own_threads() + limits.num_processes
        for kind, most in wanted.items():
            try:
                _, hard = resource.prlimit(pid, kind)
                if most is not None and (hard == resource.RLIM_INFINITY or most < hard):
                    resource.prlimit(pid, kind, (most, most))
            except ProcessLookupError:  # it has ended already
                return
            except (OSError, ValueError) as exc:
                logger.warning("server=%s cannot be limited: %s", server, exc)
    elif limits != ProcessLimits():
        logger.warning("server=%s: `limits` are not enforced on this system", server)


def _num_own_threads() -> int:
    """Count what the system counts for RLIMIT_NPROC: all threads of this user."""
    user, count = os.getuid(), 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and entry.stat().st_uid == user:
                count += len(list((entry / "task").iterdir()))
        except OSError:  # it ended meanwhile
            continue
    return count
