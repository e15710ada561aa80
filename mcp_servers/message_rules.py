"""What a JSON-RPC message may be, and the error for one that is not; knows no transport.

The SDK takes a request whose id is null or a list for a notification and never answers it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tools.json_text import MAX_DEPTH, is_too_deep, read_json

MAX_MESSAGE_BYTES = 4 * 1024 * 1024

PARSE_ERROR, INVALID_REQUEST, INTERNAL_ERROR, OVERLOADED = -32700, -32600, -32603, -32000

_ID = rb'"id"\s*:\s*(-?\d{1,18}|"[^"\\]{1,200}")\s*'
_VERSION = rb'"jsonrpc"\s*:\s*"2\.0"\s*'
_ID_FIRST = re.compile(
    rb'\s*\{\s*(?:%s,\s*)?(?:"method"\s*:\s*"[^"\\]*"\s*,\s*)?%s[,}]' % (_VERSION, _ID)
)
_ID_LAST = re.compile(rb",\s*%s(?:,\s*%s)?\}\s*\Z" % (_ID, _VERSION))


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a message is not taken; without an id where the message's own is not known."""

    code: int
    text: str
    request_id: str | int | None = None

    def to_message(self) -> dict[str, Any]:
        """Return the JSON-RPC error that answers the message."""
        error = {"code": self.code, "message": self.text}
        return {"jsonrpc": "2.0", "id": self.request_id, "error": error}


def find_problem(data: bytes, what: str = "body") -> Refusal | None:
    """Return the refusal of bytes that no parser should see; `what` is what they are called."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return Refusal(PARSE_ERROR, f"the {what} is not UTF-8")
    if b"\0" in data:  # other Unicode encodings of JSON, whose brackets would not be counted
        return Refusal(PARSE_ERROR, f"the {what} is not JSON in UTF-8")
    if is_too_deep(data):
        return Refusal(INVALID_REQUEST, f"the {what} nests deeper than {MAX_DEPTH} levels")
    return None


def read_message(data: bytes, what: str = "body") -> dict[str, Any] | Refusal:
    """Return the message, or the error that JSON-RPC asks for."""
    try:
        message = read_json(data)
    except ValueError as exc:  # says of bytes that are no UTF-8, or of a number, what they are
        return Refusal(PARSE_ERROR, f"the {what} is not JSON: {str(exc)[:200]}")
    if isinstance(message, list):
        text = "batches are not part of MCP; send the messages one by one"
        return Refusal(INVALID_REQUEST, text)
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        return Refusal(INVALID_REQUEST, f"the {what} is not a JSON-RPC 2.0 message")
    request_id = message.get("id", "")
    if not isinstance(request_id, str | int) or isinstance(request_id, bool):
        text = f"an id is a string or a whole number, not {json.dumps(request_id)[:100]}"
        return Refusal(INVALID_REQUEST, text)
    if message.keys().isdisjoint({"method", "result", "error"}):
        return Refusal(INVALID_REQUEST, "the message has no method", message.get("id"))
    return message


def find_id(head: bytes, tail: bytes) -> str | int | None:
    """Return the id of a message too long to be read, from its beginning or its end.

    Clients write it first or last; None where it is in neither place.
    """
    found = _ID_FIRST.match(head) or _ID_LAST.search(tail)
    if found is None:
        return None
    request_id: str | int = json.loads(found[1])
    return request_id
