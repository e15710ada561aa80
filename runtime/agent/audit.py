"""One line of JSON for each tool call: who made it, what policy said, what became of it.

Says nothing of what was in a call or a result unless asked to. Several processes may write
to one file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from runtime.agent.events import ApprovedBy
from runtime.agent.rules import Decision
from runtime.telemetry import NUM_OLD_LOGS
from tools.spec import JsonObject, ToolResult

logger = logging.getLogger(__name__)

MAX_AUDIT_BYTES = 8_000_000
"""From this size on a file is put away; as many old ones are kept as of logs."""

Outcome = Literal["ok", "error", "denied", "refused", "unknown"]
"""ok, error: the tool's result. denied: policy or a person said no. refused: a limit, no such
tool, or wrong arguments. unknown: it was cancelled, or its time was over."""

_MAX_NAME_CHARS = 200


@dataclass(frozen=True, slots=True)
class CallRecord:
    """A call that is over.

    Attributes:
        tool: its name as it was offered.
        server: the configured server behind it; None for a function of this program.
        arguments: what it was called with.
        decision: what policy said; None where it was not asked.
        reason: why, or why the call was refused.
        approved_by: who said yes; None where nobody did.
        seconds: how long the tool took.
        outcome: what became of it.
        result: what it returned; None where it returned nothing.
    """

    tool: str
    server: str | None
    arguments: JsonObject
    decision: Decision | None
    reason: str
    approved_by: ApprovedBy | None
    seconds: float
    outcome: Outcome
    result: ToolResult | None


class AuditLog:
    """Appends to a file that its owner alone may read; the file is put away when it is long.

    A line that cannot be written is told of in the log: no call fails for it.
    """

    def __init__(
        self, path: Path, *, keeps_contents: bool = False, max_bytes: int = MAX_AUDIT_BYTES
    ) -> None:
        """Write to `path`, with arguments and results where contents are kept."""
        self._path = path
        self._keeps_contents = keeps_contents
        self._max_bytes = max_bytes

    def write(self, run_id: str, principal: str, record: CallRecord) -> None:
        """Append what became of a call of a run, which somebody asked for."""
        line = json.dumps(self._entry(run_id, principal, record), separators=(",", ":"))
        try:
            self._append(line.encode("ascii") + b"\n")
        except OSError as exc:
            logger.warning("run=%s: a call is missing in %s: %s", run_id, self._path, exc)

    def _entry(self, run_id: str, principal: str, record: CallRecord) -> JsonObject:
        arguments = _encode(record.arguments)
        result = None if record.result is None else record.result.text
        entry: JsonObject = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "run": run_id,
            "principal": principal,
            "server": record.server,
            "tool": record.tool[:_MAX_NAME_CHARS],
            "arguments_sha256": hashlib.sha256(arguments).hexdigest(),
            "arguments_bytes": len(arguments),
            "verdict": record.decision,
            "reason": record.reason,
            "approved_by": record.approved_by,
            "seconds": round(record.seconds, 6),
            "outcome": record.outcome,
            "result_bytes": None if result is None else len(result.encode(errors="replace")),
        }
        if self._keeps_contents:
            entry |= {"arguments": record.arguments, "result": result}
        return entry

    def _append(self, line: bytes) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{self._path}.lock", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._path.is_file() and self._path.stat().st_size + len(line) > self._max_bytes:
                self._put_away()
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(file, line)
            finally:
                os.close(file)
        finally:
            os.close(lock)

    def _put_away(self) -> None:
        """Number the files anew: `.1` is the youngest of the old."""
        for age in range(NUM_OLD_LOGS, 0, -1):
            younger = Path(f"{self._path}.{age - 1}") if age > 1 else self._path
            if younger.is_file():
                younger.replace(f"{self._path}.{age}")


def _encode(arguments: JsonObject) -> bytes:
    """The same bytes for the same arguments, in whatever order."""
    return json.dumps(arguments, sort_keys=True, separators=(",", ":")).encode("ascii")
