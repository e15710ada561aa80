"""`POST /v1/completions`: plain text goes on, with no chat template.

Control tokens that a prompt spells are read as such: whoever completes plain text writes the
model's own format.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.chat.model import Output
from runtime.errors import GenerationError
from runtime.http_api.at_once import all_at_once
from runtime.http_api.body import read_body
from runtime.http_api.chat_request import read_output, read_sampling
from runtime.http_api.completion_answer import CompletionHeader, write_choice, write_usage
from runtime.http_api.event_stream import Emit, EventStream, unless_gone
from runtime.http_api.faults import TOO_LONG, FaultError, bad_request
from runtime.http_api.infill import read_gap
from runtime.http_api.logprobs import TextLogprobs
from runtime.http_api.routes import Backend, Model, queue_time_s
from runtime.http_api.text_shapes import CompletionRequest, Prompt
from runtime.request import (
    FinishReason,
    GenerateRequest,
    SamplingParams,
    TokenChunk,
    TokenScore,
    Usage,
)
from runtime.tokenizer.tokenizer import Tokenizer
from tools.spec import JsonObject

MAX_SEQUENCES = 256
"""Most texts that one request may have written, prompts times `best_of`."""

DEFAULT_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """One request in our terms.

    Attributes:
        prompts: tokens of each prompt.
        echoed: tokens with whose text each answer begins.
        scores_echo: whether they have log-probabilities too.
        num_choices: texts that are answered, for each prompt.
        num_drawn: texts that are written, for each prompt; the likeliest are answered.
        num_top: as asked; None where no log-probabilities are answered.
    """

    prompts: Sequence[tuple[int, ...]]
    echoed: Sequence[Sequence[int]]
    scores_echo: bool
    sampling: SamplingParams
    output: Output | None
    num_choices: int
    num_drawn: int
    num_top: int | None

    def request(self, prompt: int, draw: int) -> GenerateRequest:
        """The `draw`-th text of a prompt."""
        token_ids, sampling = self.prompts[prompt], self.sampling
        if sampling.seed is not None:
            index = prompt * self.num_drawn + draw
            sampling = replace(sampling, seed=(sampling.seed + index) % 2**63)
        num_scored = len(token_ids) - 1 if self.scores_echo else 0
        return GenerateRequest(token_ids, sampling, num_scored_tokens=num_scored)


@dataclass(slots=True)
class Written:
    """A text as it comes."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    usage: Usage = field(default_factory=Usage)

    def push(self, chunk: TokenChunk) -> None:
        """Take more.

        Raises:
            GenerationError: the text could not be written.
        """
        if chunk.finish_reason == "error":
            raise GenerationError(chunk.error or "the text broke off")
        self.text += chunk.text
        self.token_ids += chunk.token_ids
        self.scores += chunk.scores
        self.finish_reason = chunk.finish_reason
        self.usage = chunk.usage or self.usage

    @property
    def mean_logprob(self) -> float:
        """How likely the text is, per token."""
        scores = self.scores[len(self.scores) - len(self.token_ids) :]
        return math.fsum(score.logprob for score in scores) / max(1, len(scores))


class Completions:
    """Answers `POST /v1/completions`."""

    def __init__(self, backend: Backend, caller_of: Callable[[Request], str]) -> None:
        self._backend = backend
        self._caller_of = caller_of

    async def __call__(self, request: Request) -> Response:
        self._backend.check_queue(self._caller_of(request))
        asked = await read_body(request, CompletionRequest)
        _refuse_unsupported(asked)
        header = CompletionHeader(asked.model)
        caller = self._caller_of(request)

        @asynccontextmanager
        async def begun() -> AsyncIterator[tuple[Model, Plan]]:
            async with self._backend.hold_model(asked.model) as model:
                request.state.model = asked.model
                plan = await anyio.to_thread.run_sync(read_plan, asked, model)
                async with self._backend.turn(caller, queue_time_s(request)):
                    yield model.for_caller(caller), plan

        async def write(emit: Emit) -> None:
            has_usage = bool(asked.stream_options and asked.stream_options.include_usage)
            async with begun() as (model, plan):
                written = await _stream(header, model, plan, emit, has_usage=has_usage)
            request.state.usage = _usage(written)

        async def complete() -> Response:
            async with begun() as (model, plan):
                written = await _run(model, plan)
            request.state.usage = _usage(written)
            return JSONResponse(_write(header, model.tokenizer, plan, written))

        return EventStream(write) if asked.stream else await unless_gone(request, complete)


