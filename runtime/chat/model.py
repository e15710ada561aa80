"""A loaded model that takes conversations and tools, and answers in events.

Joins template, wire format, grammar, engine and parser; knows no scheduler and no tensor.
"""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import anyio
import anyio.to_thread

from runtime.chat.catalogue import Catalogue
from runtime.chat.messages import AUTO, ChatEvent, Message, OutputSchema, ToolChoice, TurnEnd
from runtime.chat.parser import MarkerSpeller, TurnParser
from runtime.chat.prompt import PromptBuilder
from runtime.chat.wire_formats.grammar import arguments_schema, choose_tools, turn_grammar
from runtime.engine.async_engine import AsyncEngine
from runtime.engine.saved_pages import SavedPages
from runtime.errors import GenerationError, PromptTooLongError, UnsupportedSchemaError
from runtime.grammar.compile import (
    CompiledGrammar,
    GrammarCache,
    GrammarSource,
    from_json_schema,
)
from runtime.grammar.matcher import MatcherConstraint
from runtime.grammar.schema import check_bounds, close_objects
from runtime.grammar.vocabulary import Vocabulary
from runtime.request import FinishReason, GenerateRequest, SamplingParams, TokenChunk, Usage
from runtime.tokenizer.tokenizer import Tokenizer
from tools.errors import InvalidRequestError, ZondaError
from tools.spec import ToolSpec

Output = OutputSchema | GrammarSource
GREEDY = SamplingParams()


@dataclass(frozen=True, slots=True)
class _Turn:
    """What one turn is decoded with and read by."""

    token_ids: tuple[int, ...]
    constraint: MatcherConstraint | None
    parser: TurnParser


