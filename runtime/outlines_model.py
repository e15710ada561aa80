"""Zonda as a model of the library `outlines`, synchronous and asynchronous.

Importing it imports outlines (0.3 s, 1 s beside transformers). The synchronous model has an
event loop in a thread of its own; everything else is one `ChatModel` turn per input.
"""

from __future__ import annotations

import queue
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Sequence,
)
from concurrent.futures import Future
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import fields
from typing import Any, Protocol, TypeVar

import anyio
import anyio.to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal
from outlines.inputs import Chat
from outlines.models.base import AsyncModel, Model, ModelTypeAdapter

from runtime.chat.messages import ChatEvent, Message, TextDelta, TurnEnd
from runtime.config import Config, load_config
from runtime.errors import GenerationError
from runtime.grammar.compile import GrammarSource, from_output_type
from runtime.hub import Hub
from runtime.request import SamplingParams
from tools.errors import InvalidRequestError, suggest

_ROLES = ("system", "user", "assistant")
_T = TypeVar("_T")


class TurnModel(Protocol):
    """What is needed of a chat model; `runtime.chat.model.ChatModel` is one."""

    def stream(
        self,
        messages: Sequence[Message],
        *,
        output: GrammarSource | None = None,
        sampling: SamplingParams = ...,
    ) -> AsyncIterator[ChatEvent]:
        """Stream one turn; the last event is a `TurnEnd`."""
        ...


class OutlinesTypeAdapter(ModelTypeAdapter):
    """Prompts to messages, output types to grammars."""

    def format_input(self, model_input: Any) -> tuple[Message, ...]:
        """Return the messages of a text or an outlines `Chat`.

        Raises:
            InvalidRequestError: it is neither, or has something that is not text.
        """
        if isinstance(model_input, str):
            return (Message("user", model_input),)
        if isinstance(model_input, Chat):
            return tuple(_message(message) for message in model_input.messages)
        raise InvalidRequestError(
            f"the model reads a str or an outlines Chat, not {type(model_input).__name__}"
        )

    def format_output_type(self, output_type: Any | None = None) -> GrammarSource | None:
        """Return the language of any outlines output type; None leaves the answer free.

        Raises:
            UnsupportedSchemaError: outlines knows no such type, or it cannot be constrained.
        """
        return None if output_type is None else from_output_type(output_type)


class AsyncOutlinesModel(AsyncModel):
    """A chat model for `AsyncBlackBoxGenerator(model, T)`, and by itself.

    Answers are text, as of outlines' other models: `T.model_validate_json(answer)`. Further
    keywords are those of `SamplingParams`. An answer of a type that `max_tokens` cuts off is a
    `GenerationError`, so whatever is returned is of the type.
    """

    def __init__(self, model: TurnModel) -> None:
        self.type_adapter = OutlinesTypeAdapter()
        self._model = model

    # The inherited three go through `Generator`, which knows outlines' own classes only.
    async def __call__(
        self,
        model_input: Any,
        output_type: Any | None = None,
        backend: str | None = None,
        **inference_kwargs: Any,
    ) -> str:
        """Answer one input; there is one backend, so `backend` has to be None."""
        _check_backend(backend)
        return await self.generate(model_input, output_type, **inference_kwargs)

    async def batch(
        self,
        model_input: list[Any],
        output_type: Any | None = None,
        backend: str | None = None,
        **inference_kwargs: Any,
    ) -> list[str]:
        """Answer several inputs at once."""
        _check_backend(backend)
        return await self.generate_batch(model_input, output_type, **inference_kwargs)

    async def stream(
        self,
        model_input: Any,
        output_type: Any | None = None,
        backend: str | None = None,
        **inference_kwargs: Any,
    ) -> AsyncIterator[str]:
        """Yield the answer as it is decoded."""
        _check_backend(backend)
        async with aclosing(
            self.generate_stream(model_input, output_type, **inference_kwargs)
        ) as pieces:
            async for piece in pieces:
                yield piece

    async def generate(
        self, model_input: Any, output_type: Any | None = None, **inference_kwargs: Any
    ) -> str:
        """Answer one input.

        Raises:
            InvalidRequestError: the input, the type or a keyword is wrong.
            GenerationError: the answer was cut off, or the engine failed.
        """
        pieces = self.generate_stream(model_input, output_type, **inference_kwargs)
        async with aclosing(pieces):
            return "".join([piece async for piece in pieces])

    async def generate_batch(
        self, model_input: list[Any], output_type: Any | None = None, **inference_kwargs: Any
    ) -> list[str]:
        """Answer several inputs in one batch of the engine; the first failure ends all."""
        answers = [""] * len(model_input)

        async def answer(index: int) -> None:
            answers[index] = await self.generate(
                model_input[index], output_type, **inference_kwargs
            )

        try:
            async with anyio.create_task_group() as group:
                for index in range(len(model_input)):
                    group.start_soon(answer, index)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return answers

    async def generate_stream(  # type: ignore[override]  # declared as what it is not
        self, model_input: Any, output_type: Any | None = None, **inference_kwargs: Any
    ) -> AsyncGenerator[str, None]:
        """Yield the answer as it is decoded; raises as `generate`."""
        messages = self.type_adapter.format_input(model_input)
        sampling = _sampling(inference_kwargs)
        output = await anyio.to_thread.run_sync(self.type_adapter.format_output_type, output_type)
        async with AsyncExitStack() as stack:
            events = self._model.stream(messages, output=output, sampling=sampling)
            if hasattr(events, "aclose"):
                stack.push_async_callback(events.aclose)
            async for event in events:
                if isinstance(event, TextDelta):
                    yield event.text
                elif isinstance(event, TurnEnd):
                    _check_end(event, is_constrained=output is not None)


