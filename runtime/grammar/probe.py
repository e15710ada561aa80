"""Tries out grammars that may be hostile in a process of its own, which is killed past limits.

Compiling in our process has limits, too, but they do not cover everything: fifteen patterns in
an `allOf` take a minute. What is tried out runs while nobody else wants the processor, so that
those who decode notice nothing; our own process does no more than pass the text on.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import weakref
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from runtime.grammar.ladder import SchemaSupport


@dataclass(frozen=True, slots=True)
class ProbeLimits:
    """What one probe may cost.

    Attributes:
        memory_bytes: address space over what the idle worker has; not enforced on macOS.
        cpu_s: whole seconds of processor time.
        wall_s: seconds for what runs while nobody else wants the processor, and as many again for
            a second try with a share of it. More than `cpu_s` is taken only where others keep
            the processor busy.
    """

    memory_bytes: int = 256 * 1024 * 1024
    cpu_s: int = 1
    wall_s: float = 10.0


DEFAULT_LIMITS = ProbeLimits()


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a grammar or a schema did.

    Attributes:
        problem: why it cannot be taken; None if it can.
        is_costly: it broke a limit or the compiler, which would break ours.
        is_transient: the machine, not the grammar, is to blame.
        support: of a schema that can be taken, how much of it a grammar enforces.
    """

    problem: str | None = None
    is_costly: bool = False
    is_transient: bool = False
    support: SchemaSupport | None = None


class Prober:
    """The worker (`python -m runtime.grammar.probe_worker`), which starts with the first question.

    It forks for every question, so that starting costs once. It ends when nobody asks it for a
    while, with this object, and with our process. For one thread at a time.
    """

    def __init__(self, limits: ProbeLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._worker: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[..., Prober] | None = None

    def __call__(self, question: str) -> Verdict:
        """Try out llguidance's grammar, or grade `S` of a question `{"schema": S, "closes": B}`.

        Its objects are closed first where `B` is true. Only the content decides, unless the
        verdict is transient.
        """
        for _ in range(2):  # the worker may have ended because nobody asked
            answer = b""
            try:
                answer = self._ask(question)
            except OSError as exc:
                problem = f"the process that tries it out does not start: {exc}; try again"
                return Verdict(problem, is_transient=True)
            finally:
                is_whole = answer.endswith(b"\n")
                if not is_whole:  # who is interrupted leaves no answer to the next question
                    self.close()
            if is_whole:
                return _verdict(json.loads(answer), self._limits)
        return Verdict("the process that tries it out is gone; try again", is_transient=True)

    def close(self) -> None:
        """End the worker; the next question starts another."""
        if self._end is not None:
            self._end()
        self._worker = self._end = None

    def _ask(self, question: str) -> bytes:
        """Return the answer's line; no whole one where the worker ended before it answered."""
        if self._worker is None:
            self._worker = _start()
            self._end = weakref.finalize(self, _end, self._worker)
        to_worker, from_worker = _pipes(self._worker)
        payload = question.encode(errors="surrogatepass")
        head = json.dumps({"size": len(payload), "limits": asdict(self._limits)})
        with suppress(BrokenPipeError):
            to_worker.write(head.encode() + b"\n" + payload)
            to_worker.flush()
        return from_worker.readline()


def probe_grammar(question: str, limits: ProbeLimits = DEFAULT_LIMITS) -> Verdict:
    """Ask a worker of its own, which is gone afterwards; see `Prober`."""
    prober = Prober(limits)
    try:
        return prober(question)
    finally:
        prober.close()


def _start() -> subprocess.Popen[bytes]:
    # Not in a session of its own: the system's shares are dealt to sessions first.
    return subprocess.Popen(
        [sys.executable, "-m", "runtime.grammar.probe_worker"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _end(worker: subprocess.Popen[bytes]) -> None:
    """Close its input, upon which it ends, with what it tries out."""
    to_worker, from_worker = _pipes(worker)
    with suppress(BrokenPipeError):
        to_worker.close()
    worker.wait()
    from_worker.close()


def _pipes(worker: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    return worker.stdin, worker.stdout


def _verdict(answer: dict[str, object], limits: ProbeLimits) -> Verdict:
    """Read `probe_worker.Answer`."""
    status, output = answer["status"], str(answer["output"])
    if status is None:
        problem = f"the machine is too busy to try it out within {2 * limits.wall_s:g} s; try again"
        return Verdict(problem, is_transient=True)
    if status == 0:
        result = json.loads(output)
        support = result["support"]
        return Verdict(
            result["problem"],
            support=support and SchemaSupport(support["level"], tuple(support["dropped"])),
        )
    problem = f"the compiler breaks down over it (exit status {status})"
    if status == -signal.SIGXCPU:
        problem = f"it takes more than {limits.cpu_s} s of processor time to compile"
    elif "memory allocation" in output or "MemoryError" in output:
        problem = f"it takes more than {limits.memory_bytes // 2**20} MB of memory to compile"
    return Verdict(f"{problem}; make it smaller", is_costly=True)
