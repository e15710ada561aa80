"""The model service as OpenAI's routes want it: same models, same queue, same callers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from mcp_servers.model_server.calls import Model
from mcp_servers.model_server.report import Supervised
from mcp_servers.model_server.service import ModelService
from mcp_servers.model_server.url_servers import UrlServers, connect
from mcp_servers.web_app import PROBE_OPERATIONS
from runtime.errors import UnknownModelError
from runtime.http_api.conversations import conversation_routes
from runtime.http_api.faults import Fault, FaultError
from runtime.http_api.messages_routes import anthropic_routes
from runtime.http_api.openapi import document_route
from runtime.http_api.operations import OPERATIONS
from runtime.http_api.responses import responses_routes
from runtime.http_api.responses_mcp import ToolAccess, ToolSources, UrlServer
from runtime.http_api.responses_store import Memory
from runtime.http_api.routes import guarded, openai_routes
from runtime.http_api.stored_chats import StoredChats
from runtime.http_api.text_routes import text_routes
from tools.errors import suggest
from tools.toolset import CombinedToolset, Toolset

logger = logging.getLogger(__name__)


class Completions:
    """A `Backend` over a service.

    Args:
        service: has the models.
        any_name: whether a name that no model has means the default one, as for programs that
            ask for a hosted model by name.
        served_names: what the default model is called here; its own name where absent.
        url_servers: what tool servers requests may name by URL; none where absent.
    """

    def __init__(
        self,
        service: ModelService,
        *,
        any_name: bool = False,
        served_names: Sequence[str] = (),
        url_servers: UrlServers | None = None,
    ) -> None:
        self._service = service
        self._any_name = any_name
        self._served_names = tuple(served_names)
        self._url_servers = url_servers or UrlServers()

    @property
    def model_names(self) -> Sequence[str]:
        default, *others = self._service.models.names
        return [*(self._served_names or (default,)), *others]

    def has_model(self, name: str) -> bool:
        return self._any_name or self._find(name) is not None

    def _find(self, name: str) -> str | None:
        """The model that clients call so, by its own name."""
        models = self._service.models
        if name in self._served_names:
            return models.default
        return name if name in models.names else None

    @property
    def tool_sources(self) -> ToolSources:
        agent = self._service.agent
        return ToolSources(() if agent is None else agent.servers, self._url_servers.urls)

    @asynccontextmanager
    async def open_tools(self, by_url: Sequence[UrlServer]) -> AsyncIterator[ToolAccess]:
        agent = self._service.agent
        own = [] if agent is None else [await self._service.open_toolset()]
        policy = self._url_servers.policy if agent is None else agent.policy
        audit = self._url_servers.audit if agent is None else agent.audit
        async with connect(by_url) as connected:
            toolsets = [*own, *([connected] if by_url else [])]
            yield ToolAccess(
                CombinedToolset(*toolsets),
                policy,
                audit,
                lambda name: next(filter(None, (_why_absent(one, name) for one in toolsets)), None),
            )

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._service.start(work)

    @asynccontextmanager
    async def hold_model(self, name: str) -> AsyncIterator[Model]:
        models = self._service.models
        found = self._find(name)
        if found is None and not self._any_name:
            hint = suggest(name, self.model_names)
            raise UnknownModelError(f"no model is named {name!r}{hint}")
        async with models.hold(found or models.default, logger.debug) as model:
            yield model

    async def unload_model(self, name: str) -> None:
        if self._service.surface.loadable is None:
            text = "clients unload no models here: the server was started without --admin"
            raise FaultError(Fault(403, "permission_error", text, param="model"))
        await self._service.unload(self._find(name) or name)

    def check_queue(self, caller: str) -> None:
        self._service.check_queue(caller)

    def turn(self, caller: str, within_s: float | None = None) -> AbstractAsyncContextManager[None]:
        return self._service.turn(caller, within_s)

    def rate_headers(self, caller: str) -> Mapping[str, str]:
        """What a caller may still send, as OpenAI's clients read it.

        Of requests only. Tokens have no limit that anybody is refused for: a request waits for
        memory, so a number of them that is left would make clients wait for nothing.
        """
        allowance = self._service.allowance(caller)
        return {
            "x-ratelimit-limit-requests": str(allowance.limit),
            "x-ratelimit-remaining-requests": str(allowance.remaining),
            "x-ratelimit-reset-requests": f"{allowance.reset_s:.3f}s",
        }


def client_routes(
    backend: Completions,
    version: str,
    memory: Memory | None = None,
    chats: StoredChats | None = None,
    *,
    needs_key: bool = False,
) -> list[Route]:
    """All routes of the APIs that other clients than MCP's speak, and the APIs' document.

    What they keep is in `memory` and `chats`, which are empty and their own where absent.
    """
    memory = memory or Memory()
    operations = [*OPERATIONS, *PROBE_OPERATIONS]
    return [
        *anthropic_routes(backend, caller_of),
        *openai_routes(backend, caller_of, chats or StoredChats()),
        *responses_routes(backend, caller_of, memory),
        *conversation_routes(caller_of, memory),
        *text_routes(backend, caller_of),
        document_route(
            operations, version, guarded, lambda: backend.model_names, needs_key=needs_key
        ),
    ]


def _why_absent(toolset: Toolset, name: str) -> str | None:
    """Why a tool server offers nothing; None where it is there."""
    state = toolset.states().get(name) if isinstance(toolset, Supervised) else None
    if state is None or state.status == "ready":
        return None
    return f"{name} {state.reason or f'is {state.status}'}"


def caller_of(request: Request) -> str:
    """The key a request was let in with; nobody where no key is needed."""
    user = request.scope.get("user")
    return f"user {user.username}" if user is not None else ""
