"""The model service as OpenAI's routes want it: same models, same queue, same callers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.requests import Request

from mcp_servers.model_server.service import ModelService
from runtime.errors import UnknownModelError
from runtime.http_api.routes import Model
from tools.errors import suggest

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


def caller_of(request: Request) -> str:
    """The key a request was let in with; nobody where no key is needed."""
    user = request.scope.get("user")
    return f"user {user.username}" if user is not None else ""
