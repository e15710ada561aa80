"""`Constraint` over llguidance's matcher; every failure is a state, never an exception."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llguidance
import numpy as np
import numpy.typing as npt

from runtime.grammar.constraint import ConstraintState
from runtime.grammar.vocabulary import Vocabulary


class MatcherConstraint:
    """The legal continuations of one sequence under a compiled grammar.

    The end token never reaches the matcher, which cannot take one where nothing else may
    follow. Invariants: `_has_ended` exactly when a token of `stop_ids` was taken last;
    `_is_free` only where `forced` has said that nothing must come next.
    """

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: Vocabulary) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._has_ended = False
        self._is_free = False

    def fill(self, token_bitmask: npt.NDArray[np.int32], row: int) -> None:
        """Write the legal next tokens; none when the state is, or becomes, done or failed."""
        words = token_bitmask[row]
        assert words.dtype == np.int32
        assert words.flags.c_contiguous
        num_words = self._vocabulary.num_mask_words
        if len(words) > num_words:
            words[num_words:] = 0
        if not self._has_ended:
            # `llguidance.numpy` does the same, and takes as long to check as this to fill; so
            # does `words.ctypes`.
            address = ctypes.addressof(ctypes.c_char.from_buffer(words))
            self._matcher.unsafe_compute_mask_ptr(address, 4 * num_words)
            if not self._is_free and np.count_nonzero(words) == 1:
                self._respell(words)
        # In its error state the matcher would allow the end token, as if all were well.
        if self._has_ended or self._matcher.is_error():
            words[:] = 0

    def advance(self, token_ids: Sequence[int]) -> int:
        if self._has_ended:
            return 0
        self._is_free = False
        stop_ids, vocab_size = self._vocabulary.stop_ids, self._vocabulary.vocab_size
        inside: list[int] = []
        for token_id in token_ids:
            if token_id in stop_ids or not 0 <= token_id < vocab_size:
                break
            inside.append(token_id)
        count = self._matcher.try_consume_tokens(inside) if inside else 0
        if count == len(inside) < len(token_ids) and token_ids[count] in stop_ids:
            self._has_ended = self._matcher.is_accepting() and not self._matcher.is_error()
        return count + self._has_ended

    def forced(self) -> list[int]:
        if self._has_ended or self._matcher.is_error():
            return []
        if self._matcher.is_stopped():
            return [self._vocabulary.eos_id] if self._matcher.is_accepting() else []
        run = self._matcher.compute_ff_tokens()
        self._is_free = not run
        if not run:
            return run
        # A text that spells a special token comes as that token, which is another output.
        return run[: self._matcher.validate_tokens(run)] or [self._spelled()]

    def forced_text(self) -> bytes:
        """The text of `forced`, and what may be cut from it; takes a microsecond."""
        if self._has_ended or self._matcher.is_error() or self._matcher.is_stopped():
            return b""
        return self._matcher.compute_ff_bytes()

    def guess(self) -> int | None:
        """See `guess_token`: the first token of the dictated text, spelled by itself."""
        text = self.forced_text()
        return self._vocabulary.tokenizer.tokenize_bytes(text)[0] if text else None

    def _respell(self, words: npt.NDArray[np.int32]) -> None:
        """Correct a mask of one token, if the matcher then refuses that."""
        run = self._matcher.compute_ff_tokens()[:1]
        if run and not self._matcher.validate_tokens(run):
            words[:] = 0
            token_id = self._spelled()
            words[token_id // 32] = np.uint32(1 << token_id % 32).astype(np.int32)

    def _spelled(self) -> int:
        """The longest token that begins a forced text which spells a special token.

        The matcher forces, and allows alone, the special token itself, and refuses it then.
        """
        text = self._matcher.compute_ff_bytes()
        begun, _ = self._vocabulary.texts.split_by_prefix(text)
        return int(begun[-1])

    def count_legal(self, token_ids: Sequence[int]) -> int:
        """How many of these could be taken one after the other; none is taken.

        A token that ends the output counts where it may end. Takes 1 to 10 microseconds, a
        fifteenth of taking and untaking them.
        """
        if self._has_ended or self._matcher.is_error():
            return 0
        if self._matcher.is_stopped():
            # Unlike on the way there, the matcher itself takes no end token here.
            ends = len(token_ids) > 0 and token_ids[0] in self._vocabulary.stop_ids
            return int(ends and self._matcher.is_accepting())
        return self._matcher.validate_tokens(list(token_ids))

    def rollback(self, num_tokens: int) -> None:
        self._is_free = False
        if num_tokens and self._has_ended:
            self._has_ended = False
            num_tokens -= 1
        if num_tokens:
            self._matcher.rollback(num_tokens)

    def fork(self) -> MatcherConstraint:
        copy = MatcherConstraint(self._matcher.deep_copy(), self._vocabulary)
        copy._has_ended = self._has_ended
        return copy

    @property
    def state(self) -> ConstraintState:
        if self._has_ended:
            return "done"
        if self._matcher.is_error():
            return "failed"
        return "accepting" if self._matcher.is_accepting() else "open"

    @property
    def error(self) -> str:
        """Why the state is failed; empty otherwise."""
        return self._matcher.get_error().partition("\n")[0]
