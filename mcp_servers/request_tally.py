"""Counts what the HTTP server is asked, and how it went.

No key says anything that a caller chose: methods, routes and tools are those we have.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import mcp_types as types
from mcp.server import Server, ServerRequestContext
from mcp.server.context import CallNext, HandlerResult
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.telemetry import Histogram

HTTP_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"})
REQUEST_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

MAX_TOOLS = 100
"""Of which calls are counted by name: each costs a series on the monitoring side."""

Outcome = Literal["ok", "tool_error", "rpc_error", "cancelled"]


@dataclass(slots=True)
class RequestTally:
    """What was asked over HTTP, and of the MCP server in it.

    Attributes:
        http: responses by route, method and status.
        mcp: requests by method, tool (of calls; "" until a tool of that name answered) and
            outcome.
        mcp_s: how long requests took, by method.
    """

    http: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    mcp: Counter[tuple[str, str, Outcome]] = field(default_factory=Counter)
    mcp_s: dict[str, Histogram] = field(default_factory=dict)


class CountResponses:
    """Wraps an application; counts each response by route, method and status."""

    def __init__(self, app: ASGIApp, routes: Iterable[str], tally: RequestTally) -> None:
        self._app = app
        self._routes = frozenset(routes)
        self._tally = tally

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in self._routes else "other"
        method = scope["method"] if scope["method"] in HTTP_METHODS else "other"

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._tally.http[route, method, str(message["status"])] += 1
            await send(message)

        await self._app(scope, receive, watch)


def count_requests(server: Server[Any], tally: RequestTally) -> None:
    """Count each request that the server gets from now on."""
    tools: set[str] = set()

    async def count(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if ctx.request_id is None:
            return await call_next(ctx)
        method, began = ctx.method, time.monotonic()
        if method != "initialize" and server.get_request_handler(method) is None:
            method = "unknown"
        name = (ctx.params or {}).get("name") if method == "tools/call" else None
        outcome: Outcome = "rpc_error"
        try:
            result = await call_next(ctx)
            if isinstance(name, str) and len(tools) < MAX_TOOLS:
                tools.add(name)  # only a tool that we have gives a result
            outcome = "tool_error" if _is_error(result) else "ok"
        except anyio.get_cancelled_exc_class():
            outcome = "cancelled"
            raise
        finally:
            tool = name if isinstance(name, str) and name in tools else ""
            tally.mcp[method, tool, outcome] += 1
            seconds = tally.mcp_s.setdefault(method, Histogram(REQUEST_BOUNDS_S))
            seconds.observe(time.monotonic() - began)
        return result

    server.middleware.append(count)


def _is_error(result: HandlerResult) -> bool:
    match result:
        case types.CallToolResult(is_error=True) | {"isError": True}:
            return True
        case _:
            return False
