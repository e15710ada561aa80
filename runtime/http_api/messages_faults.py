"""Errors as Anthropic's clients read them: `{"type": "error", "error": {"type", "message"}}`.

Source: Anthropic's API reference, "Errors"; anthropic 2.14, `types/shared/error_type.py`.
"""

from __future__ import annotations

import re

from starlette.responses import JSONResponse, Response

from runtime.http_api.faults import TOO_LONG, Fault
from tools.spec import JsonObject

OVERLOADED = 529

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    OVERLOADED: "overloaded_error",
}
_INDEX = re.compile(r"\[(\d+)\]")
_LENGTHS = re.compile(r"has (?:at least )?(\d+) tokens.* has (\d+)")


def write_error(fault: Fault, request_id: str) -> JsonObject:
    """Write the body of an error; it is the last event of a stream that fails, too."""
    status = _status(fault)
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "api_error")
    error = {"type": kind, "message": _message(fault)}
    return {"type": "error", "error": error, "request_id": request_id}


def refuse(fault: Fault, request_id: str) -> Response:
    """Make the response of an error."""
    response = fault.as_response()  # its headers say whether and when to try again
    hints = {name: value for name, value in response.headers.items() if "retry" in name}
    response = JSONResponse(write_error(fault, request_id), _status(fault), hints)
    response.headers["request-id"] = request_id
    return response


def _status(fault: Fault) -> int:
    if fault.status == 503:
        return 500 if fault.code == "generation_failed" else OVERLOADED
    return fault.status


def _message(fault: Fault) -> str:
    if fault.code == TOO_LONG:
        # Claude Code shortens a conversation of which it is told in just these words.
        found = _LENGTHS.search(fault.message)
        numbers = f"{found[1]} tokens > {found[2]} maximum; " if found else ""
        return f"prompt is too long: {numbers}{fault.message}"
    if fault.param is None:
        return fault.message
    text = fault.message.removeprefix(f"{fault.param}: ")
    where = _INDEX.sub(r".\1", fault.param)  # as Anthropic writes it: messages.0.content
    return f"{where}: {text}"
