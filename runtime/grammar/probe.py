"""Compiles a grammar that may be hostile in a process of its own, which is killed past limits.

Compiling in our process has limits, too, but they do not cover everything: fifteen patterns in
an `allOf` take a minute. The worker (`python -m runtime.grammar.probe`) compiles for a
vocabulary of single bytes, fills the first masks and says how that went. It yields the
processor to everybody else, and imports nothing but llguidance: it is up in 50 ms.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import llguidance

from runtime.grammar.limits import LIMITS

NUM_STEPS = 64
NICENESS = 5
"""A quarter of a core that others want, too: enough for `cpu_s` within `wall_s`, with room."""

_POLL_S = 0.02
_READY = b"ready\n"
_EOS_ID = 256


@dataclass(frozen=True, slots=True)
class ProbeLimits:
    """What one probe may cost.

    Attributes:
        memory_bytes: address space over what the idle worker has; not enforced on macOS.
        cpu_s: whole seconds of processor time, the start of the worker included.
        wall_s: seconds from when the worker is ready, which is more than `cpu_s` only where
            others keep the processor busy.
        start_s: seconds until it is ready.
    """

    memory_bytes: int = 256 * 1024 * 1024
    cpu_s: int = 1
    wall_s: float = 10.0
    start_s: float = 10.0


DEFAULT_LIMITS = ProbeLimits()


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a grammar did.

    Attributes:
        problem: why it cannot be taken; None if it can.
        is_costly: it broke a limit or the compiler, which would break ours.
        is_transient: the machine, not the grammar, is to blame.
    """

    problem: str | None = None
    is_costly: bool = False
    is_transient: bool = False


def probe_grammar(
    serialized: str,
    limits: ProbeLimits = DEFAULT_LIMITS,
    cancelled: threading.Event | None = None,
) -> Verdict:
    """Try out llguidance's grammar `serialized`.

    Only its content decides, unless the verdict is transient. Blocks for a second of the
    worker's processor time at most, or until `cancelled` is set.
    The worker is gone when it returns or raises.
    """
    request = json.dumps({"grammar": serialized, "limits": asdict(limits)}).encode()
    command = [sys.executable, "-m", "runtime.grammar.probe"]
    with subprocess.Popen(  # noqa: S603 - no shell, our own module
        command,
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as worker:
        try:
            is_ready = _is_ready(worker, limits.start_s, cancelled)
            wall_s = limits.wall_s if is_ready else 0
            output, complaint = _converse(worker, request, wall_s, cancelled)
        finally:
            worker.kill()
    if cancelled and cancelled.is_set():
        return Verdict("it was cancelled while it was tried out", is_transient=True)
    if not is_ready or worker.returncode == -signal.SIGKILL:
        waited_s = limits.wall_s if is_ready else limits.start_s
        problem = f"the machine is too busy to try it out within {waited_s:g} s; try again"
        return Verdict(problem, is_transient=True)
    return _verdict(worker.returncode, output, complaint, limits)


def main() -> None:
    """Be the worker: a request on stdin, the verdict on stdout."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    os.write(1, _READY)
    request = json.loads(sys.stdin.buffer.read())
    _limit_resources(ProbeLimits(**request["limits"]))
    os.write(1, json.dumps({"problem": _try_out(request["grammar"])}).encode())


def _is_ready(
    worker: subprocess.Popen[bytes], start_s: float, cancelled: threading.Event | None
) -> bool:
    assert worker.stdout is not None
    deadline = time.monotonic() + start_s
    while time.monotonic() < deadline and not (cancelled and cancelled.is_set()):
        if select.select([worker.stdout], [], [], _POLL_S)[0]:
            return worker.stdout.readline() == _READY
    return False


def _converse(
    worker: subprocess.Popen[bytes],
    request: bytes,
    wall_s: float,
    cancelled: threading.Event | None,
) -> tuple[bytes, bytes]:
    """Send the request; return stdout and stderr, cut short when the time is over."""
    deadline = time.monotonic() + wall_s
    unsent: bytes | None = request
    while time.monotonic() < deadline and not (cancelled and cancelled.is_set()):
        try:
            return worker.communicate(unsent, timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            # What is left of the request stays with `communicate`.
            unsent = None
    worker.kill()
    return worker.communicate()


def _verdict(returncode: int, output: bytes, complaint: bytes, limits: ProbeLimits) -> Verdict:
    if returncode == 0:
        return Verdict(json.loads(output)["problem"])
    problem = f"the compiler breaks down over it (exit status {returncode})"
    if returncode == -signal.SIGXCPU:
        problem = f"it takes more than {limits.cpu_s} s of processor time to compile"
    elif b"memory allocation" in complaint or b"MemoryError" in complaint:
        problem = f"it takes more than {limits.memory_bytes // 2**20} MB of memory to compile"
    return Verdict(f"{problem}; make it smaller", is_costly=True)


def _limit_resources(limits: ProbeLimits) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 1))
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + limits.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


class _Bytes:
    """A tokenizer whose tokens are the bytes, and an end token."""

    eos_token_id = _EOS_ID
    bos_token_id = None
    tokens = (*(bytes([value]) for value in range(256)), b"<end>")
    special_token_ids = (_EOS_ID,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def _try_out(serialized: str) -> str | None:
    """Compile, then walk into the language, filling each mask on the way."""
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()), n_vocab=257)
    matcher = llguidance.LLMatcher(tokenizer, serialized, log_level=0, limits=LIMITS)
    for _ in range(NUM_STEPS):
        if matcher.is_error():
            return matcher.get_error().partition("\n")[0]
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        if mask == 0:
            return "no output satisfies it"
        lowest = (mask & -mask).bit_length() - 1
        if lowest == _EOS_ID:
            return None
        matcher.consume_token(lowest)
    return None


if __name__ == "__main__":
    main()
