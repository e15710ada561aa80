"""One request's mutable state; the scheduler moves it, the engine appends to it."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from runtime.engine.speculative import Draft, Speculator
from runtime.engine.token_counts import TokenCounts
from runtime.grammar.constraint import Constraint
from runtime.request import FinishReason, GenerateRequest, TokenChunk, TokenScore, Usage
from runtime.tokenizer.decoder import StopStrings

FIRST_PAGES = 16
"""Pages that a new sequence's array has room for."""


class TextDecoder(Protocol):
    """Turns token ids into text, a whole character at a time."""

    def push(self, token_ids: SequenceOf[int]) -> str: ...
    def flush(self) -> str: ...


@dataclass(slots=True)
class SequenceTimes:
    """When things happened to a sequence, by the engine's clock; None is not yet."""

    added: float = 0.0
    started: float | None = None
    first_token: float | None = None
    last_token: float = 0.0


class Sequence:
    """A prompt and what was generated after it.

    Invariant: `0 <= num_computed <= len(token_ids)`; `page_table` covers the computed tokens;
    a sequence that waits owns no pages.

    Attributes:
        token_ids: the prompt, then the generated tokens.
        num_computed: leading tokens whose keys and values are in `page_table`.
        page_table: page ids, in token order.
        page_row: [at least len(page_table)] int64, the same as an array.
        page_hashes: content hash of each full page of `token_ids`.
        is_decoding: all tokens but the newest were computed since it was last admitted.
        token_counts: what penalties apply to; None where the request has none.
        draft: tokens guessed for the next step; None once a token came out otherwise.
        num_confirmed: how many of them came out so.
        num_drafted: guesses that were computed, `num_accepted` of them came out so.
        new_ids: tokens generated since the last chunk was taken.
        finish_reason: set once no more token will be drawn; what is forced may be uncomputed.
        max_tokens: most tokens to generate, within the context.
        times: for the engine's tally.
    """

    def __init__(
        self,
        sequence_id: int,
        request: GenerateRequest,
        constraint: Constraint | None,
        decoder: TextDecoder,
        *,
        seed: int,
        max_tokens: int,
    ) -> None:
        self.sequence_id = sequence_id
        self.request = request
        self.constraint = constraint
        self.text = StopStringFilter(decoder, request.sampling.stop)
        self.seed = seed
        self.max_tokens = max_tokens
        self.token_ids = list(request.token_ids)
        self.num_prompt = len(request.token_ids)
        self.num_computed = 0
        self.page_table: list[int] = []
        self.page_row: npt.NDArray[np.int64] = np.empty(FIRST_PAGES, np.int64)
        self.page_hashes: list[bytes] = []
        self.is_decoding = False
        self.token_counts = _count_tokens(request, max_tokens)
        self.draft: Draft | None = None
        self.num_confirmed = 0
        self.num_drafted = 0
        self.num_accepted = 0
        self._speculator: Speculator | None = None
        self.new_ids: list[int] = []
        self._new_text = ""
        self.logprobs: list[float] = []
        self._num_scored = 0
        self._new_scores: list[TokenScore] = []
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None
        self.num_cached = 0
        self.num_forced = 0
        self.num_steps = 0
        self.times = SequenceTimes()

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - self.num_prompt

    @property
    def num_pending(self) -> int:
        """Tokens that have yet to be computed."""
        return len(self.token_ids) - self.num_computed

    @property
    def num_reusable(self) -> int:
        """Leading tokens that may come from the cache: a logits row is needed after them."""
        return len(self.token_ids) - 1 if self.is_scored else self._next_scored - 1

    @property
    def is_scored(self) -> bool:
        """Whether no token that is there waits for its log-probability."""
        return self._next_scored >= self._scored_end

    @property
    def _next_scored(self) -> int:
        return self.num_prompt - self.request.num_scored_tokens + self._num_scored

    @property
    def _scored_end(self) -> int:
        is_reported = self.request.sampling.top_logprobs is not None
        return len(self.token_ids) if is_reported else self.num_prompt

    def scored_rows(self, start: int, end: int) -> range:
        """Positions in `start:end` whose logits score the token after them."""
        return range(max(start, self._next_scored - 1), min(end, self._scored_end - 1))

    def add_score(self, score: TokenScore) -> None:
        """Take the log-probability of the first token that waits for one."""
        if self._next_scored < self.num_prompt:
            self.logprobs.append(score.logprob)
        self._num_scored += 1
        if self.request.sampling.top_logprobs is not None:
            self._new_scores.append(score)

    def rewind(self) -> None:
        """Compute the last token again where its logits have yet to score the one after it.

        So it is when a grammar put another token in the place of the drawn one. What is written
        into its slot is what stands there.
        """
        if not self.is_scored:
            self.num_computed = min(self.num_computed, self._next_scored - 1)

    def add_pages(self, page_ids: list[int]) -> None:
        """Append to the page table."""
        first = len(self.page_table)
        self.page_table += page_ids
        if len(self.page_table) > len(self.page_row):
            self.page_row = np.resize(self.page_row, 2 * len(self.page_table))
        self.page_row[first : len(self.page_table)] = page_ids

    def drop_pages(self) -> list[int]:
        """Return the page table and leave an empty one."""
        page_table, self.page_table = self.page_table, []
        return page_table

    def append(self, token_ids: list[int]) -> None:
        """Add generated tokens."""
        self.token_ids.extend(token_ids)
        self.new_ids.extend(token_ids)
        self._new_text += self.text.push(token_ids)
        if self.token_counts is not None:
            self.token_counts.add(token_ids)
        if self.draft is not None:
            self._confirm(token_ids)

    def guess(self, price: float, max_tokens: int, stop_ids: Collection[int]) -> None:
        """Draft the next tokens where that is possible; see `Speculator.propose`.

        Not where draws depend on what was drawn before, or are reported.
        """
        self.draft, self.num_confirmed = None, 0
        if (
            self.finish_reason is not None
            or self.token_counts is not None
            or self.request.sampling.top_logprobs is not None
            or not (self.constraint is None or hasattr(self.constraint, "guess"))
        ):
            return
        if self._speculator is None:
            self._speculator = Speculator(stop_ids, self.request.predicted_ids)
        room = min(max_tokens, self.max_tokens - self.num_generated - 1)
        self.draft = self._speculator.propose(
            self.token_ids, self.constraint, price=price, room=room
        )

    def takes_guess(self, num_drafted: int) -> bool:
        """Whether the first so many tokens of the draft are all that was drawn and dictated."""
        is_so_far = self.draft is not None and self.num_confirmed == num_drafted
        return is_so_far and self.finish_reason is None

    def _confirm(self, token_ids: list[int]) -> None:
        """Compare tokens with the rest of the draft."""
        assert self.draft is not None
        rest = self.draft.token_ids[self.num_confirmed :]
        for guess, token_id in zip(rest, token_ids, strict=False):
            if guess != token_id:
                break
            self.num_confirmed += 1
        if token_ids != rest[: len(token_ids)]:
            self.draft = None

    def take_chunk(self) -> TokenChunk:
        """Return what was generated since the last chunk, and the end if this is it."""
        token_ids, text, scores = tuple(self.new_ids), self._new_text, tuple(self._new_scores)
        self.new_ids, self._new_text, self._new_scores = [], "", []
        if self.finish_reason is None:
            return TokenChunk(token_ids, text, scores=scores, usage=self.usage())
        return TokenChunk(
            token_ids,
            text + self.text.flush(),
            logprobs=tuple(self.logprobs),
            scores=scores,
            finish_reason=self.finish_reason,
            error=self.error,
            usage=self.usage(),
        )

    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.num_prompt,
            completion_tokens=self.num_generated,
            cached_tokens=self.num_cached,
            forced_tokens=self.num_forced,
            drafted_tokens=self.num_drafted,
            accepted_tokens=self.num_accepted,
            forward_passes=self.num_steps,
        )


def _count_tokens(request: GenerateRequest, max_tokens: int) -> TokenCounts | None:
    if not request.sampling.has_penalties:
        return None
    has_prompt = request.sampling.repetition_penalty != 1  # the others look at the text alone
    return TokenCounts(request.token_ids if has_prompt else (), max_tokens)


class StopStringFilter:
    """Text of a sequence up to, and without, the first stop string.

    Text that may be the beginning of a stop string is held back until it is certain.
    """

    def __init__(self, decoder: TextDecoder, stop: tuple[str, ...]) -> None:
        self._decoder = decoder
        self._stop = StopStrings(stop)

    @property
    def is_stopped(self) -> bool:
        return self._stop.is_stopped

    def push(self, token_ids: SequenceOf[int]) -> str:
        """Take tokens; return the text that is certain now."""
        return self._stop.push(self._decoder.push(token_ids))

    def flush(self) -> str:
        """Return what is held back; the sequence is over."""
        return self._stop.push(self._decoder.flush()) + self._stop.flush()
