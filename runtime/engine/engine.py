"""The step loop's body: schedule, run, commit. Synchronous and deterministic.

Knows no text format, no tool and no thread. What goes wrong with one sequence ends that
sequence with a reason; it never leaves `step`.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from runtime.engine.batch import BatchBuilder, LogitsRow, SamplingBuilder
from runtime.engine.embedding import Embedder, HiddenRunner, Vectors
from runtime.engine.leases import Leases
from runtime.engine.pace import Pace
from runtime.engine.page_pool import PagePool
from runtime.engine.prefix_cache import PrefixCache
from runtime.engine.prefix_pages import PageMemory, PrefixPages, Turns
from runtime.engine.scheduler import ScheduledSequence, ScheduledStep, Scheduler
from runtime.engine.sequence import Sequence, TextDecoder
from runtime.engine.tally import EngineState, EngineTally, Throughput
from runtime.errors import CapacityError, PromptTooLongError
from runtime.grammar.constraint import Constraint
from runtime.kernels.forward_batch import ForwardBatch, SamplingBatch
from runtime.request import FinishReason, GenerateRequest, TokenChunk, TokenScore
from tools.errors import InvalidRequestError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DrawnTokens:
    """What a forward pass gives back; see `runtime.kernels.sample_tokens`."""

    token_ids: npt.NDArray[np.int64]
    logprobs: npt.NDArray[np.float32]
    top_ids: npt.NDArray[np.int64] | None = None
    top_logprobs: npt.NDArray[np.float32] | None = None


class Runner(Protocol):
    """Runs a model over pages of its own."""

    @property
    def num_pages(self) -> int: ...
    @property
    def page_size(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def identity(self) -> str:
        """Names the model and the KV type."""
        ...

    @property
    def page_memory(self) -> PageMemory | None:
        """The pages' bytes; None where they cannot be copied."""
        ...

    def run(self, batch: ForwardBatch, sampling: SamplingBatch) -> DrawnTokens: ...


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What one engine takes on.

    Attributes:
        context_length: most tokens of a sequence, prompt and completion.
        max_sequences: most sequences that run in one step.
        max_queue: most sequences inside the engine.
        max_step_tokens: most tokens of one step.
        max_step_s: seconds that a step may take while sequences decode.
        max_draft_tokens: most tokens of a sequence that a step computes as guesses.
    """

    context_length: int
    max_sequences: int = 64
    max_queue: int = 1024
    max_step_tokens: int = 512
    max_step_s: float = 0.05
    max_draft_tokens: int = 0


class Engine:
    """Many sequences on one model.

    Not thread-safe: one caller at a time. `step` may take as long as a forward pass.
    """

    def __init__(
        self,
        runner: Runner,
        limits: EngineLimits,
        *,
        decoder: Callable[[], TextDecoder],
        stop_ids: frozenset[int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self.limits = limits
        self.context_length = min(limits.context_length, runner.num_pages * runner.page_size)
        self._decoder = decoder
        self._stop_ids = stop_ids
        self._clock = clock
        self.pool = PagePool(runner.num_pages)
        self.scheduler = Scheduler(
            self.pool,
            PrefixCache(runner.page_size, runner.identity),
            Leases(self.pool, clock),
            max_sequences=limits.max_sequences,
            max_step_tokens=limits.max_step_tokens,
            pace=Pace(limits.max_step_s),
        )
        self.prefixes = PrefixPages(self.scheduler, runner.page_memory)
        self._embedder = (
            Embedder(self.scheduler, runner, limits.max_sequences)
            if isinstance(runner, HiddenRunner)
            else None
        )
        self._batches = BatchBuilder(runner.page_size)
        self._sampling = SamplingBuilder(runner.vocab_size)
        self._sequences: dict[int, Sequence] = {}
        self._next_id = 0
        self._tally = EngineTally()
        self._throughput = Throughput(clock())

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def state(self) -> EngineState:
        """Say what goes on and what was done; any thread may ask."""
        return EngineState(
            num_running=len(self.scheduler.running),
            num_waiting=len(self.scheduler.waiting),
            num_pages=self.pool.num_pages,
            num_used_pages=self.pool.num_pages - self.pool.num_free,
            page_size=self._runner.page_size,
            num_preemptions=self.scheduler.num_preemptions,
            tokens_per_s=self._throughput.tokens_per_s(self._clock()),
            tally=self._tally,
        )

    def check(self, request: GenerateRequest) -> None:
        """Refuse what can't be run, before it is queued.

        Raises:
            InvalidRequestError: no token, or a token id outside the vocabulary.
            PromptTooLongError: the prompt leaves no room for a token.
            CapacityError: the queue is full.
        """
        num_tokens = len(request.token_ids)
        vocab_size = self._runner.vocab_size
        if not 0 <= request.num_scored_tokens < max(1, num_tokens):
            raise InvalidRequestError(
                f"{request.num_scored_tokens} of {num_tokens} prompt tokens cannot be scored: "
                "the first token has nothing before it"
            )
        if any(token_id >= vocab_size for token_id, _ in request.sampling.logit_bias):
            raise InvalidRequestError(f"logit_bias names token ids in 0..{vocab_size - 1}")
        if not num_tokens or min(request.token_ids) < 0 or max(request.token_ids) >= vocab_size:
            raise InvalidRequestError(
                f"a prompt is one or more token ids in 0..{vocab_size - 1}, "
                f"found {num_tokens} tokens"
            )
        room = self.context_length - (1 if request.sampling.max_tokens else 0)
        if num_tokens > room:
            raise PromptTooLongError(
                f"the prompt has {num_tokens} tokens, the context holds {self.context_length}; "
                "shorten the prompt or load the model with a longer context"
            )
        predicted = request.predicted_ids
        if predicted and not 0 <= min(predicted) <= max(predicted) < vocab_size:
            raise InvalidRequestError(f"a prediction has token ids in 0..{vocab_size - 1}")
        if len(self._sequences) >= self.limits.max_queue:
            raise CapacityError(
                f"{len(self._sequences)} requests are queued already, at most "
                f"{self.limits.max_queue} may be; try again later"
            )

    @property
    def can_embed(self) -> bool:
        """Whether the runner shows its hidden states."""
        return self._embedder is not None

    def embed(self, texts: SequenceOf[SequenceOf[int]]) -> Turns[Vectors]:
        """Compute the vectors of texts in turns; steps may run between them.

        Raises:
            InvalidRequestError: a text of no token, or of one outside the vocabulary, or a
                model that gives no vectors.
            PromptTooLongError: a text does not fit the context.
        """
        if self._embedder is None:
            raise InvalidRequestError("this model gives no vectors: its runner hides its states")
        vocab_size = self._runner.vocab_size
        for index, token_ids in enumerate(texts):
            if not token_ids or min(token_ids) < 0 or max(token_ids) >= vocab_size:
                raise InvalidRequestError(
                    f"text {index} must be one or more token ids in 0..{vocab_size - 1}"
                )
            if len(token_ids) > self.context_length:
                raise PromptTooLongError(
                    f"text {index} has {len(token_ids)} tokens, the context holds "
                    f"{self.context_length}; cut it into parts"
                )
        return self._embedder.embed(texts)

    def add(self, request: GenerateRequest, constraint: Constraint | None = None) -> int:
        """Queue a request and return its sequence id.

        The constraint must be at its start and belong to this request alone.

        Raises:
            InvalidRequestError, CapacityError: as `check`.
        """
        self.check(request)
        sampling = request.sampling
        sequence = Sequence(
            self._next_id,
            request,
            constraint,
            self._decoder(),
            seed=secrets.randbits(64) if sampling.seed is None else sampling.seed,
            max_tokens=min(sampling.max_tokens, self.context_length - len(request.token_ids)),
        )
        self._next_id += 1
        sequence.times.added = self._clock()
        if sequence.max_tokens == 0:
            sequence.finish_reason = "length"
        self._force(sequence)
        self._sequences[sequence.sequence_id] = sequence
        self.scheduler.add(sequence)
        return sequence.sequence_id

    def abort(self, sequence_id: int) -> None:
        """End a sequence, if it is still there, and free its pages now."""
        if (sequence := self._sequences.get(sequence_id)) is not None:
            self._end(sequence, "cancelled")

    def step(self) -> dict[int, TokenChunk]:
        """Run one step; return what it added to each sequence, by sequence id.

        May return nothing although there is work, when pages must be waited for.
        """
        started = self._clock()
        if self.limits.max_draft_tokens:
            self.scheduler.guess(self.limits.max_draft_tokens, self._stop_ids)
        step = self.scheduler.schedule()
        if not step.items:
            return {}
        for item in step.items:
            item.sequence.num_steps += 1
            if item.sequence.times.started is None:
                item.sequence.times.started = started
        self._tally.step_tokens.observe(step.num_decoding + step.num_prompt_tokens)
        batch, rows = self._batches.build(step)
        try:
            drawn = self._runner.run(batch, self._sampling.build(rows))
        except Exception as exc:
            logger.exception("a step of %d sequences failed", len(step.items))
            reason = f"the forward pass failed: {type(exc).__name__}; see the log"
            return {
                item.sequence.sequence_id: self._end(item.sequence, "error", reason)
                for item in step.items
            }
        chunks = self._commit(step, rows, drawn)
        now = self._clock()
        self.scheduler.observe(step, now - started)
        self._throughput.add(sum(len(chunk.token_ids) for chunk in chunks.values()), now)
        return chunks

    def _commit(
        self, step: ScheduledStep, rows: list[LogitsRow], drawn: DrawnTokens
    ) -> dict[int, TokenChunk]:
        drafted: list[tuple[ScheduledSequence, int]] = []
        for item in step.items:
            num_said = len(item.sequence.token_ids)
            if item.end > num_said:
                drafted.append((item, num_said))
            self.scheduler.commit(item._replace(end=num_said) if item.end > num_said else item)
        for index, token_id in enumerate(drawn.token_ids.tolist()):
            row = rows[index]
            if not row.is_drawn:
                row.sequence.add_score(_score_of(drawn, index, row.sequence))
            elif row.num_drafted == 0 or row.sequence.takes_guess(row.num_drafted):
                self._accept(row.sequence, token_id, drawn, index)
        for item, num_said in drafted:
            self._commit_draft(item, num_said)
        chunks: dict[int, TokenChunk] = {}
        now = self._clock()
        for item in step.items:
            sequence = item.sequence
            if not sequence.is_scored:
                sequence.rewind()  # its tokens are told with their log-probabilities
                continue
            self._tally.add_tokens(sequence, now)
            if sequence.finish_reason is not None and item.end >= sequence.num_prompt:
                chunks[sequence.sequence_id] = self._end(sequence, sequence.finish_reason)
            elif sequence.new_ids:
                chunks[sequence.sequence_id] = sequence.take_chunk()
        return chunks

    def _commit_draft(self, item: ScheduledSequence, num_said: int) -> None:
        """Keep what was computed of tokens that came out as guessed, but for the newest."""
        sequence = item.sequence
        confirmed = min(item.end - num_said, sequence.num_confirmed)
        sequence.num_drafted += item.end - num_said
        sequence.num_accepted += confirmed
        end = min(num_said + confirmed, len(sequence.token_ids) - 1)
        if end > num_said:
            self.scheduler.commit(ScheduledSequence(sequence, num_said, end))

    def _accept(self, sequence: Sequence, token_id: int, drawn: DrawnTokens, row: int) -> None:
        """Take a drawn token and whatever the grammar dictates after it.

        A constraint that has to end in time refuses the token and dictates others, or none where
        the output may end.
        """
        constraint = sequence.constraint
        if constraint is None or constraint.advance([token_id]):
            self._append(sequence, [token_id])
            if sequence.request.sampling.top_logprobs is not None:
                sequence.add_score(_score_of(drawn, row, sequence))
            self._force(sequence)
        elif constraint.forced():
            self._force(sequence)
        elif constraint.state == "accepting":
            sequence.finish_reason = "length"
        else:
            sequence.finish_reason, sequence.error = "error", "the grammar allows no token here"

    def _force(self, sequence: Sequence) -> None:
        """Append the tokens that must come next; they are computed with the next step.

        An output that is whole when its tokens run out was not cut: it stops.
        """
        constraint = sequence.constraint
        if constraint is None or sequence.finish_reason == "stop":
            return
        while sequence.finish_reason is None and (forced := constraint.forced()):
            taken = forced[: sequence.max_tokens - sequence.num_generated]
            constraint.advance(taken)
            self._append(sequence, taken)
            sequence.num_forced += len(taken)
        is_at_limit = sequence.finish_reason == "length"
        if constraint.state == "done" or (is_at_limit and self._must_end(constraint)):
            sequence.finish_reason = "stop"

    def _must_end(self, constraint: Constraint) -> bool:
        """Whether no token but the end of the turn is legal."""
        forced = constraint.forced()
        return bool(forced) and forced[0] in self._stop_ids

    def _append(self, sequence: Sequence, token_ids: list[int]) -> None:
        stop_ids = () if sequence.request.sampling.ignores_end else self._stop_ids
        ends = [at for at, token_id in enumerate(token_ids) if token_id in stop_ids]
        sequence.append(token_ids[: ends[0] + 1] if ends else token_ids)
        if ends or sequence.text.is_stopped:
            sequence.finish_reason = "stop"
        elif sequence.num_generated >= sequence.max_tokens:
            sequence.finish_reason = "length"

    def _end(
        self, sequence: Sequence, finish_reason: FinishReason, error: str | None = None
    ) -> TokenChunk:
        sequence.finish_reason = finish_reason
        sequence.error = error or sequence.error
        self._tally.add_end(sequence, finish_reason, self._clock())
        self.scheduler.remove(sequence)
        del self._sequences[sequence.sequence_id]
        return sequence.take_chunk()


def _score_of(drawn: DrawnTokens, row: int, sequence: Sequence) -> TokenScore:
    token_id, logprob = int(drawn.token_ids[row]), float(drawn.logprobs[row])
    num_top = sequence.request.sampling.top_logprobs
    if not num_top or drawn.top_ids is None or drawn.top_logprobs is None:
        return TokenScore(token_id, logprob)
    top = zip(drawn.top_ids[row].tolist(), drawn.top_logprobs[row].tolist(), strict=True)
    return TokenScore(token_id, logprob, tuple(one for one in top if one[0] >= 0)[:num_top])
