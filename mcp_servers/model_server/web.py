"""The model server as a process over HTTP: from its socket to the signal that ends it.

The first signal stops new runs and lets those that go on end; the second ends the process.
"""

from __future__ import annotations

import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
import uvicorn

from mcp_servers.guard import Access
from mcp_servers.model_server.admin_calls import check_admin_calls
from mcp_servers.model_server.admission import AdmissionLimits
from mcp_servers.model_server.completions import Completions, client_routes
from mcp_servers.model_server.connections import Connection
from mcp_servers.model_server.server import build_server
from mcp_servers.model_server.service import AgentSetup, ModelService, open_service
from mcp_servers.model_server.stdio import GRACE_S, end_process, end_process_within, open_hub
from mcp_servers.model_server.tools import Surface
from mcp_servers.model_server.url_servers import UrlServers
from mcp_servers.web_app import open_web_app
from runtime.config import Config
from tools.errors import ConfigurationError
from tools.spec import JsonObject

logger = logging.getLogger(__name__)

CLOSE_WITHIN_S = 2
"""How long answers get to be sent once no run is left."""


def listen(host: str, port: int) -> socket.socket:
    """Bind the address.

    Raises:
        ConfigurationError: there is no such address here, or it is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        endpoint = (str(address[0]), int(address[1]))
        listener = socket.create_server(endpoint, family=family, backlog=1024)
    except OSError as exc:
        raise ConfigurationError(
            f"{host} port {port} cannot be bound: {exc.strerror}; give another --host or --port"
        ) from exc
    # Connections inherit it. asyncio sets it where it made the socket itself; without it the
    # end of each answer waits 40 ms for the client to acknowledge the beginning.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def serve_http(
    config: Config,
    agent: AgentSetup | None,
    surface: Surface,
    listener: socket.socket,
    access: Access,
    *,
    version: str,
    tls: ssl.SSLContext | None = None,
    record: Callable[[JsonObject], None] | None = None,
) -> None:
    """Serve on a bound socket until a signal comes and what then still ran has ended."""
    limits = AdmissionLimits(max_running=config.max_sequences)
    async with (
        open_service(
            [config.model], lambda: open_hub(config), agent, limits, surface=surface
        ) as service,
        anyio.create_task_group() as group,
    ):
        stop = _Stop(service, config.drain_s)
        server = build_server(service, version=version)
        check_admin_calls(server)
        backend = Completions(
            service,
            any_name=config.any_model_name,
            served_names=config.served_model_name.split(),
            url_servers=UrlServers.of_config(config, agent),
        )
        async with open_web_app(
            server,
            access,
            stop.readiness,
            service.state,
            client_routes(backend, version, needs_key=access.needs_key),
            caller_headers=backend.rate_headers,
            record=record,
        ) as app:
            http = HttpServer(http_config(app.asgi, tls))
            group.start_soon(service.prepare)
            async with anyio.create_task_group() as serving:
                serving.start_soon(http.serve, [listener])
                url = url_of(listener, "http" if tls is None else "https")
                logger.info("serving MCP at %s, model %s", url, config.model)
                await stop.drained()
                service.end_turns()
                app.end_streams()
                http.should_exit = True
        logger.info("stopped")
        end_process_within(GRACE_S)
        group.cancel_scope.cancel()


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """Where a client finds the MCP server."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}/mcp" if ":" in host else f"{scheme}://{host}:{port}/mcp"


class _Stop:
    """Waits for the signal that stops the server, then for its runs."""

    def __init__(self, service: ModelService, drain_s: float) -> None:
        self._service = service
        self._drain_s = drain_s
        self._is_stopping = False

    def readiness(self) -> str:
        return "draining" if self._is_stopping else self._service.readiness

    async def drained(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with anyio.create_task_group() as group:
                async for number in signals:
                    name = signal.Signals(number).name
                    if self._is_stopping:
                        logger.warning("ending at once on a second %s", name)
                        end_process(128 + number)
                    logger.info("stopping on %s, within %s s", name, self._drain_s)
                    self._is_stopping = True
                    group.start_soon(self._drain, group.cancel_scope)

    async def _drain(self, scope: anyio.CancelScope) -> None:
        with anyio.move_on_after(self._drain_s):
            await self._service.drain()
        scope.cancel()


class HttpServer(uvicorn.Server):
    """Leaves signals to us: the library's own handlers would close the socket at once."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_config(app: object, tls: ssl.SSLContext | None = None) -> uvicorn.Config:
    """How our applications are served: nothing logged of requests, no client's word on itself."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # Starlette's and uvicorn's ASGI types differ in spelling
        http=Connection,
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=CLOSE_WITHIN_S,
        ssl_context_factory=None if tls is None else lambda config, default: tls,
    )
