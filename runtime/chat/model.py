"""A loaded model that takes conversations and tools, and answers in events.

Joins template, wire format, grammar, engine and parser; knows no scheduler and no tensor.
"""

from __future__ import annotations

import copy
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import anyio
import anyio.to_thread

from runtime.chat.callers import CallersEngine
from runtime.chat.catalogue import Catalogue
from runtime.chat.grammars import Grammars
from runtime.chat.limited import limits_of
from runtime.chat.messages import (
    AUTO,
    ChatEvent,
    Message,
    OutputSchema,
    ToolChoice,
    TurnEnd,
    TurnStart,
)
from runtime.chat.prompt import Prompt, PromptBuilder
from runtime.chat.support import ToolSupport
from runtime.chat.tempered import temperatures_of
from runtime.chat.turn import MAX_REPAIRS, Attempt, Restart, TurnPlan
from runtime.chat.wire_formats.arguments import HintValues
from runtime.chat.wire_formats.grammar import TurnShape, arguments_schema, choose_tools
from runtime.engine.async_engine import AsyncEngine
from runtime.engine.embedding import Vectors
from runtime.engine.saved_pages import SavedPages
from runtime.errors import GenerationError, PromptTooLongError, UnsupportedSchemaError
from runtime.grammar.compile import GrammarSource
from runtime.grammar.constraint import Constraint
from runtime.request import FinishReason, GenerateRequest, SamplingParams, TokenChunk, Usage
from runtime.tokenizer.tokenizer import Tokenizer
from tools.errors import InvalidRequestError, ZondaError
from tools.spec import ToolSpec

