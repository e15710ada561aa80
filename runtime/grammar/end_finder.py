"""Finds short ends of unfinished outputs. Knows masks and tokens; no schema, no model.

An end that it returns is one: every token was taken by a copy of the constraint. That it is
the shortest is not promised: a search over all texts would never come back.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from runtime.grammar.compile import CompiledGrammar
from runtime.grammar.constraint import Constraint
from runtime.grammar.vocabulary import Vocabulary

MAX_END_TOKENS = 2048
MAX_STEPS = 6000
MAX_CANDIDATES = 40
_NUM_BEST = 8
_STEPS_PER_MASK = 10
_MAX_CLOSER_BYTES = 5
# JSON values that may be whole as they are, and what may follow a whole one.
_VALUES = (b'""', b"0", b"[]", b"{}", b"null", b"true", b"false", b"1")
_AFTER_VALUE = (b"}", b"]", b",")


class Closable(Constraint, Protocol):
    """A constraint that can be asked about tokens without taking them."""

    def fork(self) -> Closable: ...

    def count_legal(self, token_ids: Sequence[int]) -> int:
        """How many of these could be taken one after the other; `eos_id` counts as one."""
        ...

    def forced_text(self) -> bytes:
        """The text that must come next, as far as it is known without tokens."""
        ...


class EndFinder:
    """Searches ends with one vocabulary; tables are built once, ends of grammars are kept.

    Safe to call from several threads.
    """

    def __init__(self, vocabulary: Vocabulary, markers: Sequence[str] = ()) -> None:
        """Prepare the tables.

        Args:
            vocabulary: the model's vocabulary.
            markers: texts that end a part of an output and that masks do not show, because
                any text may stand before them, such as `"</parameter>"`.
        """
        self.vocabulary = vocabulary
        self._markers = [marker.encode() for marker in markers]
        self._ends: weakref.WeakKeyDictionary[CompiledGrammar, tuple[int, ...] | None] = (
            weakref.WeakKeyDictionary()
        )
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many grammars' ends are kept."""
        return len(self._ends)

    def get_end(self, compiled: CompiledGrammar) -> tuple[int, ...] | None:
        """Return the shortest known sentence of a grammar, None when none was found.

        The first call for a grammar searches (0.1 to 100 ms, 400 ms where raw text must be
        ended), later ones look it up.
        """
        with self._lock:
            if compiled in self._ends:
                return self._ends[compiled]
        end = self.find_shortest(compiled.constraint())
        with self._lock:
            self._ends[compiled] = end
        return end

    def find(
        self, constraint: Closable, limit: int, known: Sequence[int] = ()
    ) -> tuple[int, ...] | None:
        """Return some end of at most `limit` tokens: the first that a greedy walk comes to.

        `known` is an end of a state nearby: the walk ends with the rest of it where that fits.
        """
        return _Search(self._tables, MAX_STEPS, known).walk(constraint.fork(), limit)

    def find_shortest(
        self, constraint: Closable, limit: int = MAX_END_TOKENS
    ) -> tuple[int, ...] | None:
        """Return the shortest end found by varying each choice of a greedy walk in turn."""
        return _Search(self._tables, MAX_STEPS).improve(constraint, limit)

    def completes(self, constraint: Closable, end: Sequence[int]) -> bool:
        """Whether the output may end after these tokens."""
        return constraint.count_legal((*end, self.vocabulary.eos_id)) == len(end) + 1

    @cached_property
    def _tables(self) -> _Tables:
        return _Tables(self.vocabulary, self._markers)


class _Tables:
    """Which tokens close what, and which say much, of one vocabulary."""

    def __init__(self, vocabulary: Vocabulary, markers: Sequence[bytes]) -> None:
        texts = vocabulary.texts
        closers: list[tuple[int, int]] = []
        plain: list[tuple[int, int]] = []
        foreign: list[int] = []
        by_text: dict[bytes, int] = {}
        for token_id in range(vocabulary.vocab_size):
            text = texts.get(token_id)
            if 0 < len(text) <= _MAX_CLOSER_BYTES:
                by_text.setdefault(text, token_id)
                if not text.strip(b'"}]'):
                    closers.append((-len(text), token_id))
            if text.isascii() and text.replace(b" ", b"").isalnum():
                plain.append((-len(text), token_id))
            if not text.isascii():
                foreign.append(token_id)
        closers.sort()

        def known(spelled: Iterable[bytes]) -> list[int]:
            return [by_text[text] for text in spelled if text in by_text]

        self.vocabulary = vocabulary
        self.lengths = np.diff(texts.ends)
        self.lengths[foreign] = np.minimum(self.lengths[foreign], 1)
        self.quotes = [at for _, at in closers if texts.get(at).startswith(b'"')]
        self.braces = [at for _, at in closers if texts.get(at).startswith(b"}")]
        self.lists = [at for _, at in closers if texts.get(at).startswith(b"]")]
        self.longest = _ids(_longest(plain))
        self.values = known(_VALUES)
        self.after_value = [*known(_AFTER_VALUE), vocabulary.eos_id]
        self.ends = _ids([*self.quotes, *self.braces, *self.lists, *self.values])
        self.single = _ids(known(bytes([value]) for value in range(0x20, 0x7F)))
        self.sign_of_text = known((b"~",))
        self.specials = _ids(
            sorted(frozenset(vocabulary.special_ids.values()) - vocabulary.stop_ids)
        )
        # A marker may be half written already; the shortest end of it that works is best.
        self.markers = [
            vocabulary.tokenizer.tokenize_bytes(marker[start:])
            for marker in markers
            for start in reversed(range(len(marker)))
        ]


