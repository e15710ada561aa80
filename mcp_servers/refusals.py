"""Refusals in the words of the API that was called: JSON-RPC at `/mcp`, else the providers' own.

Knows only how an error is written, never whether there is one.

Source: openai-openapi 2.3.0, `Error`; Anthropic's API reference, "Errors".
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from runtime.http_api import messages_faults
from runtime.http_api.faults import Fault

API_PATHS = frozenset({"/tokenize", "/detokenize", "/apply-template", "/apply_template"})

_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def is_api(path: str) -> bool:
    """Whether clients of OpenAI's or Anthropic's API read what is answered there."""
    return path.startswith("/v1/") or path == "/v1" or path in API_PATHS


def refuse_api(
    scope: Scope,
    status: int,
    text: str,
    *,
    code: str | None = None,
    retry_s: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Make a refusal that the clients of the API which was called understand."""
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    fault = Fault(status, kind, text, code, retry_s=retry_s)
    if scope["path"].startswith("/v1/messages"):
        request_id = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        response = messages_faults.refuse(fault, request_id)
    else:
        response = fault.as_response()
    response.headers.update(headers or {})
    return response


class Refused:
    """An application that refuses every request, in the words of the API that was called."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        self._status = status
        self._text = text
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        code = "invalid_api_key" if self._status == 401 else None
        retry_s = 1 if self._status == 503 else None
        response = refuse_api(
            scope, self._status, self._text, code=code, retry_s=retry_s, headers=self._headers
        )
        await response(scope, receive, send)


async def refuse_path(request: Request, error: Exception) -> Response:
    """Answer what has no route or no such method; for Starlette."""
    assert isinstance(error, HTTPException)
    path, status = request.scope["path"], error.status_code
    headers = dict(error.headers or {})
    if not is_api(path):
        return PlainTextResponse(error.detail, status, headers)
    if status == 405:
        text = f"{request.method} is not how this is called; see the Allow header"
        return refuse_api(request.scope, status, text, code="method_not_allowed", headers=headers)
    text = "nothing is served at this address; see /openapi.json for what is"
    return refuse_api(request.scope, status, text, code="unknown_url", headers=headers)
