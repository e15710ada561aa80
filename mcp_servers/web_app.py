"""The HTTP server as one ASGI app: `/mcp`, `/health`, `/ready`, `/metrics`, behind one guard.

Knows no process: signals, sockets and the model belong to who opens it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from mcp.server import Server
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from mcp_servers.guard import Access, Guard
from mcp_servers.key_scopes import NeedsScope
from mcp_servers.message_check import MessageCheck
from mcp_servers.metrics import metrics_route
from mcp_servers.refusals import refuse_path
from mcp_servers.request_limits import MAX_BODY_BYTES, RequestLimits
from mcp_servers.request_record import RequestRecord, route_of
from mcp_servers.request_spans import RequestSpans
from mcp_servers.request_tally import CountResponses, RequestTally, count_requests
from mcp_servers.service_state import ServiceState
from runtime.http_api.chat_shapes import Shape
from runtime.http_api.openapi import Operation
from tools.spec import JsonObject

MAX_SESSIONS = 4096
RETRY_READY_S = 2


class StatusAnswer(Shape):
    """How the server is."""

    status: str


_probe = partial(Operation, "get", overloaded=None)

PROBE_OPERATIONS = (
    _probe("/health", "Say that the server runs", (StatusAnswer,)),
    _probe("/ready", "Say whether a model is loaded", (StatusAnswer,), others={503: StatusAnswer}),
    _probe("/metrics", "Show numbers to Prometheus", ()),
)
"""What is served beside the APIs, for their document."""


@dataclass(frozen=True, slots=True)
class WebApp:
    """An application that is open, and how to end the streams that clients keep open."""

    asgi: ASGIApp
    end_streams: Callable[[], None]


@asynccontextmanager
async def open_web_app(
    server: Server[Any],
    access: Access,
    readiness: Callable[[], str],
    state: Callable[[], ServiceState],
    routes: Sequence[Route] = (),
    *,
    caller_headers: Callable[[str], Mapping[str, str]] = lambda caller: {},
    record: Callable[[JsonObject], None] | None = None,
) -> AsyncIterator[WebApp]:
    """Offer an MCP server over streamable HTTP, both eras, and `routes`; leaving ends its sessions.

    `readiness` says "ready", or why not; `/ready` answers 503 until then. `state` is what
    `/metrics` shows beside what is asked here. `caller_headers` and `record` are those of
    `RequestRecord`.
    """
    tally = RequestTally()
    count_requests(server, tally)
    # The guard has checked Host and Origin, by rules that hold for every route.
    unchecked = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    server.streamable_http_app(
        transport_security=unchecked,
        max_request_body_size=MAX_BODY_BYTES,
        max_sessions=MAX_SESSIONS,
    )

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> Response:
        if (status := readiness()) == "ready":
            return JSONResponse({"status": status})
        return JSONResponse({"status": status}, 503, {"retry-after": str(RETRY_READY_S)})

    checked = Route("/mcp", MessageCheck(StreamableHTTPASGIApp(server.session_manager)))
    served: list[Route | NeedsScope] = [
        NeedsScope(checked, "tools"),
        *(NeedsScope(route, "inference") for route in routes),
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", metrics_route(tally, state)),
    ]
    app = Starlette(routes=served, exception_handlers={HTTPException: refuse_path})
    app.router.redirect_slashes = False  # a mistyped path is no page, and leads nowhere
    limits = RequestLimits(app)
    async with server.session_manager.run():
        counted = CountResponses(Guard(limits, access), [one.path for one in served], tally)
        traced = RequestSpans(counted, route_of(served))
        recorded = RequestRecord(traced, route_of(served), caller_headers, record)
        yield WebApp(recorded, limits.end_streams)
