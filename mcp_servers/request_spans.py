"""A span of each request to the APIs; costs nothing where nobody collects spans.

Requests to the MCP server have spans of the SDK's own. No span holds what was said.

Source: OpenTelemetry semantic conventions of October 2026, "GenAI" (in development) and "HTTP".
"""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.propagate import extract
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, get_tracer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_servers.refusals import is_api
from mcp_servers.request_tally import HTTP_METHODS

OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
_PARENTS = ("traceparent", "tracestate")


class RequestSpans:
    """Wraps an application; `route_of` names the route of a request that was answered."""

    def __init__(
        self, app: ASGIApp, route_of: Callable[[Scope], str], tracer: Tracer | None = None
    ) -> None:
        self._app = app
        self._route_of = route_of
        self._tracer = tracer or get_tracer("zonda")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_api(scope["path"]):
            await self._app(scope, receive, send)
            return
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        given = [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"]]
        with self._tracer.start_as_current_span(
            _method(scope),
            context=extract({name: value for name, value in given if name in _PARENTS}),
            kind=SpanKind.SERVER,
            record_exception=False,  # their texts may quote what was asked
            set_status_on_exception=False,
        ) as span:
            try:
                await self._app(scope, receive, watch)
            finally:
                if span.is_recording():
                    _describe(span, scope, self._route_of(scope), status)


def _describe(span: Span, scope: Scope, route: str, status: int) -> None:
    attributes = _attributes(scope, route, status)
    operation, model = OPERATIONS.get(route), attributes.get("gen_ai.request.model")
    is_named = operation is not None and model is not None
    span.update_name(f"{operation} {model}" if is_named else f"{_method(scope)} {route}")
    span.set_attributes(attributes)
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))


def _attributes(scope: Scope, route: str, status: int) -> dict[str, str | int]:
    """What a span says; names of what is not known are left out."""
    state = scope.get("state", {})
    usage = state.get("usage", {})
    found: dict[str, str | int | None] = {
        "http.request.method": _method(scope),
        "http.route": route,
        "http.response.status_code": status or None,
        "gen_ai.operation.name": OPERATIONS.get(route),
        "gen_ai.provider.name": "zonda",
        "gen_ai.request.model": state.get("model"),
        "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
        "error.type": str(status) if status >= 400 else None if status else "cancelled",
    }
    return {name: value for name, value in found.items() if value is not None}


def _method(scope: Scope) -> str:
    """The method, "_OTHER" where it is none that we know, as the conventions have it."""
    method: str = scope["method"]
    return method if method in HTTP_METHODS else "_OTHER"
