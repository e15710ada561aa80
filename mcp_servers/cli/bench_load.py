"""Sends completions, many at once, to our engine or to any OpenAI-compatible server.

Prompts are token ids, so that no tokenizer stands between the load and what is measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from mcp_servers.cli.bench_setup import (
    END_TOKEN,
    BenchOptions,
    LoadedModel,
    load_model,
    random_prompt,
)
from runtime.config import process_environment
from runtime.errors import GenerationError

if TYPE_CHECKING:
    import httpx2

    from runtime.engine.async_engine import AsyncEngine


class RefusedError(GenerationError):
    """A server had no place for a request."""


class Completer(Protocol):
    """Runs one greedy completion that goes on past the end of the text."""

    async def complete(self, prompt: Sequence[int], new_tokens: int) -> list[float]:
        """Return when each token came.

        Raises:
            RefusedError: there is no place for it now.
            GenerationError: it failed, or gave another number of tokens.
        """
        ...


class EngineCompleter:
    """Our engine, in this process."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def complete(self, prompt: Sequence[int], new_tokens: int) -> list[float]:
        from runtime.request import GenerateRequest, SamplingParams

        times: list[float] = []
        request = GenerateRequest(tuple(prompt), SamplingParams(max_tokens=new_tokens))
        async with aclosing(self._engine.generate(request)) as chunks:
            async for chunk in chunks:
                if chunk.error is not None:
                    raise GenerationError(f"the engine failed: {chunk.error}")
                times += [time.perf_counter()] * len(chunk.token_ids)
        return _checked(times, new_tokens)


class ServerCompleter:
    """A server's streaming `/v1/completions`."""

    def __init__(self, client: httpx2.AsyncClient, model: str) -> None:
        self._client = client
        self._model = model

    async def complete(self, prompt: Sequence[int], new_tokens: int) -> list[float]:
        body = {
            "model": self._model,
            "prompt": list(prompt),
            "max_tokens": new_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        times: list[float] = []
        num_tokens = None
        async with self._client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                reason = (await response.aread()).decode(errors="replace")
                kind = RefusedError if response.status_code in {429, 503} else GenerationError
                raise kind(f"the server answered {response.status_code}: {reason[:300]}")
            async for line in response.aiter_lines():
                event = _parse_event(line)
                if event.get("choices"):
                    times.append(time.perf_counter())
                if usage := event.get("usage"):
                    num_tokens = usage.get("completion_tokens")
        return _checked(_spread(times, num_tokens), new_tokens)


def _parse_event(line: str) -> dict[str, Any]:
    if not line.startswith("data:") or (text := line[5:].strip()) == "[DONE]":
        return {}
    event: dict[str, Any] = json.loads(text)
    if "error" in event:
        raise GenerationError(f"the server failed: {event['error']}")
    return event


def _spread(times: list[float], num_tokens: int | None) -> list[float]:
    """One time per token where the server says how many there were.

    Servers send a last event without a token, or one event for several tokens.
    """
    if num_tokens is None or len(times) == num_tokens or not times:
        return times
    if len(times) > num_tokens:
        return times[:num_tokens]
    return times + [times[-1]] * (num_tokens - len(times))


def _checked(times: list[float], new_tokens: int) -> list[float]:
    if len(times) != new_tokens:
        raise GenerationError(
            f"wanted {new_tokens} tokens, found {len(times)}: what is measured must be able to go "
            "on past the end of a text, and hold prompt and answer in its context"
        )
    return times


@asynccontextmanager
async def open_completer(
    options: BenchOptions,
) -> AsyncGenerator[tuple[Completer, LoadedModel | None]]:
    """Connect to the server, or load the model; in the latter case it comes along.

    Raises:
        ModelFileError, UnavailableError: as `load_model`.
    """
    if options.url is not None:
        import httpx2

        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(
            base_url=options.url,
            timeout=None,
            limits=limits,
            trust_env=False,
            headers=_key_header(),
        ) as client:
            yield ServerCompleter(client, options.model), None
        return
    from runtime.engine.async_engine import ThreadedEngine

    model = load_model(options.config)
    engine = ThreadedEngine(model.engine)
    async with anyio.create_task_group() as tasks:
        await tasks.start(engine.run)
        try:
            yield EngineCompleter(engine), model
        finally:
            with anyio.CancelScope(shield=True):
                await engine.aclose()


def _key_header() -> dict[str, str]:
    key = process_environment().get("OPENAI_API_KEY")
    return {"authorization": f"Bearer {key}"} if key else {}


def find_served_model(url: str) -> str:
    """Return what the server calls its model; it must have exactly one, or names the first.

    Raises:
        GenerationError: no server is there, or it is of another kind.
    """
    import httpx2

    try:
        address = f"{url.rstrip('/')}/v1/models"
        response = httpx2.get(address, timeout=30, trust_env=False, headers=_key_header())
        return str(response.raise_for_status().json()["data"][0]["id"])
    except (httpx2.HTTPError, ValueError, LookupError, TypeError) as exc:
        raise GenerationError(
            f"no OpenAI-compatible server answers at {url}: {type(exc).__name__}: {exc}"
        ) from exc


def random_prompt_for(model: LoadedModel | None, num_tokens: int) -> list[int]:
    """Draw tokens that our model has, or that most do."""
    return random_prompt(num_tokens, END_TOKEN if model is None else model.tokenizer.vocab_size)
