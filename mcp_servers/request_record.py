"""What is told of each HTTP request: its id, to the caller and to the log, and how it went.

Wraps everything else, the guard too. Nothing that a caller wrote is kept but the id, which is
then short and plain; where none is given, or another, it gets one of ours.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_servers.key_scopes import NeedsScope
from mcp_servers.refusals import is_api
from mcp_servers.request_tally import HTTP_METHODS
from runtime.telemetry import MAX_LOG_BYTES, NUM_OLD_LOGS
from tools.errors import ConfigurationError
from tools.spec import JsonObject

logger = logging.getLogger(__name__)

CLIENT_GONE = 499

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

RouteOf = Callable[[Scope], str]
"""Names the route that answered; "other" where none did."""


class RequestRecord:
    """Gives each request an id, its answer headers, and the log a record.

    Args:
        route_of: names the route of a request that was answered.
        caller_headers: what a caller, by name, is told with each answer of the APIs.
        write: gets a record of each request, without anything of its content; see `_record`.
    """

    def __init__(
        self,
        app: ASGIApp,
        route_of: RouteOf,
        caller_headers: Callable[[str], Mapping[str, str]],
        write: Callable[[JsonObject], None] | None = None,
    ) -> None:
        self._app = app
        self._route_of = route_of
        self._caller_headers = caller_headers
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = _take_id(scope)
        scope.setdefault("state", {})
        status = CLIENT_GONE

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": self._add_headers(scope, request_id, message)}
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            record = self._record(scope, request_id, status, time.perf_counter() - began)
            logger.debug("request %(id)s: %(method)s %(route)s %(status)s", record)
            if self._write is not None:
                self._write(record)

    def _add_headers(
        self, scope: Scope, request_id: str, start: Message
    ) -> list[tuple[bytes, bytes]]:
        told = {"x-request-id": request_id}
        if is_api(scope["path"]):
            told |= self._caller_headers(_caller(scope))
        given = list(start.get("headers", ()))
        known = {name.lower() for name, _ in given}
        added = [(name.encode(), value.encode()) for name, value in told.items()]
        return given + [header for header in added if header[0] not in known]

    def _record(self, scope: Scope, request_id: str, status: int, seconds: float) -> JsonObject:
        """What is written down: when, id, method, route, status, seconds, tokens, principal."""
        usage = scope["state"].get("usage", {})
        return {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": request_id,
            "method": scope["method"] if scope["method"] in HTTP_METHODS else "other",
            "route": self._route_of(scope),
            "status": status,
            "seconds": round(seconds, 6),
            "prompt_tokens": usage.get("prompt_tokens"),
            "completion_tokens": usage.get("completion_tokens"),
            "principal": _caller(scope).removeprefix("user ") or None,
        }


def route_of(routes: Iterable[Route | NeedsScope]) -> RouteOf:
    """Name a route by its path as it was declared, without what a caller put into it."""
    paths = {id(route.endpoint): route.path for route in routes}
    return lambda scope: paths.get(id(scope.get("endpoint")), "other")


@contextmanager
def open_access_log(path: Path | None) -> Iterator[Callable[[JsonObject], None] | None]:
    """Yield a writer of one JSON line per request; "-" is standard error, None has no writer.

    A file is kept to `MAX_LOG_BYTES`, and so are the `NUM_OLD_LOGS` before it.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    if path is None:
        yield None
        return
    handler: logging.Handler
    try:
        if str(path) == "-":
            handler = logging.StreamHandler(sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            handler = RotatingFileHandler(
                path, maxBytes=MAX_LOG_BYTES, backupCount=NUM_OLD_LOGS, encoding="utf-8"
            )
    except OSError as exc:
        raise ConfigurationError(
            f"the access log {str(path)!r} cannot be written ({exc.strerror}); name another file"
        ) from exc
    lines = logging.Logger("access")  # noqa: LOG001 - out of reach of what configures the others
    lines.addHandler(handler)
    try:
        yield lambda record: lines.info("%s", json.dumps(record))
    finally:
        handler.close()


def _take_id(scope: Scope) -> str:
    """Find the request's id, or make one; it is then the request's only one."""
    given = [value for name, value in scope["headers"] if name == b"x-request-id"]
    text = given[0].decode("latin-1") if len(given) == 1 else ""
    request_id = text if _REQUEST_ID.fullmatch(text) else f"req_{secrets.token_hex(12)}"
    others = [item for item in scope["headers"] if item[0] != b"x-request-id"]
    scope["headers"] = [*others, (b"x-request-id", request_id.encode())]
    return request_id


def _caller(scope: Scope) -> str:
    user = scope.get("user")
    return "" if user is None else f"user {user.username}"
