"""The model service as OpenAI's routes want it: same models, same queue, same callers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from starlette.requests import Request

from mcp_servers.model_server.service import ModelService
from runtime.http_api.routes import Model


class Completions:
    """A `Backend` over a service whose models are `ChatModel`s."""

    def __init__(self, service: ModelService) -> None:
        self._service = service

    @property
    def model_names(self) -> Sequence[str]:
        return self._service.model_names

    async def get_model(self, name: str) -> Model:
        model: Model = await self._service.get_model(name)
        return model

    def turn(self, caller: str) -> AbstractAsyncContextManager[None]:
        return self._service.turn(caller)


def caller_of(request: Request) -> str:
    """The key a request was let in with; nobody where no key is needed."""
    user = request.scope.get("user")
    return f"user {user.username}" if user is not None else ""
