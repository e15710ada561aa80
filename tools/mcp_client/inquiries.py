"""Answers what a tool server asks of us: a person's word, our model's, where it may work.

A question is put to whoever called the tool; where it could be meant for several callers, or
nobody called, it is declined. Both protocol eras end here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from typing import Any

import anyio
import mcp_types as types
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.client.client import ConnectMode
from mcp.client.session import MessageHandlerFnT
from pydantic import ValidationError

from tools.errors import InvalidRequestError, ZondaError
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.elicitation import to_elicit_result, to_question
from tools.mcp_client.exchange import Exchange
from tools.mcp_client.process import Pace
from tools.mcp_client.sampling import SamplingMeter, to_sampling_request, to_sampling_result
from tools.mcp_client.server_log import WANTED_LEVEL, ServerLog
from tools.questions import Answer, Ask, Question
from tools.sampling import Sampler

logger = logging.getLogger(__name__)

MAX_WAITING = 8
"""Questions of one server that wait for a person; more are declined."""

_MAX_WARNINGS_PER_S = 10

DECLINED = types.ElicitResult(action="decline")


class Inquiries:
    """What one server may ask, during which requests."""

    def __init__(self, config: ServerConfig, sampler: Sampler | None) -> None:
        self._config = config
        self._sampler = sampler
        self._budget = None if sampler is None else config.options.sampling
        self._meter = None if self._budget is None else SamplingMeter(self._budget)
        self._open: list[Exchange] = []
        self._one_at_a_time = anyio.Lock()
        self._pace = Pace(_MAX_WARNINGS_PER_S)
        self._num_waiting = 0

    def make_client(
        self,
        transport: AbstractAsyncContextManager[Any],
        hear: MessageHandlerFnT,
        mode: ConnectMode = "auto",
    ) -> Client:
        """Make a client that declares what this server may ask, and takes its log messages.

        Questions always are: who can be asked is known only with a call.
        """
        budget, roots = self._budget, self._config.options.roots
        capability = None
        if budget is not None and budget.has_tools:
            capability = types.SamplingCapability(tools=types.SamplingToolsCapability())
        return Client(
            transport,
            mode=mode,
            message_handler=hear,
            logging_callback=ServerLog(self._config.name),
            log_level=WANTED_LEVEL,
            elicitation_callback=self.on_elicit,
            sampling_callback=None if budget is None else self.on_sample,
            sampling_capabilities=capability,
            list_roots_callback=self.on_list_roots if roots else None,
        )

    @contextmanager
    def during(self, exchange: Exchange) -> Iterator[None]:
        """Let the server's questions of the handshake era belong to this request, too."""
        self._open.append(exchange)
        try:
            yield
        finally:
            self._open.remove(exchange)
            exchange.ended.set()

    async def answer(
        self, request: types.InputRequest, exchange: Exchange
    ) -> types.InputResponse | types.ErrorData:
        """Answer a question that came as the result of this request."""
        with exchange.paused():
            if isinstance(request, types.ElicitRequest):
                return await self._elicit(request.params, exchange)
            if isinstance(request, types.CreateMessageRequest):
                return await self._sample(request.params)
            return self._list_roots()

    async def on_elicit(
        self, context: ClientRequestContext, params: types.ElicitRequestParams
    ) -> types.ElicitResult:
        """Answer a question of the handshake era, which does not say during which call it came."""
        asked = self._open[0] if self._open else None
        if asked is None or any(one.context.ask != asked.context.ask for one in self._open):
            why = "during no call" if asked is None else "while calls of several callers were open"
            self._warn("it asked a question %s: declined", why)
            return DECLINED
        result = types.ElicitResult(action="cancel")
        async with anyio.create_task_group() as group:
            group.start_soon(_cancel_after, asked, group.cancel_scope)
            with self._all_paused():
                result = await self._elicit(params, asked)
            group.cancel_scope.cancel()
        return result

    async def on_sample(
        self, context: ClientRequestContext, params: types.CreateMessageRequestParams
    ) -> types.CreateMessageResult | types.CreateMessageResultWithTools | types.ErrorData:
        """Answer a sampling request of the handshake era."""
        with self._all_paused():
            return await self._sample(params)

    async def on_list_roots(
        self, context: ClientRequestContext
    ) -> types.ListRootsResult | types.ErrorData:
        """Answer a request for roots of the handshake era."""
        return self._list_roots()

    async def has_gone_where(self, error: types.ErrorData, exchange: Exchange) -> bool:
        """Send a person to the pages that an error of the handshake era names, if it names any.

        Returns whether there were pages and the person went to all: the request is then worth
        sending again.
        """
        if error.code != types.URL_ELICITATION_REQUIRED:
            return False
        try:
            pages = types.ElicitationRequiredErrorData.model_validate(error.data).elicitations
        except ValidationError:
            return False
        for page in pages[:MAX_WAITING]:
            with exchange.paused():
                if (await self._elicit(page, exchange)).action != "accept":
                    return False
        return bool(pages)

    @contextmanager
    def _all_paused(self) -> Iterator[None]:
        with ExitStack() as stack:
            for exchange in self._open:
                stack.enter_context(exchange.paused())
            yield

    async def _elicit(
        self, params: types.ElicitRequestParams, exchange: Exchange
    ) -> types.ElicitResult:
        """Put a question to the caller, one of a server's at a time; what is wrong is declined."""
        if self._num_waiting >= MAX_WAITING:
            self._warn("it asks %s questions at once: declined", MAX_WAITING + 1)
            return DECLINED
        self._num_waiting += 1
        try:
            question = to_question(self._config.name, params)
            async with self._one_at_a_time:
                answer = await self._put(question, exchange.context.ask)
            return to_elicit_result(question, answer)
        except InvalidRequestError as exc:
            self._warn("its question is declined: %s", exc)
            return DECLINED
        finally:
            self._num_waiting -= 1

    async def _put(self, question: Question, ask: Ask) -> Answer:
        """Ask; whatever breaks on the way to the person is no fault of the server's."""
        try:
            return await ask(question)
        except Exception:
            logger.exception("server=%s: its question could not be put", self._config.name)
            return Answer("cancel")

    async def _sample(
        self, params: types.CreateMessageRequestParams
    ) -> types.CreateMessageResult | types.CreateMessageResultWithTools | types.ErrorData:
        name = self._config.name
        if self._sampler is None or self._budget is None or self._meter is None:
            return types.ErrorData(code=types.INVALID_REQUEST, message="Sampling not supported")
        try:
            request = to_sampling_request(name, params, self._budget)
            self._meter.count()
            logger.info("server=%s samples: at most %d tokens", name, request.max_tokens)
            reply = await self._sampler(request)
        except InvalidRequestError as exc:
            self._warn("its sampling request is refused: %s", exc)
            return types.ErrorData(code=types.INVALID_REQUEST, message=str(exc))
        except ZondaError as exc:
            self._warn("its sampling request failed: %s", exc)
            return types.ErrorData(code=types.INTERNAL_ERROR, message=str(exc))
        except Exception:
            logger.exception("server=%s: its sampling request failed unexpectedly", name)
            message = "the model failed unexpectedly"
            return types.ErrorData(code=types.INTERNAL_ERROR, message=message)
        return to_sampling_result(reply, with_tools=bool(request.tools))

    def _warn(self, message: str, reason: object) -> None:
        """Log what was refused, a few times a second: a server may ask as often as it likes."""
        if self._pace.allows():
            logger.warning("server=%s: " + message, self._config.name, reason)  # noqa: G003  ours

    def _list_roots(self) -> types.ListRootsResult | types.ErrorData:
        if not self._config.options.roots:
            message = "List roots not supported"
            return types.ErrorData(code=types.INVALID_REQUEST, message=message)
        roots = [{"uri": root.uri, "name": root.name} for root in self._config.options.roots]
        return types.ListRootsResult.model_validate({"roots": roots})


async def _cancel_after(exchange: Exchange, scope: anyio.CancelScope) -> None:
    """Do not leave a question standing when the call that it was for is over."""
    await exchange.ended.wait()
    scope.cancel()
