"""The model service as OpenAI's routes want it: same models, same queue, same callers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.routing import BaseRoute

from mcp_servers.model_server.calls import Model
from mcp_servers.model_server.report import Supervised
from mcp_servers.model_server.service import ModelService
from runtime.errors import UnknownModelError
from runtime.http_api.conversations import conversation_routes
from runtime.http_api.messages_routes import anthropic_routes
from runtime.http_api.responses import responses_routes
from runtime.http_api.responses_mcp import ToolAccess
from runtime.http_api.responses_store import Memory
from runtime.http_api.routes import openai_routes
from tools.errors import UnavailableError, suggest
from tools.toolset import Toolset

logger = logging.getLogger(__name__)


class Completions:
    """A `Backend` over a service.

    Args:
        service: has the models.
        any_name: whether a name that no model has means the default one, as for programs that
            ask for a hosted model by name.
    """

    def __init__(self, service: ModelService, *, any_name: bool = False) -> None:
        self._service = service
        self._any_name = any_name

    @property
    def model_names(self) -> Sequence[str]:
        return self._service.models.names

    @property
    def server_names(self) -> Sequence[str]:
        agent = self._service.agent
        return () if agent is None else agent.servers

    async def open_tools(self) -> ToolAccess:
        agent = self._service.agent
        if agent is None:
            raise UnavailableError("this server has no tool servers")
        toolset = await self._service.open_toolset()
        return ToolAccess(
            toolset, agent.policy, agent.audit, lambda name: _why_absent(toolset, name)
        )

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._service.start(work)

    @asynccontextmanager
    async def hold_model(self, name: str) -> AsyncIterator[Model]:
        models = self._service.models
        if name not in models.names:
            if not self._any_name:
                raise UnknownModelError(f"no model is named {name!r}{suggest(name, models.names)}")
            name = models.default
        async with models.hold(name, logger.info) as model:
            yield model

    def turn(self, caller: str) -> AbstractAsyncContextManager[None]:
        return self._service.turn(caller)


def client_routes(backend: Completions) -> list[BaseRoute]:
    """All routes of the APIs that other clients than MCP's speak."""
    memory = Memory()
    return [
        *anthropic_routes(backend, caller_of),
        *openai_routes(backend, caller_of),
        *responses_routes(backend, caller_of, memory),
        *conversation_routes(caller_of, memory),
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