def _refuse_unsupported(asked: CompletionRequest) -> None:
    if asked.ignore_eos and read_output(asked) is not None:
        raise bad_request("a form that the text must have says where it ends", "ignore_eos")
    if asked.suffix and not isinstance(asked.prompt, str):
        raise bad_request("a suffix goes with one prompt, a text", "suffix")
    if asked.stream_options is not None and asked.stream is None:
        raise bad_request("stream_options needs stream: true", "stream_options")
    num_choices, num_drawn = asked.n or 1, asked.best_of or asked.n or 1
    if num_drawn < num_choices:
        raise bad_request(f"best_of must be at least n, {num_choices}", "best_of")
    if asked.stream and num_drawn > num_choices:
        raise bad_request("the best is known at the end: it cannot be streamed", "best_of")


def read_plan(asked: CompletionRequest, model: Model) -> Plan:
    """Translate a request.

    Raises:
        FaultError: names the field that cannot be honoured.
    """
    tokenizer = model.tokenizer
    max_tokens = model.context_length - (asked.max_tokens != 0)
    if asked.suffix:
        _check_size(str(asked.prompt) + asked.suffix, tokenizer, max_tokens, "prompt")
        prompts = [read_gap(str(asked.prompt), asked.suffix, tokenizer)]
        if len(prompts[0]) > max_tokens:
            raise _too_long(len(prompts[0]), max_tokens, "prompt")
    else:
        prompts = read_texts(asked.prompt, tokenizer, "prompt", max_tokens, parse_special=True)
    num_drawn = asked.best_of or asked.n or 1
    if len(prompts) * num_drawn > MAX_SEQUENCES:
        text = f"{len(prompts) * num_drawn} texts are asked for, at most {MAX_SEQUENCES} may be"
        raise bad_request(text, "prompt" if len(prompts) > 1 else "n")
    num_choices = asked.n or 1
    num_top = asked.logprobs
    if num_top is None and num_drawn > num_choices:
        num_top = 0  # the best is found by them
    num_new = DEFAULT_TOKENS if asked.max_tokens is None else asked.max_tokens
    sampling = read_sampling(asked, num_new, num_top)
    sampling = replace(sampling, ignores_end=bool(asked.ignore_eos))
    echoed: list[Sequence[int]] = [()] * len(prompts)
    if asked.echo:
        echoed = [tokenizer.encode(str(asked.prompt))] if asked.suffix else [*prompts]
    is_scored = asked.echo and not asked.suffix and asked.logprobs is not None
    return Plan(
        prompts,
        echoed,
        bool(is_scored),
        sampling,
        read_output(asked),
        num_choices,
        num_drawn,
        asked.logprobs,
    )


def read_texts(
    given: Prompt, tokenizer: Tokenizer, field_name: str, max_tokens: int, *, parse_special: bool
) -> list[tuple[int, ...]]:
    """The tokens of each text that was given, as text or as tokens.

    Raises:
        FaultError: a text has no token or too many, or a token is none of the model's.
    """
    is_one = isinstance(given, str) or isinstance(given[0], int)
    several = cast("list[str | list[int]]", [given] if is_one else given)
    found: list[tuple[int, ...]] = []
    for at, one in enumerate(several):
        where = field_name if len(several) == 1 else f"{field_name}[{at}]"
        if is_text := isinstance(one, str):
            _check_size(one, tokenizer, max_tokens, where)
            token_ids = tokenizer.encode_whole(one, parse_special=parse_special)
        else:
            token_ids = one
        if not token_ids:
            raise bad_request("a text of no token cannot be taken", where)
        if len(token_ids) > max_tokens:
            raise _too_long(len(token_ids), max_tokens, where)
        if not is_text and max(token_ids) >= tokenizer.vocab_size:
            text = f"the model's tokens are 0..{tokenizer.vocab_size - 1}, not {max(token_ids)}"
            raise bad_request(text, where)
        found.append(tuple(token_ids))
    return found


