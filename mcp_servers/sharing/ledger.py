"""What a host and its engine process owe each other, so that a new process can take over.

Knows messages, no transport. Requests of the host are kept until they are answered; what
opened the session is kept for good. Requests of an engine process bear numbers of our own
towards the host: an answer that comes late can never be taken for one to a later question.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

from mcp_servers.message_rules import INTERNAL_ERROR, INVALID_REQUEST, Refusal

REPLAY_PREFIX = "zonda-replay-"

_KEPT = ("initialize", "notifications/initialized", "logging/setLevel")


class Ledger:
    """Follows one host's session; not safe for threads.

    Invariant: `_open` holds the ids of the host's requests without an answer, `_questions` the
    ids of the engine process's, by the number under which the host knows them.
    """

    def __init__(self) -> None:
        self._open: dict[str, str | int] = {}
        self._questions: dict[int, str | int] = {}
        self._numbers = itertools.count(1)
        self._session: dict[tuple[str, str], dict[str, Any]] = {}

    @property
    def is_opening(self) -> bool:
        """Whether the host waits for the answer to `initialize`."""
        opening = self._session.get(("initialize", ""))
        return opening is not None and str(opening["id"]) in self._open

    def from_host(self, message: dict[str, Any], line: bytes) -> bytes | Refusal | None:
        """Note a message; return the line for the engine process, a refusal, or nothing."""
        if "method" not in message:
            return self._answer(message)
        if "id" in message:
            key = str(message["id"])
            if key in self._open:
                text = f"a request with the id {message['id']!r} is still being answered"
                return Refusal(INVALID_REQUEST, text, message["id"])
            self._open[key] = message["id"]
        elif message["method"] == "notifications/cancelled":
            self._open.pop(str(_params(message).get("requestId")), None)
        self._remember(message)
        return line

    def from_engine(self, line: bytes) -> bytes | None:
        """Note a message; return the line for the host, or nothing when it is not for it."""
        try:
            message = json.loads(line)
        except ValueError:
            return line
        if "method" not in message:
            key = str(message.get("id"))
            self._open.pop(key, None)
            return None if key.startswith(REPLAY_PREFIX) else line
        if "id" in message:
            number = next(self._numbers)
            self._questions[number] = message["id"]
            return _line({**message, "id": number})
        if message["method"] == "notifications/cancelled":
            return self._withdraw(message)
        return line

    def lose(self, why: str, *, keep_opening: bool = True) -> Sequence[bytes]:
        """Return what the host is told when the engine process is lost; nothing is owed then.

        Only `initialize` may go on waiting: `replay` asks it again.
        """
        is_kept = keep_opening and self.is_opening
        opening = self._session.get(("initialize", "")) if is_kept else None
        lines = [
            _line(Refusal(INTERNAL_ERROR, why, request_id).to_message())
            for request_id in self._open.values()
            if opening is None or request_id != opening["id"]
        ]
        lines += [_line(_cancelled(number, why)) for number in self._questions]
        self._open = {} if opening is None else {str(opening["id"]): opening["id"]}
        self._questions.clear()
        return lines

    def replay(self) -> Sequence[tuple[bytes, str | None]]:
        """Return the lines that open the session in another process.

        With each comes the id of the answer to wait for, which is not for the host.
        """
        if self.is_opening:
            return [(_line(self._session["initialize", ""]), None)]
        lines: list[tuple[bytes, str | None]] = []
        for message in self._session.values():
            if "id" not in message:
                lines.append((_line(message), None))
            else:
                request_id = f"{REPLAY_PREFIX}{next(self._numbers)}"
                lines.append((_line({**message, "id": request_id}), request_id))
        return lines

    def _answer(self, message: dict[str, Any]) -> bytes | None:
        number = message.get("id")
        if not isinstance(number, int) or number not in self._questions:
            return None  # of a question that was withdrawn, or never asked
        return _line({**message, "id": self._questions.pop(number)})

    def _withdraw(self, message: dict[str, Any]) -> bytes | None:
        params = _params(message)
        for number, request_id in self._questions.items():
            if request_id == params.get("requestId"):
                del self._questions[number]
                return _line({**message, "params": {**params, "requestId": number}})
        return None

    def _remember(self, message: dict[str, Any]) -> None:
        method, uri = message["method"], str(_params(message).get("uri"))
        if method in _KEPT:
            self._session[method, ""] = message
        elif method == "resources/subscribe":
            self._session[method, uri] = message
        elif method == "resources/unsubscribe":
            self._session.pop(("resources/subscribe", uri), None)


def _params(message: dict[str, Any]) -> dict[str, Any]:
    params = message.get("params")
    return params if isinstance(params, dict) else {}


def _cancelled(number: int, why: str) -> dict[str, Any]:
    params = {"requestId": number, "reason": why}
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
