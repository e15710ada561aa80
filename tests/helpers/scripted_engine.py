"""An `AsyncEngine` that says what it is told, under the same rules as the real one."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

import anyio.lowlevel
import numpy as np

from runtime.engine.embedding import Vectors
from runtime.engine.prefix_pages import PageBytes
from runtime.errors import CapacityError, PromptTooLongError
from runtime.grammar.constraint import Constraint
from runtime.request import FinishReason, GenerateRequest, TokenChunk, Usage
from runtime.tokenizer.tokenizer import Tokenizer
from tools.errors import InvalidRequestError

PAGE_SIZE = 16

Script = Callable[[GenerateRequest], str]
"""What the model would say to a request, without the end of the turn; marker tokens spelled."""


def say(*texts: str) -> Script:
    """Say these texts, one per request; the last one again and again."""
    left = list(texts)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


@dataclass
class ScriptedEngine:
    """Plays back texts token by token, one chunk a step.

    Tokens that the grammar forces come without a step of their own. Where the script says
    something illegal, the sequence ends with an error that says so.

    Attributes:
        script: what to say.
        score: log-probability of a token of a scored prompt.
        chunk_size: tokens drawn per chunk.
        requests: what was asked.
        num_open: requests that are neither over nor abandoned.
        prefixes: what each lease without end holds; a page is `PAGE_SIZE` tokens.
    """

    tokenizer: Tokenizer
    script: Script = field(default_factory=lambda: say(""))
    score: Callable[[int], float] = lambda token_id: -1.0
    chunk_size: int = 1
    context_length: int = 4096
    requests: list[GenerateRequest] = field(default_factory=list)
    num_open: int = 0
    is_closed: bool = False
    _computed: list[tuple[int, ...]] = field(default_factory=list)
    prefixes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    async def generate(
        self, request: GenerateRequest, constraint: Constraint | None = None
    ) -> AsyncGenerator[TokenChunk]:
        if self.is_closed:
            raise CapacityError("the engine is closed")
        if len(request.token_ids) > self.context_length:
            raise PromptTooLongError(f"{len(request.token_ids)} tokens do not fit")
        self.requests.append(request)
        self.num_open += 1
        try:
            sequence = _Sequence(self.tokenizer, request, constraint, self.script(request))
            if request.num_scored_tokens:
                scored = request.token_ids[-request.num_scored_tokens :]
                yield TokenChunk(logprobs=tuple(self.score(token_id) for token_id in scored))
            while sequence.finish_reason is None:
                await anyio.lowlevel.checkpoint()
                yield sequence.step(self.chunk_size)
            self._computed.append(_full_pages(request.token_ids))
            if request.lease is not None and request.lease_s == math.inf:
                self.prefixes[request.lease] = _full_pages(request.token_ids)
        finally:
            self.num_open -= 1

    async def hold_prefix(
        self, lease: str, token_ids: Sequence[int], pages: PageBytes | None = None
    ) -> bool:
        if self.is_closed:
            raise CapacityError("the engine is closed")
        await anyio.lowlevel.checkpoint()
        if not (prefix := _full_pages(token_ids)):
            self.prefixes.pop(lease, None)
            return True
        if pages is not None:
            assert pages.tolist() == _as_bytes(prefix).tolist()
            self._computed.append(prefix)
        if not self._is_computed(prefix):
            return False
        self.prefixes[lease] = prefix
        return True

    async def read_prefix(self, token_ids: Sequence[int]) -> PageBytes | None:
        if self.is_closed:
            raise CapacityError("the engine is closed")
        await anyio.lowlevel.checkpoint()
        prefix = _full_pages(token_ids)
        return _as_bytes(prefix) if prefix and self._is_computed(prefix) else None

    async def embed(self, texts: Sequence[Sequence[int]]) -> Vectors:
        if self.is_closed:
            raise CapacityError("the engine is closed")
        await anyio.lowlevel.checkpoint()
        vectors = np.zeros((len(texts), 4), np.float32)
        for vector, token_ids in zip(vectors, texts, strict=True):
            if not token_ids:
                raise InvalidRequestError("a text must be one or more token ids")
            if len(token_ids) > self.context_length:
                raise PromptTooLongError(f"{len(token_ids)} tokens")
            for token_id in token_ids:
                vector[token_id % 4] += 1
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    async def aclose(self) -> None:
        self.is_closed = True

    def _is_computed(self, prefix: tuple[int, ...]) -> bool:
        return any(tokens[: len(prefix)] == prefix for tokens in self._computed)


def _full_pages(token_ids: Sequence[int]) -> tuple[int, ...]:
    return tuple(token_ids[: len(token_ids) // PAGE_SIZE * PAGE_SIZE])


def _as_bytes(prefix: tuple[int, ...]) -> PageBytes:
    return np.array(prefix, np.int32).view(np.uint8).reshape(-1, 4 * PAGE_SIZE)


class _Sequence:
    """One request's progress through its script."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        request: GenerateRequest,
        constraint: Constraint | None,
        script: str,
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self._tokenizer = tokenizer
        self._request = request
        self._constraint = constraint
        self._left = tokenizer.encode(script, parse_special=True)
        self._decoder = tokenizer.decoder()
        self._held = ""
        self._taken: list[int] = []
        self._num_forced = 0
        self._num_steps = 0
        self._error: str | None = None
        self._is_off_script = False

    def step(self, num_tokens: int) -> TokenChunk:
        start = len(self._taken)
        self._num_steps += 1
        for _ in range(num_tokens):
            self._take_next()
        self._take_forced()
        taken = tuple(self._taken[start:])
        text = self._release(taken)
        return TokenChunk(taken, text, (), self.finish_reason, self._error, self._usage())

    def _take_next(self) -> None:
        if self.finish_reason is None and len(self._taken) >= self._request.sampling.max_tokens:
            forced = [] if self._constraint is None else self._constraint.forced()
            is_whole = forced[:1] in ([stop_id] for stop_id in self._tokenizer.stop_ids)
            self.finish_reason = "stop" if is_whole else "length"
        if self.finish_reason is not None:
            return
        token_id = self._left.pop(0) if self._left else self._tokenizer.eos_id
        if self._constraint is not None and self._constraint.advance([token_id]) != 1:
            self._refuse(self._constraint, token_id)
            return
        self._append(token_id)

    def _refuse(self, constraint: Constraint, token_id: int) -> None:
        """As the engine: the constraint may say how to go on, or be at an end."""
        if constraint.state == "failed" or not constraint.forced():
            is_whole = constraint.state == "accepting" and _allows(constraint, token_id)
            self.finish_reason = "length" if is_whole else "error"
            said = self._tokenizer.decode(self._taken)
            self._error = None if is_whole else f"token {token_id} is illegal after {said!r}"
        else:
            self._is_off_script = True

    def _take_forced(self) -> None:
        while self._constraint is not None and self.finish_reason is None:
            room = self._request.sampling.max_tokens - len(self._taken)
            forced = self._constraint.forced()[:room]
            if not forced:
                return
            assert self._constraint.advance(forced) == len(forced)
            self._num_forced += len(forced)
            for token_id in forced:
                self._drop_from_script(token_id)
                self._append(token_id)

    def _drop_from_script(self, token_id: int) -> None:
        """Forced tokens say what the script says, but may cut it in other places."""
        if self._is_off_script:
            return
        if self._left[:1] == [token_id]:
            del self._left[0]
            return
        spelled = self._tokenizer.decode([token_id])
        rest = self._tokenizer.decode(self._left)
        assert rest.startswith(spelled), f"{spelled!r} is forced where the script has {rest!r}"
        self._left = self._tokenizer.encode(rest.removeprefix(spelled))

    def _append(self, token_id: int) -> None:
        self._taken.append(token_id)
        if token_id in self._tokenizer.stop_ids:
            self.finish_reason = "stop"

    def _release(self, token_ids: Sequence[int]) -> str:
        """Text that can no longer become part of a stop string."""
        text = self._held + self._decoder.push(token_ids)
        stops = self._request.sampling.stop
        cuts = [text.find(stop) for stop in stops if stop in text]
        if cuts:
            self.finish_reason = "stop"
            return text[: min(cuts)]
        if self.finish_reason is not None:
            return text + self._decoder.flush()
        held = max(
            (n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])), default=0
        )
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self._request.token_ids),
            completion_tokens=len(self._taken),
            forced_tokens=self._num_forced,
            forward_passes=self._num_steps,
        )


def _allows(constraint: Constraint, token_id: int) -> bool:
    """Whether the mask has the token, which the constraint did not take."""
    mask = np.full((1, token_id // 32 + 1024), -1, np.int32)
    constraint.fill(mask, 0)
    return bool(mask[0, token_id // 32] >> token_id % 32 & 1)