class OutlinesModel(Model):
    """The same for `BlackBoxGenerator(model, T)` and plain scripts; any thread may call it.

    Made by `open_outlines_model`, whose `with` ends the event loop it runs on.
    """

    def __init__(self, model: TurnModel, portal: BlockingPortal) -> None:
        self._model = AsyncOutlinesModel(model)
        self.type_adapter = self._model.type_adapter
        self._portal = portal

    def __call__(
        self,
        model_input: Any,
        output_type: Any | None = None,
        backend: str | None = None,
        **inference_kwargs: Any,
    ) -> str:
        """Answer one input; there is one backend, so `backend` has to be None."""
        _check_backend(backend)
        return self.generate(model_input, output_type, **inference_kwargs)

    def batch(
        self,
        model_input: list[Any],
        output_type: Any | None = None,
        backend: str | None = None,
        **inference_kwargs: Any,
    ) -> list[str]:
        """Answer several inputs at once."""
        _check_backend(backend)
        return self.generate_batch(model_input, output_type, **inference_kwargs)

    def stream(
        self,
        model_input: Any,
        output_type: Any | None = None,
        backend: str | None = None,
        **inference_kwargs: Any,
    ) -> Generator[str, None, None]:
        """Yield the answer as it is decoded."""
        _check_backend(backend)
        return self.generate_stream(model_input, output_type, **inference_kwargs)

    def generate(
        self, model_input: Any, output_type: Any | None = None, **inference_kwargs: Any
    ) -> str:
        """Answer one input; raises as `AsyncOutlinesModel.generate`."""
        return self._run(lambda: self._model.generate(model_input, output_type, **inference_kwargs))

    def generate_batch(
        self, model_input: list[Any], output_type: Any | None = None, **inference_kwargs: Any
    ) -> list[str]:
        """Answer several inputs in one batch of the engine."""
        return self._run(
            lambda: self._model.generate_batch(model_input, output_type, **inference_kwargs)
        )

    def generate_stream(
        self, model_input: Any, output_type: Any | None = None, **inference_kwargs: Any
    ) -> Generator[str, None, None]:
        """Yield the answer as it is decoded; leaving the loop ends the turn."""
        arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        async def pump() -> None:
            pieces = self._model.generate_stream(model_input, output_type, **inference_kwargs)
            try:
                async with aclosing(pieces):
                    async for piece in pieces:
                        arrived.put(piece)
            finally:
                arrived.put(None)

        turn = self._portal.start_task_soon(pump)
        try:
            while (piece := arrived.get()) is not None:
                yield piece
            turn.result()
        finally:
            turn.cancel()

    def _run(self, call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run on the event loop; an interrupt of this thread ends the turn too."""
        turn: Future[_T] = self._portal.start_task_soon(call)
        try:
            return turn.result()
        finally:
            turn.cancel()


@contextmanager
def open_outlines_model(
    name: str | None = None, config: Config | None = None
) -> Iterator[OutlinesModel]:
    """Load a model, the configured one by default, for synchronous use; leaving ends it.

    Raises:
        ZondaError: the model cannot be fetched or loaded.
    """
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_open_model(name, config)) as model,
    ):
        yield OutlinesModel(model, portal)


@asynccontextmanager
async def _open_model(name: str | None, config: Config | None) -> AsyncIterator[TurnModel]:
    async with Hub(config or load_config()) as hub:
        yield await hub.get(name)


def _message(message: dict[str, Any]) -> Message:
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise InvalidRequestError(f"a message's role is one of {', '.join(_ROLES)}, not {role!r}")
    if isinstance(content, list):
        content = "\n".join(_text_of(part) for part in content)
    return Message(role, _text_of(content))


def _text_of(part: Any) -> str:
    if isinstance(part, dict) and part.get("type") == "text":
        part = part.get("text")
    if not isinstance(part, str):
        raise InvalidRequestError(f"the model reads text, not {type(part).__name__}")
    return part


def _sampling(inference_kwargs: dict[str, Any]) -> SamplingParams:
    known = [field.name for field in fields(SamplingParams)]
    for name in inference_kwargs:
        if name not in known:
            raise InvalidRequestError(
                f"no sampling parameter is named {name!r}{suggest(name, known)}"
            )
    stop = inference_kwargs.get("stop", ())
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    return SamplingParams(**{**inference_kwargs, "stop": stops})


def _check_backend(backend: str | None) -> None:
    if backend is not None:
        raise InvalidRequestError(f"Zonda constrains its models itself; backend={backend!r} is not")


def _check_end(end: TurnEnd, *, is_constrained: bool) -> None:
    if end.finish_reason not in {"stop", "length"}:
        raise GenerationError(end.error or "the generation was ended; try again")
    if is_constrained and end.finish_reason == "length":
        raise GenerationError(
            f"the answer was not complete after {end.usage.completion_tokens} tokens; give a"
            " larger max_tokens or a type with bounds"
        )
