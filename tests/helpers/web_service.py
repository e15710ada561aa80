"""The HTTP application over scripted or real models: in memory, and on a port for clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote

import anyio
import httpx2
import uvicorn
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from starlette.types import Receive, Scope, Send

from mcp_servers.guard import make_access
from mcp_servers.model_server.admin import Models
from mcp_servers.model_server.admin_calls import check_admin_calls
from mcp_servers.model_server.admission import AdmissionLimits
from mcp_servers.model_server.completions import Completions, client_routes
from mcp_servers.model_server.connections import Connection
from mcp_servers.model_server.server import build_server
from mcp_servers.model_server.service import AgentSetup, ModelService, open_service
from mcp_servers.model_server.stdio import open_hub
from mcp_servers.model_server.tools import Surface
from mcp_servers.model_server.url_servers import UrlServers
from mcp_servers.model_server.web import listen
from mcp_servers.resource_server import ResourceServer
from mcp_servers.web_app import WebApp, open_web_app
from runtime.config import Config
from runtime.http_api.responses_store import Memory
from runtime.http_api.stored_chats import StoredChats
from tools.spec import JsonObject

HEADERS = {
    "host": "127.0.0.1",
    "content-type": "application/json",
    "accept": "application/json, text/event-stream",
}


@dataclass(frozen=True)
class ServedApp:
    """An open application and the service behind it."""

    web: WebApp
    service: ModelService

    async def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
    ) -> httpx2.Response:
        """Send one request in memory; the path goes out as it is spelled."""
        path, _, query = target.partition("?")

        async def as_spelled(scope: Scope, receive: Receive, send: Send) -> None:
            spelled = {
                "path": unquote(path),
                "raw_path": path.encode(),
                "query_string": query.encode(),
            }
            await self.web.asgi({**scope, **spelled}, receive, send)

        transport = httpx2.ASGITransport(app=as_spelled)
        async with httpx2.AsyncClient(transport=transport) as client:
            request = client.build_request(method, "http://127.0.0.1/", content=body)
            request.headers = httpx2.Headers(headers)
            return await client.send(request)


class OpenedModels(Protocol):
    """What is served; `ScriptedModels`, and `HubModels` for real ones."""

    def opened(self) -> AbstractAsyncContextManager[Models]: ...


@dataclass(frozen=True)
class HubModels:
    """The models that `zonda serve` has with this configuration."""

    config: Config

    def opened(self) -> AbstractAsyncContextManager[Models]:
        return open_hub(self.config)


@asynccontextmanager
async def open_app(
    models: OpenedModels,
    keys: Sequence[str] = (),
    *,
    model_name: str = "scripted",
    any_name: bool = False,
    served_names: Sequence[str] = (),
    memory: Memory | None = None,
    chats: StoredChats | None = None,
    readiness: Callable[[], str] | None = None,
    limits: AdmissionLimits | None = None,
    agent: AgentSetup | None = None,
    surface: Surface | None = None,
    tokens: ResourceServer | None = None,
    url_servers: UrlServers | None = None,
    record: Callable[[JsonObject], None] | None = None,
    within_s: float = 20,
) -> AsyncIterator[ServedApp]:
    """Open the application; every wait is bounded.

    The default model is `model_name`; other arguments are as where they are used.
    """
    with anyio.fail_after(within_s):
        async with open_service(
            [model_name], models.opened, agent, limits, surface=surface
        ) as service:
            server = build_server(service, version="1")
            check_admin_calls(server)
            access = make_access("127.0.0.1", keys, tokens=tokens)
            ready = readiness or (lambda: service.readiness)
            backend = Completions(
                service, any_name=any_name, served_names=served_names, url_servers=url_servers
            )
            async with open_web_app(
                server,
                access,
                ready,
                service.state,
                client_routes(backend, "1", memory, chats, needs_key=access.needs_key),
                caller_headers=backend.rate_headers,
                record=record,
            ) as web:
                yield ServedApp(web, service)


@asynccontextmanager
async def on_port(
    app: ServedApp | WebApp, connection: type[Connection] = Connection
) -> AsyncIterator[str]:
    """Serve an application on a port of this machine; yield its MCP URL."""
    web = app if isinstance(app, WebApp) else app.web
    config = uvicorn.Config(
        web.asgi, http=connection, lifespan="off", log_config=None, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as listener:
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve, [listener])
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
            web.end_streams()
            server.should_exit = True


@asynccontextmanager
async def connect(
    url: str, era: str, key: str | None = None, **options: Any
) -> AsyncIterator[Client]:
    """The SDK's client of a URL, with a connection of its own."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=20) as http,
        Client(streamable_http_client(url, http_client=http), mode=era, **options) as client,
    ):
        yield client