def _check_size(text: str, tokenizer: Tokenizer, max_tokens: int, where: str) -> None:
    """Refuse a text that is too long however it is split into tokens.

    Raises:
        FaultError: names the field.
    """
    if (at_least := len(text.encode()) // tokenizer.max_token_bytes) > max_tokens:
        raise _too_long(f"at least {at_least}", max_tokens, where)


def _too_long(num_tokens: int | str, max_tokens: int, where: str) -> FaultError:
    """A text that does not fit."""
    text = f"{where} has {num_tokens} tokens, at most {max_tokens} fit: shorten it"
    return bad_request(text, where, TOO_LONG)


async def _run(model: Model, plan: Plan) -> list[list[Written]]:
    """Let the model write all texts at the same time; those of each prompt, the best first."""
    written = [[Written() for _ in range(plan.num_drawn)] for _ in plan.prompts]

    async def write(prompt: int, draw: int) -> None:
        async with aclosing(model.complete(plan.request(prompt, draw), plan.output)) as chunks:
            async for chunk in chunks:
                written[prompt][draw].push(chunk)

    await all_at_once([partial(write, *place) for place in _places(plan)])
    if plan.num_drawn > plan.num_choices:
        for texts in written:
            texts.sort(key=lambda one: one.mean_logprob, reverse=True)
    return written


def _places(plan: Plan) -> Iterator[tuple[int, int]]:
    for prompt in range(len(plan.prompts)):
        for draw in range(plan.num_drawn):
            yield prompt, draw


def _write(
    header: CompletionHeader, tokenizer: Tokenizer, plan: Plan, written: list[list[Written]]
) -> JsonObject:
    choices: list[JsonObject] = []
    for echoed, texts in zip(plan.echoed, written, strict=True):
        lead = tokenizer.decode(echoed)
        for one in texts[: plan.num_choices]:
            text = lead + one.text
            logprobs = None
            if plan.num_top is not None:
                scored = echoed if plan.scores_echo else ()
                writer = TextLogprobs(tokenizer, offset=0 if scored else len(lead))
                logprobs = writer.write(_pair([*scored, *one.token_ids], one.scores), len(text))
            choices.append(write_choice(len(choices), text, logprobs, one.finish_reason))
    return header.write(choices=choices, usage=_usage(written))


def _pair(
    tokens: Sequence[int], scores: Sequence[TokenScore]
) -> Iterator[tuple[int, TokenScore | None]]:
    """Each token and its score; the first of a prompt has none."""
    lacking = len(tokens) - len(scores)
    for at, token_id in enumerate(tokens):
        yield token_id, scores[at - lacking] if at >= lacking else None


def _usage(written: list[list[Written]]) -> JsonObject:
    return write_usage([[one.usage for one in texts] for texts in written])


async def _stream(
    header: CompletionHeader, model: Model, plan: Plan, emit: Emit, *, has_usage: bool
) -> list[list[Written]]:
    """Emit the pieces of all texts as they come, then, where asked for, what they took."""
    extra: JsonObject = {"usage": None} if has_usage else {}
    written = [[Written() for _ in range(plan.num_drawn)] for _ in plan.prompts]

    async def write(prompt: int, draw: int) -> None:
        one = written[prompt][draw]
        writer = _PieceWriter(plan, model.tokenizer, plan.echoed[prompt])
        index = prompt * plan.num_choices + draw
        async with aclosing(model.complete(plan.request(prompt, draw), plan.output)) as chunks:
            async for chunk in chunks:
                one.push(chunk)
                text, logprobs = writer.push(chunk)
                if text or logprobs or one.finish_reason:
                    choice = write_choice(index, text, logprobs, one.finish_reason)
                    await emit(header.write(choices=[choice], **extra))

    await all_at_once([partial(write, *place) for place in _places(plan)])
    if has_usage:
        await emit(header.write(choices=[], usage=_usage(written)))
    return written


class _PieceWriter:
    """Cuts one text into pieces: the prompt, where it is echoed, is part of the first."""

    def __init__(self, plan: Plan, tokenizer: Tokenizer, echoed: Sequence[int]) -> None:
        self._lead = tokenizer.decode(echoed)
        self._scored = echoed if plan.scores_echo else ()
        self._logprobs: TextLogprobs | None = None
        if plan.num_top is not None:
            offset = 0 if self._scored else len(self._lead)
            self._logprobs = TextLogprobs(tokenizer, offset=offset)
        self._waiting: list[tuple[int, TokenScore | None]] = []
        self._num_chars = 0

    def push(self, chunk: TokenChunk) -> tuple[str, JsonObject | None]:
        """Take a chunk; return its text, and the log-probabilities of the tokens in it."""
        text, self._lead = self._lead + chunk.text, ""
        self._num_chars += len(text)
        if self._logprobs is None:
            return text, None
        tokens = [*self._scored, *chunk.token_ids]
        self._scored = ()
        self._waiting += _pair(tokens, chunk.scores)
        told = self._logprobs.write(self._waiting, self._num_chars)
        del self._waiting[: len(told["tokens"])]
        return text, told if told["tokens"] else None