class ChatModel:
    """One model: `stream` a turn, `choose` among answers, `count_tokens`.

    Several turns may run at once; the engine batches them. Rendering and compiling happen in
    worker threads, so the event loop never waits for them.

    Attributes:
        name: the model's name.
        context_length: most tokens of prompt and answer together.
        tokenizer: the model's tokenizer.
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
        self._catalogue = Catalogue(self._prompts.build, engine, saved_pages)
        self._grammars: GrammarCache | None = None
        self._grammars_lock = threading.Lock()

    async def find_unsupported(self, tools: Sequence[ToolSpec]) -> dict[str, str]:
        """Return why, by name, of each tool whose schema cannot be turned into a grammar."""
        return await anyio.to_thread.run_sync(self._find_unsupported, tools)

    async def prepare(self, tools: Sequence[ToolSpec], *, system: str | None = None) -> None:
        """Compile the tools' grammar and compute their part of the prompt, before a turn needs it.

        For conversations that begin with this system text, or none, and offer exactly these
        tools. Takes as long as the prefill, but other turns do not wait for it.

        Raises:
            InvalidRequestError: as `stream`, for what is wrong with the tools.
        """
        await anyio.to_thread.run_sync(self._prepare, [Message("user", "?")], tools, AUTO, None)
        await self._catalogue.warm(tools, system=system)

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSpec] = (),
        tool_choice: ToolChoice = AUTO,
        output: Output | None = None,
        sampling: SamplingParams = GREEDY,
        conversation: str | None = None,
        lease_s: float = 300.0,
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

        Raises:
            InvalidRequestError: no messages, bad tool names, a choice that cannot be met;
                among them `UnknownToolError`, `UnsupportedSchemaError` (names tool, keyword
                and path), `TemplateError` and `PromptTooLongError`.
            CapacityError: the engine's queue is full.
        """
        turn = await anyio.to_thread.run_sync(self._prepare, messages, tools, tool_choice, output)
        room = self.context_length - len(turn.token_ids)
        request = GenerateRequest(
            turn.token_ids,
            replace(sampling, max_tokens=min(sampling.max_tokens, room)),
            lease=conversation,
            lease_s=lease_s if conversation is not None else 0.0,
        )
        speller = MarkerSpeller(self._prompts.marker_ids, self.tokenizer)
        token_ids: list[int] = []
        async with aclosing(self._engine.generate(request, turn.constraint)) as chunks:
            async for chunk in chunks:
                token_ids += chunk.token_ids
                for event in turn.parser.push(speller.push(chunk.token_ids, chunk.text)):
                    yield event
                if chunk.finish_reason is not None:
                    for event in turn.parser.finish():
                        yield event
                    yield self._end(turn.parser, token_ids, chunk, chunk.finish_reason)
                    return
        raise GenerationError("the engine ended the turn without saying why; try again")

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
        prompt = await anyio.to_thread.run_sync(self._build_prompt, messages, ())
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

    async def count_tokens(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
    ) -> int:
        """Return the length of the prompt that these messages and tools make.

        Raises:
            TemplateError: the template cannot render the messages.
        """
        return len(await anyio.to_thread.run_sync(self._prompts.build, messages, tools))

    def _prepare(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        choice: ToolChoice,
        output: Output | None,
    ) -> _Turn:
        language = _output_grammar(output) if isinstance(output, OutputSchema) else output
        markers = self._prompts.marker_ids
        wire_format = self._prompts.wire_format
        source = turn_grammar(wire_format, tools, choice, language, markers)
        constraint = None
        if source is not None:
            constraint = self._compile(source, choose_tools(tools, choice)).constraint()
        parser = TurnParser(
            wire_format if choose_tools(tools, choice) else None, has_free_text=output is None
        )
        return _Turn(self._build_prompt(messages, tools), constraint, parser)

    def _build_prompt(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec]
    ) -> tuple[int, ...]:
        if not messages:
            raise InvalidRequestError("a conversation needs at least one message")
        prompt = tuple(self._prompts.build(messages, tools))
        if len(prompt) >= self.context_length:
            raise PromptTooLongError(
                f"the prompt has {len(prompt)} tokens, but the context of {self.name} has"
                f" {self.context_length}: shorten the messages or offer fewer tools"
            )
        return prompt

    def _find_unsupported(self, tools: Sequence[ToolSpec]) -> dict[str, str]:
        reasons: dict[str, str] = {}
        for tool in tools:
            try:
                self._compile_arguments(tool)
            except UnsupportedSchemaError as exc:
                reasons[tool.name] = str(exc)
        return reasons

    def _compile(self, source: GrammarSource, tools: Sequence[ToolSpec]) -> CompiledGrammar:
        """Compile; when that fails, find the tool that is at fault."""
        try:
            return self._get_grammars().get_or_compile(source)
        except UnsupportedSchemaError:
            for tool in tools:
                self._compile_arguments(tool)
            raise

    def _compile_arguments(self, tool: ToolSpec) -> None:
        schema = arguments_schema(tool)
        try:
            self._get_grammars().get_or_compile(from_json_schema(schema))
        except UnsupportedSchemaError as exc:
            raise UnsupportedSchemaError(f"tool {tool.name!r}: {exc}") from exc

    def _get_grammars(self) -> GrammarCache:
        with self._grammars_lock:
            if self._grammars is None:
                tokenizer = self.tokenizer
                vocabulary = Vocabulary(
                    tokenizer.json,
                    tokenizer.vocab_size,
                    self._prompts.end_of_turn_id,
                    tokenizer.special_ids,
                    tokenizer.stop_ids,
                )
                self._grammars = GrammarCache(vocabulary)
            return self._grammars

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

    def _end(
        self,
        parser: TurnParser,
        token_ids: list[int],
        chunk: TokenChunk,
        finish_reason: FinishReason,
    ) -> TurnEnd:
        has_ended = bool(token_ids) and token_ids[-1] in self.tokenizer.stop_ids
        body = tuple(token_ids[:-1] if has_ended else token_ids)
        # Tokens that say more than the message does (half a call, a stop string) are not kept.
        is_whole = has_ended or (finish_reason == "length" and not parser.is_cut)
        message = Message(
            "assistant",
            parser.text,
            tool_calls=tuple(parser.calls),
            token_ids=body if is_whole else (),
        )
        error = chunk.error or parser.problem
        if error is not None:
            finish_reason = "error"
        elif parser.calls and finish_reason in {"stop", "length"}:
            finish_reason = "tool_calls"
        return TurnEnd(message, finish_reason, chunk.usage or Usage(), error)


def _output_grammar(output: OutputSchema) -> GrammarSource:
    """The language of an answer; like a tool's arguments, its objects hold what they list."""
    check_bounds(output.schema)
    return from_json_schema(close_objects(output.schema))