def _longest(plain: list[tuple[int, int]]) -> Iterator[int]:
    """Token ids of (-length, id), the longest first, two of each length."""
    for _, alike in itertools.groupby(sorted(plain), key=lambda entry: entry[0]):
        yield from (token_id for _, token_id in itertools.islice(alike, 2))


def _ids(token_ids: Iterable[int]) -> npt.NDArray[np.int64]:
    return np.array(list(token_ids), dtype=np.int64)


class _Search:
    """One search and the steps it may still take."""

    def __init__(self, tables: _Tables, num_steps: int, known: Sequence[int] = ()) -> None:
        self._tables = tables
        self._num_steps = num_steps
        self._known = tuple(known)
        self._mask = np.zeros((1, tables.vocabulary.num_mask_words), dtype=np.int32)

    def walk(self, at: Closable, limit: int) -> tuple[int, ...] | None:
        """Go from `at`, which is used up, to an end of at most `limit` tokens.

        Where the walk meets a choice again, it chooses otherwise: so it leaves loops.
        """
        path: list[int] = []
        seen: Counter[int] = Counter()
        while at.state != "accepting":
            self._num_steps -= 1
            forced = at.forced()
            run = forced or self._pick(at, seen)
            if not run or len(path) + len(run) > limit or self._num_steps < 0:
                return None
            if at.advance(run) != len(run):
                return None
            path += run
            # Where something is dictated, a part of the output has just been finished.
            if forced and (rest := self._rest_of_known(at, limit - len(path))):
                path += rest
                break
        return tuple(path)

    def _rest_of_known(self, at: Closable, room: int) -> tuple[int, ...]:
        """The shortest rest of the known end that ends the output from here; empty if none."""
        known, eos_id = self._known, self._tables.vocabulary.eos_id
        legal = {token_id for token_id in set(known) if at.count_legal((token_id,))}
        for start in reversed(range(max(0, len(known) - room), len(known))):
            rest = known[start:]
            if known[start] in legal and at.count_legal((*rest, eos_id)) == len(rest) + 1:
                return rest
        return ()

    def improve(self, constraint: Closable, limit: int) -> tuple[int, ...] | None:
        """Walk once, then again from every other choice along the best way known."""
        best = self.walk(constraint.fork(), limit)
        at, taken = constraint.fork(), list[int]()
        seen: Counter[int] = Counter()
        while at.state == "open" and self._num_steps > 0 and len(taken) < limit:
            run = at.forced()
            if not run:
                for token_id in self._alternatives(at):
                    room = (limit if best is None else len(best) - 1) - len(taken) - 1
                    trial = at.fork()
                    if room < 0 or trial.advance([token_id]) != 1:
                        continue
                    if (tail := self.walk(trial, room)) is not None:
                        best = (*taken, token_id, *tail)
            if best is not None:
                run = [best[len(taken)]]
            elif not run:
                run = self._pick(at, seen)
            if not run or at.advance(run) != len(run):
                break
            taken += run
        return best

    def _pick(self, at: Closable, seen: Counter[int]) -> list[int]:
        """The tokens that look best; in a text what closes it, elsewhere what ends a value."""
        tables = self._tables
        is_text = at.count_legal(tables.sign_of_text) == 1
        if not is_text:
            for closers in (tables.braces, tables.lists):
                if found := self._first_closing(at, closers):
                    return found
            for token_id in tables.values:
                if self._ends_value(at, token_id):
                    return [token_id]
        # A quote after which any text may stand opened a string, or was text itself.
        if found := self._first_closing(at, tables.quotes, tables.sign_of_text):
            return found
        if not is_text and at.count_legal(tables.quotes[-1:]):
            return tables.quotes[-1:]
        self._fill(at)
        key = hash(self._mask.tobytes())
        turn, seen[key] = seen[key], seen[key] + 1
        turn, is_odd = divmod(turn, 2)
        if is_odd and (ways_out := self._ways_out(at)):
            return [ways_out[turn % len(ways_out)]]
        return self._pick_in_text(at, turn) if is_text else self._pick_branch(at, turn)

    def _ways_out(self, at: Closable) -> list[int]:
        """Letters that let a string end, or that cannot be repeated, as the `@` of an address."""
        legal = self._legal(self._tables.single).tolist()
        self._num_steps -= 2 * len(legal)
        closing = [*self._tables.quotes[-1:], *self._tables.sign_of_text]
        if last := [letter for letter in legal if at.count_legal([letter, *closing]) == 2]:
            return last
        return [letter for letter in legal if at.count_legal([letter, letter]) == 1]

    def _first_closing(
        self, at: Closable, closers: list[int], illegal_after: Sequence[int] = ()
    ) -> list[int]:
        """The longest legal one of tokens that all start as the last of them does."""
        if not at.count_legal(closers[-1:]):
            return []
        for token_id in closers:
            if at.count_legal((token_id, *illegal_after)) == 1:
                return [token_id]
        return []

    def _ends_value(self, at: Closable, token_id: int) -> bool:
        return at.count_legal([token_id]) == 1 and any(
            at.count_legal([token_id, after]) == 2 for after in self._tables.after_value
        )

    def _pick_in_text(self, at: Closable, turn: int) -> list[int]:
        """A special token, a marker, or much text at once: there may be a least length."""
        tables = self._tables
        specials = self._legal(tables.specials)
        if specials.size:
            return [int(specials[turn % specials.size])]
        for marker in tables.markers:
            trial = at.fork()
            if trial.advance(marker) == len(marker) and (
                trial.state == "accepting"
                or trial.forced()
                or not trial.count_legal(tables.sign_of_text)
            ):
                return marker
        plain = self._legal(tables.longest)
        if plain.size:
            return [int(plain[0])]
        allowed = self._allowed()
        return [int(allowed[np.argmax(tables.lengths[allowed])])] if allowed.size else []

    def _pick_branch(self, at: Closable, turn: int) -> list[int]:
        """Of a few tokens the one after which most is dictated and least has been opened."""
        ranked = self._rank(at)
        return [ranked[turn % len(ranked)]] if ranked else []

    def _rank(self, at: Closable) -> list[int]:
        """The candidates, best first."""
        scores = [self._score(at, token_id) for token_id in self._candidates()]
        self._num_steps -= len(scores)
        return [score[-1] for score in sorted(scores)]

    def _score(self, at: Closable, token_id: int) -> tuple[bool, int, bool, int, int]:
        trial = at.fork()
        trial.advance([token_id])
        said, dictated = self._tables.vocabulary.texts.get(token_id), trial.forced_text()
        text = said + dictated
        opened = text.count(b"{") + text.count(b"[") - text.count(b"}") - text.count(b"]")
        length = len(dictated) or -len(said)
        return trial.state != "accepting", max(0, opened), not dictated, length, token_id

    def _alternatives(self, at: Closable) -> list[int]:
        """What else could be taken here; of texts only what ends them or is long."""
        tables = self._tables
        self._fill(at)
        found = self._legal(tables.ends).tolist()
        if at.count_legal(tables.sign_of_text) == 1:
            found += self._legal(tables.specials)[:_NUM_BEST].tolist()
            found += self._legal(tables.longest)[:1].tolist()
        found += self._rank(at)[:_NUM_BEST]
        return list(dict.fromkeys(found))

    def _candidates(self) -> list[int]:
        """All tokens that the mask allows; of many the longest, which get furthest."""
        allowed = self._allowed()
        if allowed.size > MAX_CANDIDATES:
            order = np.argpartition(-self._tables.lengths[allowed], _NUM_BEST)
            allowed = allowed[order[:_NUM_BEST]]
        stop_ids = self._tables.vocabulary.stop_ids
        return [token_id for token_id in allowed.tolist() if token_id not in stop_ids]

    def _fill(self, at: Closable) -> None:
        self._num_steps -= _STEPS_PER_MASK
        at.fill(self._mask, 0)

    def _legal(self, token_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        words = self._mask[0, token_ids >> 5]
        legal: npt.NDArray[np.int64] = token_ids[(words >> (token_ids & 31)) & 1 == 1]
        return legal

    def _allowed(self) -> npt.NDArray[np.int64]:
        """The ids of the mask; unpacks only words that have any."""
        words = np.flatnonzero(self._mask[0])
        bits = np.unpackbits(self._mask[0, words].view(np.uint8), bitorder="little")
        found = np.flatnonzero(bits)
        allowed: npt.NDArray[np.int64] = (words[found >> 5] << 5) + (found & 31)
        return allowed
