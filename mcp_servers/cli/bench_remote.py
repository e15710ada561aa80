"""Sends completions to any server of OpenAI's API, in whatever part of it that server has.

Prompts are token ids where it takes them, so that no tokenizer stands between the load and what
is measured; elsewhere they are text of about as many tokens.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle, product
from typing import Any
from urllib.parse import urldefrag

import httpx2

from mcp_servers.cli.bench_arrivals import Answer, RefusedError
from mcp_servers.cli.bench_setup import random_prompt
from runtime.config import process_environment
from runtime.errors import GenerationError

logger = logging.getLogger(__name__)

CONNECT_WITHIN_S = 30.0
NUM_CLIENTS = 64
"""Each looks through all its connections for every request: one alone is late at 500 a second."""
_REFUSALS = frozenset({429, 503})
_USAGE: dict[str, Any] = {"stream_options": {"include_usage": True}}
_PAST_END: dict[str, Any] = {"ignore_eos": True}
_OPTIONS = [past_end | usage for past_end, usage in product((_PAST_END, {}), (_USAGE, {}))]
"""What a server may not know, from all of it to nothing."""

_PROBE_TOKENS = 4
_WORDS = (
    "the of and to in is that it was for on are with as be at one have this from by had not but "
    "what all were when we there can an your which their said if do will each about how up out "
    "them then she many some so these would other into has more her two like him see time could"
)


class ServerCompleter:
    """A server's streaming `/v1/completions`, asked by the clients in turn.

    Attributes:
        model: what the server calls its model.
        options: what the server is asked for beside the standard's first fields.
        takes_tokens: whether prompts go out as token ids.
    """

    def __init__(self, clients: Sequence[httpx2.AsyncClient], model: str) -> None:
        self._clients = cycle(clients)
        self.model = model
        self.options: Mapping[str, Any] = _OPTIONS[0]
        self.takes_tokens = True

    async def settle(self) -> None:
        """Find out what the server takes; asks it for a few tokens, again and again if need be.

        Raises:
            GenerationError: it takes no form of the request; the message is about the first.
        """
        problem: GenerationError | None = None
        for self.takes_tokens, self.options in product((True, False), _OPTIONS):
            try:
                await self.complete(random_prompt(_PROBE_TOKENS), _PROBE_TOKENS)
            except RefusedError:
                raise
            except GenerationError as exc:
                problem = problem or exc
            else:
                self._tell()
                return
        assert problem is not None
        raise problem

    def _tell(self) -> None:
        if not self.takes_tokens:
            logger.warning(
                "%s takes no token ids: prompts are text of about as many tokens", self.model
            )
        if not self.options.keys() & _PAST_END.keys():
            logger.warning("%s does not take ignore_eos: answers may end early", self.model)
        if not self.options.keys() & _USAGE.keys():
            logger.warning("%s tells no usage: each event counts as a token", self.model)

    async def complete(self, prompt: Sequence[int], new_tokens: int) -> Answer:
        body = {
            "model": self.model,
            "prompt": list(prompt) if self.takes_tokens else _write_text(len(prompt)),
            "max_tokens": new_tokens,
            "temperature": 0,
            "stream": True,
            **self.options,
        }
        times: list[float] = []
        usage: Mapping[str, Any] = {}
        try:
            client = next(self._clients)
            async with client.stream("POST", "/v1/completions", json=body) as response:
                await _check(response)
                async for line in response.aiter_lines():
                    event = _parse_event(line)
                    if any(one.get("text") for one in event.get("choices") or ()):
                        times.append(time.perf_counter())
                    usage = event.get("usage") or usage
        except httpx2.HTTPError as exc:
            raise GenerationError(
                f"{self.model} gave no whole answer: {type(exc).__name__} {exc}"
            ) from exc
        times = _spread(times, usage.get("completion_tokens"), time.perf_counter())
        if not times:
            raise GenerationError(f"{self.model} answered without a token")
        return Answer(times, usage.get("prompt_tokens") or len(prompt))


async def _check(response: httpx2.Response) -> None:
    if response.status_code == 200:
        kind = response.headers.get("content-type", "none")
        if not kind.lower().startswith("text/event-stream"):
            raise GenerationError(f"the server answered with content of type {kind!r}, no stream")
        return
    reason = (await response.aread()).decode(errors="replace")
    failure = RefusedError if response.status_code in _REFUSALS else GenerationError
    raise failure(f"the server answered {response.status_code}: {reason[:300]}")


def _write_text(num_tokens: int) -> str:
    """Common words, each about a token, in an order that no cache has seen."""
    return " ".join(random.choices(_WORDS.split(), k=num_tokens))  # noqa: S311 - no secret


def _parse_event(line: str) -> dict[str, Any]:
    if not line.startswith("data:") or (text := line[5:].strip()) == "[DONE]":
        return {}
    try:
        event = json.loads(text)
    except ValueError as exc:
        raise GenerationError(f"the server sent an event that is not JSON: {text[:80]!r}") from exc
    if not isinstance(event, dict) or event.get("error"):
        raise GenerationError(f"the server failed: {text[:300]}")
    return event


def _spread(times: list[float], num_tokens: int | None, ended: float) -> list[float]:
    """One time per token where the server says how many there were.

    Servers send several tokens in one event, and tokens without text, such as parts of a letter.
    Those after the last text came by the end of the answer where it has no text at all.
    """
    if num_tokens is None:
        return times
    last = times[-1] if times else ended
    return times[:num_tokens] + [last] * (num_tokens - len(times))


@asynccontextmanager
async def open_server(url: str) -> AsyncGenerator[ServerCompleter]:
    """Connect to a server; `url` may end in `#MODEL`, else its first model is asked.

    Raises:
        GenerationError: no server is there, or one of another kind.
    """
    address, model = urldefrag(url)
    address = address.rstrip("/").removesuffix("/v1")
    key = process_environment().get("OPENAI_API_KEY")
    context = httpx2.create_ssl_context(trust_env=False)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                httpx2.AsyncClient(
                    base_url=address,
                    timeout=httpx2.Timeout(None, connect=CONNECT_WITHIN_S),
                    limits=httpx2.Limits(max_connections=None),
                    verify=context,
                    trust_env=False,
                    headers={"authorization": f"Bearer {key}"} if key else {},
                )
            )
            for _ in range(NUM_CLIENTS)
        ]
        completer = ServerCompleter(clients, model or await _find_model(clients[0], address))
        await completer.settle()
        yield completer


async def _find_model(client: httpx2.AsyncClient, address: str) -> str:
    try:
        response = await client.get("/v1/models", timeout=CONNECT_WITHIN_S)
        return str(response.raise_for_status().json()["data"][0]["id"])
    except (httpx2.HTTPError, ValueError, LookupError, TypeError) as exc:
        raise GenerationError(
            f"no OpenAI-compatible server tells its models at {address}: {type(exc).__name__}: "
            f"{exc}; where it has none to tell, name one: {address}#MODEL"
        ) from exc
