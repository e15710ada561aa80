"""Decides which sequences run how many tokens in a step, and which pages they get.

Moves ids only: no tensors, no text, no grammar. Decodes go first, then prefills in chunks,
then waiting sequences are admitted, all within one token budget per step; while anything
decodes, the prompt tokens among them are as many as `Pace` says. Background requests get what
no other wants, and make way for whatever comes: what they computed stays in the prefix cache.

Source: continuous batching as in Orca (Yu et al., OSDI 2022), paged KV with preemption by
recomputation as in vLLM (Kwon et al., SOSP 2023), chunked prefill as in Sarathi-Serve
(Agrawal et al., OSDI 2024).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from runtime.engine.leases import Leases
from runtime.engine.pace import Pace
from runtime.engine.page_pool import PagePool
from runtime.engine.prefix_cache import PrefixCache
from runtime.engine.sequence import Sequence
from runtime.errors import CapacityError

logger = logging.getLogger(__name__)


class ScheduledSequence(NamedTuple):
    """Tokens `start:end` of one sequence; the next one is drawn when `end` is its length.

    Beyond that are tokens of its draft.
    """

    sequence: Sequence
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ScheduledStep:
    """One step: every sequence at most once.

    Attributes:
        items: the work, decodes first.
        num_decoding: sequences that decode.
        num_prompt_tokens: the other tokens; what a grammar forced on a sequence that decodes is
            among them.
    """

    items: tuple[ScheduledSequence, ...]
    num_decoding: int
    num_prompt_tokens: int


@dataclass(slots=True)
class _Budget:
    """What is left of a step: tokens in all, and prompt tokens among them."""

    num_tokens: int
    num_prompt_tokens: int

    def num_tokens_of(self, sequence: Sequence) -> int:
        """How many tokens it may run now: one that decodes always its newest."""
        most = self.num_prompt_tokens + 1 if sequence.is_decoding else self.num_prompt_tokens
        return min(sequence.num_pending, most, self.num_tokens)

    def spend(self, item: ScheduledSequence) -> None:
        num_tokens = item.end - item.start
        self.num_tokens -= num_tokens
        self.num_prompt_tokens -= num_tokens - 1 if item.sequence.is_decoding else num_tokens


class Scheduler:
    """Owns the order of the waiting and the running, and the pages of each sequence.

    Invariants: a sequence waits or runs, never both; only running sequences own pages;
    `running` is in the order of admission, and the last admitted is preempted first, so the
    first admitted always gets on; those of background requests are the last of `running`, as
    they go back to wait before any other is admitted.
    """

    def __init__(
        self,
        pool: PagePool,
        cache: PrefixCache,
        leases: Leases,
        *,
        max_sequences: int,
        max_step_tokens: int,
        pace: Pace,
    ) -> None:
        self.pool = pool
        self.cache = cache
        self.leases = leases
        self._page_size = cache.page_size
        self._max_sequences = max_sequences
        self._max_step_tokens = max_step_tokens
        self._pace = pace
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self._num_background = 0

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; the caller made sure that the whole pool can hold it."""
        self.waiting.append(sequence)
        self._num_background += sequence.request.is_background

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out for good; its full pages stay findable, leased if it asked so."""
        self._num_background -= sequence.request.is_background
        if sequence in self.running:
            self.running.remove(sequence)
            request = sequence.request
            if request.lease is not None and sequence.finish_reason in {"stop", "length"}:
                num_full = sequence.num_computed // self._page_size
                full_pages = sequence.page_table[:num_full]
                self.leases.hold(request.lease, full_pages, request.lease_s)
            self._take_pages(sequence)
        else:
            self.waiting.remove(sequence)

    def schedule(self) -> ScheduledStep:
        """Pick this step's work; pages for all of it are reserved when this returns."""
        self.leases.expire()
        if self._num_background:
            self._yield_to_others()
        decoding = [sequence for sequence in self.running if sequence.is_decoding]
        most = self._max_step_tokens
        budget = _Budget(most, self._pace.num_prompt_tokens(len(decoding), most))
        items: dict[Sequence, ScheduledSequence] = {}
        self._schedule_running(decoding, budget, items)
        num_decoding = len(items)
        self._add_drafts(budget, items)
        if num_decoding < len(self.running):
            prefilling = [sequence for sequence in self.running if not sequence.is_decoding]
            self._schedule_running(_foreground(prefilling), budget, items)
        if self.waiting:
            self._admit(_foreground(self.waiting), budget, items)
        if self._num_background and len(items) == num_decoding:
            self._schedule_background(budget, items)
        num_tokens = most - budget.num_tokens
        return ScheduledStep(tuple(items.values()), num_decoding, num_tokens - num_decoding)

    def num_tokens_beside(self) -> int:
        """How many tokens may be computed now beside the steps, so that nobody waits for long."""
        if not self.has_work:
            return self._max_step_tokens
        num_decoding = sum(sequence.is_decoding for sequence in self.running)
        return self._pace.num_prompt_tokens(max(1, num_decoding), self._max_step_tokens)

    def guess(self, max_tokens: int, stop_ids: Collection[int]) -> None:
        """Let the sequences that decode guess what they say next, where guesses are cheap."""
        decoding = [sequence for sequence in self.running if sequence.is_decoding]
        price = self._pace.guess_price(len(decoding))
        for sequence in decoding:
            if price < 1:
                sequence.guess(price, max_tokens, stop_ids)
            else:
                sequence.draft = None

    def commit(self, item: ScheduledSequence) -> None:
        """Note that the item's tokens are computed; its new full pages become shareable."""
        sequence = item.sequence
        first_new_page = sequence.num_computed // self._page_size
        num_full = item.end // self._page_size
        sequence.num_computed = item.end
        sequence.is_decoding = sequence.is_decoding or item.end == len(sequence.token_ids)
        if first_new_page < num_full:
            self._extend_hashes(sequence)
        for index in range(first_new_page, num_full):
            self.cache.insert(sequence.page_hashes[index], sequence.page_table[index])

    def observe(self, step: ScheduledStep, seconds: float) -> None:
        """Note how long a step took, so that the next ones are of the right size."""
        only_decodes = len(step.items) == step.num_decoding
        self._pace.observe(
            step.num_decoding, step.num_prompt_tokens, seconds, only_decodes=only_decodes
        )

    def _extend_hashes(self, sequence: Sequence) -> None:
        self.cache.extend_hashes(
            sequence.page_hashes,
            sequence.token_ids,
            sequence.request.salt,
            sequence.request.num_shared_tokens,
        )

    def _yield_to_others(self) -> None:
        """Let background work wait while anything else does: it may need these very pages."""
        if _foreground(self.waiting):
            for sequence in _background(self.running):
                self._preempt(sequence)

    def _schedule_background(
        self, budget: _Budget, items: dict[Sequence, ScheduledSequence]
    ) -> None:
        """Fill a step that prefills nothing else; short, as somebody may come during it."""
        if _foreground(self.waiting):
            return
        most = self._pace.num_prompt_tokens(max(1, len(items)), self._max_step_tokens)
        budget.num_prompt_tokens = min(budget.num_prompt_tokens, most)
        self._schedule_running(_background(self.running), budget, items)
        self._admit(list(self.waiting), budget, items)

    def _schedule_running(
        self,
        sequences: list[Sequence],
        budget: _Budget,
        items: dict[Sequence, ScheduledSequence],
    ) -> None:
        for sequence in sequences:
            num_tokens = budget.num_tokens_of(sequence)
            if num_tokens <= 0 or not sequence.page_table:  # no pages: preempted by one before it
                continue
            start = sequence.num_computed
            item = ScheduledSequence(sequence, start, start + num_tokens)
            if item.end <= len(sequence.page_table) * self._page_size or self._make_room(
                item, items
            ):
                items[sequence] = item
                budget.spend(item)

    def _add_drafts(self, budget: _Budget, items: dict[Sequence, ScheduledSequence]) -> None:
        """Let sequences check their guesses with what budget and free pages leave over."""
        for sequence, item in items.items():
            if sequence.draft is None or item.end < len(sequence.token_ids):
                continue
            num_pages = len(sequence.page_table) + self.pool.num_free
            end = min(
                item.end + len(sequence.draft.token_ids),
                item.end + budget.num_prompt_tokens,
                item.end + budget.num_tokens,
                num_pages * self._page_size,
                sequence.num_prompt + sequence.max_tokens - 1,  # the last one is never computed
            )
            if end > item.end and self._reserve(sequence, end):
                items[sequence] = item._replace(end=end)
                budget.num_tokens -= end - item.end
                budget.num_prompt_tokens -= end - item.end

    def _make_room(self, item: ScheduledSequence, items: dict[Sequence, ScheduledSequence]) -> bool:
        while not self._reserve(item.sequence, item.end):
            victims = [other for other in self.running if other not in items]
            if victims[-1] is item.sequence:  # the older go first; it keeps its pages and waits
                return False
            self._preempt(victims[-1])
        return True

    def _admit(
        self,
        sequences: list[Sequence],
        budget: _Budget,
        items: dict[Sequence, ScheduledSequence],
    ) -> None:
        in_progress = {page for running in self.running for page in self._unfinished(running)}
        for sequence in sequences:
            if budget.num_tokens_of(sequence) <= 0 or len(self.running) == self._max_sequences:
                return
            self._extend_hashes(sequence)
            reusable = sequence.page_hashes[: max(0, sequence.num_reusable) // self._page_size]
            cached = self.cache.find(reusable)
            if len(cached) < len(reusable) and reusable[len(cached)] in in_progress:
                continue  # another sequence is computing the very page it needs next
            if not self._has_room(sequence, cached):
                return
            self.pool.retain(cached)
            sequence.add_pages(cached)
            start = sequence.num_computed = len(cached) * self._page_size
            item = ScheduledSequence(sequence, start, start + budget.num_tokens_of(sequence))
            if not self._reserve(sequence, item.end):
                self._take_pages(sequence)
                return
            self.waiting.remove(sequence)
            self.running.append(sequence)
            if sequence.num_steps == 0:
                sequence.num_cached = min(start, sequence.num_prompt)
            in_progress.update(self._unfinished(sequence))
            items[sequence] = item
            budget.spend(item)

    def _has_room(self, sequence: Sequence, cached: list[int]) -> bool:
        """Whether all pending tokens fit, with a page to grow for everybody who runs."""
        num_revived = sum(self.pool.ref_count(page_id) == 0 for page_id in cached)
        num_new = self._num_pages(len(sequence.token_ids)) - len(cached)
        wanted = num_new + num_revived + len(self.running)
        while self.pool.num_free < wanted:
            if not self.leases.drop_first():
                return False
        return True

    def _reserve(self, sequence: Sequence, num_tokens: int) -> bool:
        """Make `page_table` cover `num_tokens`; leases yield, other sequences don't."""
        missing = self._num_pages(num_tokens) - len(sequence.page_table)
        if missing <= 0:
            return True
        while True:
            try:
                page_ids = self.pool.allocate(missing)
            except CapacityError:
                if not self.leases.drop_first():
                    return False
            else:
                self.cache.forget(page_ids)
                sequence.add_pages(page_ids)
                return True

    def _preempt(self, sequence: Sequence) -> None:
        logger.debug("seq=%d preempted at %d tokens", sequence.sequence_id, sequence.num_computed)
        self.num_preemptions += 1
        self.running.remove(sequence)
        self._take_pages(sequence)
        sequence.is_decoding, sequence.draft = False, None
        self.waiting.appendleft(sequence)

    def _take_pages(self, sequence: Sequence) -> None:
        self.pool.release(sequence.drop_pages())
        sequence.num_computed = 0

    def _unfinished(self, sequence: Sequence) -> list[bytes]:
        return sequence.page_hashes[sequence.num_computed // self._page_size :]

    def _num_pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self._page_size)


def _foreground(sequences: Iterable[Sequence]) -> list[Sequence]:
    return [sequence for sequence in sequences if not sequence.request.is_background]


def _background(sequences: Iterable[Sequence]) -> list[Sequence]:
    return [sequence for sequence in sequences if sequence.request.is_background]
