"""The process that tries out grammars and grades schemas which may be hostile.

Forks for each question on stdin: a line of JSON with `size` and `limits`, then as many bytes.
Answers with a line: `status`, None where the time was over, and `output`, of status 0 the JSON
of `problem` and `support`. Compiles for a vocabulary of single bytes and fills the first masks.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TypedDict

import llguidance

from runtime.errors import UnsupportedSchemaError
from runtime.grammar.ladder import climb
from runtime.grammar.limits import LIMITS
from runtime.grammar.normal import normalise
from runtime.grammar.probe import ProbeLimits
from runtime.grammar.schema import check_bounds, close_objects
from tools.spec import JsonObject

NUM_STEPS = 64
NICENESS = 5
"""A quarter of a core that others want, too: enough for `cpu_s` within `wall_s`, with room."""
IDLE_S = 60.0
"""How long the worker waits for a question."""

_EOS_ID = 256


class Answer(TypedDict):
    """What the worker says of a question."""

    status: int | None
    output: str


def main() -> None:
    """Answer questions until stdin ends or none has come for a while."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        os.nice(NICENESS)
    while select.select([0], [], [], IDLE_S)[0]:
        if not (line := _read_line()):
            return
        head = json.loads(line)
        question = _read(head["size"])
        answer = _answer(question, ProbeLimits(**head["limits"]))
        os.write(1, json.dumps(answer).encode() + b"\n")


def _read_line() -> bytes:
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line


def _read(size: int) -> bytes:
    parts = []
    while size:
        part = os.read(0, size)
        if not part:
            sys.exit()
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _answer(question: bytes, limits: ProbeLimits) -> Answer:
    """Try it while nobody else wants the processor; where that never comes, with a share of it."""
    answer: Answer = {"status": None, "output": ""}
    for is_idle in (True, False):
        answer = _fork(question, limits, is_idle=is_idle)
        if answer["status"] is not None:
            break
    return answer


def _fork(question: bytes, limits: ProbeLimits, *, is_idle: bool) -> Answer:
    from_child, to_parent = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(to_parent, 1)
            os.dup2(to_parent, 2)
            _run(question, limits, is_idle=is_idle)
        finally:
            os._exit(1)
    os.close(to_parent)
    try:
        output = _collect(from_child, time.monotonic() + limits.wall_s)
    finally:
        os.close(from_child)
        os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if output is None or status == -signal.SIGKILL:
        return {"status": None, "output": ""}
    # The compiler may have complained before the last line.
    return {"status": status, "output": output.decode(errors="replace").rpartition("\0")[2]}


def _collect(from_child: int, deadline: float) -> bytes | None:
    """Read to the end; None where the time was over. Who asked may leave: then all is over."""
    parts: list[bytes] = []
    while (left_s := deadline - time.monotonic()) > 0:
        readable = select.select([from_child, 0], [], [], left_s)[0]
        if 0 in readable:
            sys.exit()
        if readable:
            part = os.read(from_child, 1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)
    return None


def _run(question: bytes, limits: ProbeLimits, *, is_idle: bool) -> None:
    """Be the child: write the result and end with status 0."""
    if is_idle and hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    _limit_resources(limits)
    try:
        result = _examine(json.loads(question.decode(errors="surrogatepass")))
    except MemoryError:
        os.write(2, b"MemoryError")
        os._exit(1)
    left = b"\0" + json.dumps(result).encode()
    while left:
        left = left[os.write(1, left) :]
    os._exit(0)


def _limit_resources(limits: ProbeLimits) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 1))
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + limits.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _examine(asked: JsonObject) -> JsonObject:
    try:
        if "grammars" in asked:
            return {"problem": _try_out(asked)[0], "support": None}
        schema = asked["schema"]
        check_bounds(schema)
        if asked["closes"] and isinstance(schema, dict):
            schema = close_objects(schema)
        support = climb(schema, normalise(schema), _try_out_schema)
    except UnsupportedSchemaError as exc:
        return {"problem": str(exc), "support": None}
    if isinstance(support, str):
        return {"problem": f"the schema at $ is not supported: {support}", "support": None}
    return {"problem": None, "support": asdict(support)}


def _try_out_schema(options: JsonObject) -> tuple[str | None, Sequence[str]]:
    return _try_out({"grammars": [{"json_schema": options}]})


class _Bytes:
    """A tokenizer whose tokens are the bytes, and an end token."""

    eos_token_id = _EOS_ID
    bos_token_id = None
    tokens = (*(bytes([value]) for value in range(256)), b"<end>")
    special_token_ids = (_EOS_ID,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def _try_out(grammar: JsonObject) -> tuple[str | None, Sequence[str]]:
    """Compile, then walk into the language, filling each mask on the way.

    Returns:
        the problem, if there is one, and the compiler's warnings.
    """
    try:
        text = json.dumps(grammar, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError as exc:
        raise UnsupportedSchemaError(f"the grammar is not Unicode text: {exc}") from exc
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()), n_vocab=257)
    matcher = llguidance.LLMatcher(tokenizer, text, log_level=0, limits=LIMITS)
    for _ in range(NUM_STEPS):
        if matcher.is_error():
            return matcher.get_error().partition("\n")[0], ()
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        if mask == 0:
            return "no output satisfies it", ()
        lowest = (mask & -mask).bit_length() - 1
        if lowest == _EOS_ID:
            break
        matcher.consume_token(lowest)
    return None, matcher.get_grammar_warnings()


if __name__ == "__main__":
    main()