Output = OutputSchema | GrammarSource
GREEDY = SamplingParams()
NO_CHOICES: Mapping[str, Sequence[str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Asked:
    """What one call of `stream` asks for."""

    messages: Sequence[Message]
    tools: Sequence[ToolSpec]
    choice: ToolChoice
    output: Output | None
    sampling: SamplingParams
    thinks: bool | None
    choices: Mapping[str, Sequence[str]] | None  # None: not known yet
    admitted: Sequence[ToolSpec] = ()

    @property
    def callable_tools(self) -> Sequence[ToolSpec]:
        return (*self.tools, *self.admitted)


class ChatModel:
    """One model: `stream` a turn, `choose` among answers, `count_tokens`.

    Several turns may run at once; the engine batches them. Rendering and compiling happen in
    worker threads, so the event loop never waits for them.

    Attributes:
        name: the model's name.
        context_length: most tokens of prompt and answer together.
        tokenizer: the model's tokenizer.
        wire_format: how the model writes its turns.
        features: what its chat template supports.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Tokenizer,
        engine: AsyncEngine,
        context_length: int,
        saved_pages: SavedPages | None = None,
    ) -> None:
        """Compile the model's chat template.

        What `prepare` computes is also kept in `saved_pages`, where there are any.

        Raises:
            TemplateError: the model has no chat template, or a broken one.
        """
        self.name = name
        self.tokenizer = tokenizer
        self.context_length = context_length
        self._engine = engine
        self._prompts = PromptBuilder(tokenizer)
        self._catalogue = Catalogue(self._build_tokens, engine, saved_pages)
        self.wire_format = self._prompts.wire_format
        self.features = self._prompts.features()
        end_of_turn_id = self._prompts.end_of_turn_id
        self._grammars = Grammars(self._prompts.bound, tokenizer, end_of_turn_id)

    def for_caller(self, caller: str) -> ChatModel:
        """The same model for one of several callers, who must not learn what others ask.

        Only the prefix that `prepare` keeps is shared with them; "" shares everything.
        """
        if not caller:
            return self
        own = copy.copy(self)
        own._engine = CallersEngine(self._engine, caller, self._catalogue.num_shared)
        return own

    async def support_of(self, tools: Sequence[ToolSpec]) -> dict[str, ToolSupport]:
        """Return how strictly the calls of each tool are decoded, by the tool's name."""
        return await anyio.to_thread.run_sync(self._grammars.support_of, tools)

    async def prepare(self, tools: Sequence[ToolSpec], *, system: str | None = None) -> None:
        """Compile the tools' grammar and compute their part of the prompt, before a turn needs it.

        For conversations that begin with this system text, or none, and offer exactly these
        tools. Takes as long as the prefill, but other turns do not wait for it.

        Raises:
            InvalidRequestError: as `stream`, for what is wrong with the tools.
        """
        asked = _Asked([Message("user", "?")], tools, AUTO, None, GREEDY, None, None)
        await anyio.to_thread.run_sync(self._plan, asked)
        await self._catalogue.warm(tools, system=system)

    async def stream(  # noqa: PLR0913 - options by name
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        tool_choice: ToolChoice = AUTO,
        output: Output | None = None,
        sampling: SamplingParams = GREEDY,
        conversation: str | None = None,
        lease_s: float = 300.0,
        thinks: bool | None = None,
        choices: Mapping[str, Sequence[str]] = NO_CHOICES,
        admitted: Sequence[ToolSpec] = (),
        tells_start: bool = False,
    ) -> AsyncGenerator[ChatEvent]:
        """Let the model take a turn; the last event is its `TurnEnd`.

        Closing the iterator, or cancelling, aborts the turn and frees its memory.

        Args:
            messages: the conversation so far.
            tools: what the model is told it can call.
            tool_choice: whether and what it may, or must, call.
            output: constrains the visible answer.
            sampling: how tokens are drawn; `max_tokens` is cut to what the context leaves.
            conversation: keeps the turn's memory under this name for the next one.
            lease_s: seconds for which it is kept.
            thinks: asks for thoughts, or for none, of a model that has the choice.
            choices: lists that `x-choices-from` in tools' schemas refers to by their names.
            admitted: what it can call besides `tools`, and is not told of at the prompt's
                beginning: the conversation tells. The prompt stays the same when they change.
            tells_start: whether the first event is a `TurnStart`, before anything is computed.

        Raises:
            InvalidRequestError: no messages, bad tool names, a choice that cannot be met, too
                few tokens for the shortest answer; among them `UnknownToolError`,
                `UnsupportedSchemaError` (names tool, keyword and path), `TemplateError` and
                `PromptTooLongError`.
            CapacityError: the engine's queue is full.
        """
        asked = _Asked(messages, tools, tool_choice, output, sampling, thinks, choices, admitted)
        plan = await anyio.to_thread.run_sync(self._plan, asked)
        if tells_start:
            yield TurnStart(len(plan.prompt.token_ids))
        restart, usage, last = Restart(), Usage(), TokenChunk()
        refused: Attempt | None = None
        for repairs_left in range(MAX_REPAIRS, -1, -1):
            constraint = await self._constrain(plan, restart)
            if refused is not None and constraint is not None and constraint.state == "failed":
                yield self._end(plan, refused, last, usage)  # nothing else could be said
                return
            attempt = Attempt(plan, self._prompts.bound, self.tokenizer, restart)
            request = _request(plan, restart, sampling)
            if conversation is not None:
                request = replace(request, lease=conversation, lease_s=lease_s)
            last = TokenChunk()
            async with aclosing(self._engine.generate(request, constraint)) as chunks:
                async for last in chunks:
                    for event in attempt.push(last):
                        yield event
                    if last.finish_reason or attempt.rejected or attempt.is_stopped:
                        break
            is_over = last.finish_reason is not None or attempt.is_stopped
            if not is_over and attempt.rejected is None:
                raise GenerationError("the engine ended the turn without saying why; try again")
            usage = _add_usage(usage, last.usage or Usage(), plan.prompt, attempt)
            if attempt.rejected is None or not repairs_left:
                if refused is not None and attempt.breaks_off_in(refused):
                    attempt = refused  # what was wrong is more to the point than what is missing
                yield self._end(plan, attempt, last, usage)
                return
            refused, restart = attempt, attempt.mend(attempt.rejected)

    async def choose(self, messages: Sequence[Message], options: Sequence[str]) -> dict[str, float]:
        """Return how likely the model would answer with each option; the shares sum to 1.

        The softmax over the summed log-probabilities of each option's tokens and its end of
        turn.

        Raises:
            InvalidRequestError: no options, an empty one, or one given twice.
            GenerationError: an option could not be scored.
        """
        if not options or len(set(options)) != len(options) or not all(options):
            raise InvalidRequestError("options must be at least one, not empty and all different")
        build = partial(self._build_prompt, messages, (), thinks=False)
        prompt = self._prompts.up_to_answer(await anyio.to_thread.run_sync(build))
        scores: dict[str, float] = {}
        problems: list[ZondaError] = []

        async def score(option: str) -> None:
            try:
                scores[option] = await self._score(prompt, option)
            except ZondaError as exc:
                problems.append(exc)
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for option in options:
                group.start_soon(score, option)
        if problems:
            raise problems[0]
        best = max(scores.values())
        weights = {option: math.exp(scores[option] - best) for option in options}
        total = sum(weights.values())
        return {option: weight / total for option, weight in weights.items()}

    async def complete(
        self, request: GenerateRequest, output: Output | None = None
    ) -> AsyncGenerator[TokenChunk]:
        """Go on from plain tokens, with no template; see `AsyncEngine.generate`.

        Raises:
            UnsupportedSchemaError: the output is no language, or costs too much.
        """
        constraint = None
        if output is not None:
            room = self.context_length - len(request.token_ids)
            max_tokens = min(request.sampling.max_tokens, room)
            plain = self._grammars.plain
            constraint = await anyio.to_thread.run_sync(plain, output, max_tokens)
        async with aclosing(self._engine.generate(request, constraint)) as chunks:
            async for chunk in chunks:
                yield chunk

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        thinks: bool | None = None,
    ) -> list[int]:
        """The prompt of a conversation, as the model would get it.

        Raises:
            TemplateError: the template cannot render the messages.
        """
        return list(self._prompts.build(messages, tools, thinks=thinks).token_ids)

    async def embed(self, texts: Sequence[str | Sequence[int]]) -> tuple[Vectors, int]:
        """Return the vectors of texts, or of their tokens, and how many tokens they have.

        A vector is the mean of the model's last hidden states over a text, of length 1.

        Raises:
            InvalidRequestError: an empty text, `PromptTooLongError` among them.
            GenerationError: the computation failed.
        """
        token_ids = await anyio.to_thread.run_sync(self._encode_texts, texts)
        return await self._engine.embed(token_ids), sum(map(len, token_ids))

    def _encode_texts(self, texts: Sequence[str | Sequence[int]]) -> list[list[int]]:
        encode = self.tokenizer.encode_whole
        return [encode(one) if isinstance(one, str) else list(one) for one in texts]

    async def count_tokens(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        thinks: bool | None = None,
    ) -> int:
        """Return the length of the prompt that these messages and tools make.

        `thinks` is that of `stream`.

        Raises:
            TemplateError: the template cannot render the messages.
        """
        build = partial(self._prompts.build, messages, tools, thinks=thinks)
        return len((await anyio.to_thread.run_sync(build)).token_ids)

    def _plan(self, asked: _Asked) -> TurnPlan:
        try:
            return self._make_plan(asked)
        except (RecursionError, TypeError, ValueError, UnsupportedSchemaError):
            for tool in asked.callable_tools:
                arguments_schema(tool)  # refuses the one that is no JSON or nests too deep
            raise

    def _make_plan(self, asked: _Asked) -> TurnPlan:
        prompt = self._build_prompt(asked.messages, asked.tools, thinks=asked.thinks)
        output, schema = asked.output, None
        language = None if isinstance(output, OutputSchema) else output
        if isinstance(output, OutputSchema):
            language, support = self._grammars.output(output)
            schema = None if support.level == "strict" else output.schema
        shape = TurnShape(
            asked.choice,
            language,
            prompt.thinking,
            hints=None
            if asked.choices is None
            else HintValues(asked.choices, _texts(asked.messages)),
        )
        room = self.context_length - len(prompt.token_ids)
        max_tokens = min(asked.sampling.max_tokens, room)
        # Hardly any token has more letters, and no more of them are said.
        prediction = asked.sampling.prediction[: 8 * max_tokens]
        plan = TurnPlan(
            prompt,
            self._grammars.compile(asked.callable_tools, shape),
            choose_tools(asked.callable_tools, asked.choice),
            schema,
            has_free_text=output is None,
            stop=asked.sampling.stop,
            max_tokens=max_tokens,
            predicted_ids=tuple(self.tokenizer.encode(prediction)),
            temperatures={tool.name: temperatures_of(tool) for tool in asked.callable_tools},
            limits={tool.name: limits_of(tool) for tool in asked.callable_tools},
        )
        _check_budget(plan)
        return plan

    async def _constrain(self, plan: TurnPlan, restart: Restart) -> Constraint | None:
        build = partial(restart.constraint, plan, self._prompts.bound, self.tokenizer)
        # A fresh one is a copy; to exclude a text takes milliseconds.
        return await anyio.to_thread.run_sync(build) if restart.kept else build()

    def _build_prompt(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], *, thinks: bool | None = None
    ) -> Prompt:
        if not messages:
            raise InvalidRequestError("a conversation needs at least one message")
        prompt = self._prompts.build(messages, tools, thinks=thinks)
        if len(prompt.token_ids) >= self.context_length:
            raise PromptTooLongError(
                f"the prompt has {len(prompt.token_ids)} tokens, but the context of {self.name} has"
                f" {self.context_length}: shorten the messages or offer fewer tools"
            )
        return prompt

    def _build_tokens(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> list[int]:
        return list(self._prompts.build(messages, tools).token_ids)

    async def _score(self, prompt: tuple[int, ...], option: str) -> float:
        tokens = (*self.tokenizer.encode(option), self._prompts.end_of_turn_id)
        if len(prompt) + len(tokens) > self.context_length:
            raise PromptTooLongError(
                f"the prompt and option {option[:40]!r} have {len(prompt) + len(tokens)} tokens,"
                f" but the context of {self.name} has {self.context_length}"
            )
        request = GenerateRequest(
            prompt + tokens, SamplingParams(max_tokens=0), num_scored_tokens=len(tokens)
        )
        logprobs: list[float] = []
        async with aclosing(self._engine.generate(request)) as chunks:
            async for chunk in chunks:
                logprobs += chunk.logprobs
                if chunk.finish_reason == "error":
                    raise GenerationError(f"option {option[:40]!r}: {chunk.error}")
        if len(logprobs) != len(tokens):
            raise GenerationError(f"option {option[:40]!r} was not scored; try again")
        return math.fsum(logprobs)

    def _end(self, plan: TurnPlan, attempt: Attempt, last: TokenChunk, usage: Usage) -> TurnEnd:
        parser, token_ids = attempt.parser, attempt.token_ids
        finish_reason: FinishReason = last.finish_reason or "stop"
        has_ended = bool(token_ids) and token_ids[-1] in self.tokenizer.stop_ids
        body = tuple(token_ids[:-1] if has_ended else token_ids)
        rejected, calls = attempt.rejected, attempt.calls
        is_cut = parser.is_cut and not attempt.is_stopped
        error = last.error or (None if attempt.is_stopped else parser.problem)
        # Tokens that say more than the message does (half a call, a stop string) are not kept.
        is_whole = has_ended or (last.finish_reason in {"stop", "length"} and not parser.is_cut)
        is_whole = is_whole and rejected is None and not attempt.is_stopped
        message = Message(
            "assistant",
            attempt.text,
            tool_calls=tuple(calls),
            token_ids=plan.prompt.opened + body if is_whole and body else (),
            reasoning=parser.reasoning,
        )
        if rejected is not None:
            what = f"the call of {rejected.call.name!r}" if rejected.call.name else "the answer"
            error = f"{what} does not fit its schema: {rejected.problem.message}"
        elif is_cut and not calls and finish_reason in {"stop", "length"}:
            error = f"the call was not complete after {len(token_ids)} tokens; allow more"
        if error is not None:
            finish_reason = "error"
        elif calls and finish_reason in {"stop", "length"}:
            finish_reason = "tool_calls"
        is_call = rejected is not None and bool(rejected.call.name)
        return TurnEnd(
            message,
            finish_reason,
            usage,
            error,
            rejected.call if rejected and is_call else None,
            attempt.scores(),
            attempt.stopped_by,
        )


def _texts(messages: Sequence[Message]) -> dict[str, str]:
    """What `x-verbatim-from` may refer to."""
    asked = [message.content for message in messages if message.role == "user"]
    heard = [message.content for message in messages if message.role in {"user", "tool"}]
    return {"user": "\n".join(asked), "conversation": "\n".join(heard)}


def _check_budget(plan: TurnPlan) -> None:
    """Refuse a turn that cannot be finished with the tokens it has."""
    end = None if plan.grammar is None else plan.grammar.end
    if end is not None and len(end) > plan.max_tokens:
        raise InvalidRequestError(
            f"the shortest answer takes {len(end)} tokens, but {plan.max_tokens} are allowed:"
            " raise max_tokens, or shorten the conversation"
        )


def _request(plan: TurnPlan, restart: Restart, sampling: SamplingParams) -> GenerateRequest:
    """What the engine is asked to go on with."""
    return GenerateRequest(
        plan.prompt.token_ids + restart.kept,
        # Stop strings end the visible text, which is ours to know.
        replace(sampling, stop=(), max_tokens=plan.max_tokens - len(restart.kept)),
        # What is kept is scored as a prompt: then every token of the turn has its score.
        num_scored_tokens=0 if sampling.top_logprobs is None else len(restart.kept),
        predicted_ids=plan.predicted_ids,
    )


def _add_usage(before: Usage, last: Usage, prompt: Prompt, attempt: Attempt) -> Usage:
    """Tokens of a turn after one more attempt at it."""
    return Usage(
        prompt_tokens=len(prompt.token_ids),
        completion_tokens=len(attempt.token_ids),
        cached_tokens=before.cached_tokens if before.forward_passes else last.cached_tokens,
        forced_tokens=before.forced_tokens + last.forced_tokens,
        drafted_tokens=before.drafted_tokens + last.drafted_tokens,
        accepted_tokens=before.accepted_tokens + last.accepted_tokens,
        forward_passes=before.forward_passes + last.forward_passes,
    )
