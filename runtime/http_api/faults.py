"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`.

Source: openai-openapi 2.3.0, `Error`; openai-python 3.54, `_exceptions.py` (which headers say
whether and when to try again).
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from starlette.responses import JSONResponse, Response

from runtime.errors import CapacityError, PromptTooLongError, UnknownModelError
from tools.errors import InvalidRequestError, UnavailableError, ZondaError
from tools.spec import JsonObject

logger = logging.getLogger(__name__)

DEFAULT_RETRY_S = 1
TOO_LONG = "context_length_exceeded"

_RETRY = re.compile(r"try again in (\d+) s")


MAX_MESSAGE_CHARS = 1000
MAX_PARAM_CHARS = 200


def cut(text: str, max_chars: int) -> str:
    """Return a text, or its beginning where it is too long."""
    return text if len(text) <= max_chars else f"{text[: max_chars - 1]}…"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request is not answered as asked.

    Attributes:
        status: HTTP status.
        kind: OpenAI's `type`.
        message: for the person who wrote the request.
        code: a stable name, where there is one.
        param: the field at fault.
        retry_s: seconds after which the same request may succeed; None where it never will.
    """

    status: int
    kind: str
    message: str
    code: str | None = None
    param: str | None = None
    retry_s: int | None = None

    def __post_init__(self) -> None:
        """Cut what quotes a request, so that no answer echoes a whole body."""
        object.__setattr__(self, "message", cut(self.message, MAX_MESSAGE_CHARS))
        if self.param is not None:
            object.__setattr__(self, "param", cut(self.param, MAX_PARAM_CHARS))

    @property
    def body(self) -> JsonObject:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    def as_response(self) -> Response:
        headers = {"x-should-retry": "false" if self.retry_s is None else "true"}
        if self.retry_s is not None:
            headers["retry-after"] = str(self.retry_s)
        return JSONResponse(self.body, self.status, headers)


class FaultError(InvalidRequestError):
    """A request that OpenAI's shapes refuse; raised where the fault is found."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def bad_request(message: str, param: str | None = None, code: str | None = None) -> FaultError:
    """A request that can never be answered, because of one of its fields."""
    return FaultError(Fault(400, "invalid_request_error", message, code, param))


def fault_of(error: Exception) -> Fault:
    """What a client is told of an exception; what is not ours is logged and not shown."""
    match error:
        case FaultError():
            return error.fault
        case UnknownModelError():
            return Fault(404, "invalid_request_error", str(error), "model_not_found", "model")
        case PromptTooLongError():
            return Fault(400, "invalid_request_error", str(error), TOO_LONG, "messages")
        case InvalidRequestError():
            return Fault(400, "invalid_request_error", str(error), error.code)
        case CapacityError():
            found = _RETRY.search(str(error))
            retry_s = int(found[1]) if found else DEFAULT_RETRY_S
            text = str(error)
            return Fault(429, "rate_limit_error", text, "rate_limit_exceeded", retry_s=retry_s)
        case UnavailableError():
            return Fault(503, "server_error", str(error), error.code, retry_s=DEFAULT_RETRY_S)
        case ZondaError():
            return Fault(500, "server_error", str(error), error.code)
        case _:
            logger.error("a request failed", exc_info=error)
            return Fault(500, "server_error", "the request failed inside the server; see its log")
