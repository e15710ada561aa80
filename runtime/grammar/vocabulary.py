"""A model's vocabulary as the mask engine wants it; built once per model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import llguidance
import numpy as np
import numpy.typing as npt

from runtime.errors import ModelFileError

_IN_STRINGS = r"""[^"\\\x00-\x1F\x7F]"""
# Without the characters that calls begin with, where any text but a call may stand.
_IN_TEXT = r"""[^<{\["\\\x00-\x1F\x7F]"""
SLICES = [
    *(f"{_IN_TEXT}{{1,{length}}}" for length in (3, 6, 9, 12, 16, 24)),
    f"{_IN_TEXT}+",
    f"{_IN_STRINGS}+",
    r"[^<{\[]+",
]
"""Patterns of tokens, tried in this order, that the mask engine takes together.

Where all that a pattern matches may come next, its tokens are not looked at one by one. With
llguidance's own slices, which end at 10 and 30 characters, a string that may still have 20
takes 0.1 ms for a mask of 49k tokens and 0.4 ms of 262k; with these 0.01 ms.
"""


@dataclass(frozen=True, slots=True)
class TokenTexts:
    """What every token spells, in one piece of memory; tokens that no text spells have none.

    Attributes:
        text: the texts one after the other.
        ends: [vocab_size + 1] int32, where each ends; the first entry is 0.
    """

    text: bytes
    ends: npt.NDArray[np.int32]

    def get(self, token_id: int) -> bytes:
        return self.text[self.ends[token_id] : self.ends[token_id + 1]]

    def bytes_at(self, offset: int) -> npt.NDArray[np.int16]:
        """The byte that each token has at `offset`, -1 where it is shorter."""
        places = self.ends[:-1] + offset
        is_there = places < self.ends[1:]
        found = np.full(places.size, -1, dtype=np.int16)
        found[is_there] = np.frombuffer(self.text, dtype=np.uint8)[places[is_there]]
        return found

    def split_by_prefix(self, text: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The tokens that are a proper prefix of `text`, and those that start with it."""
        letters = np.frombuffer(self.text, dtype=np.uint8)
        starts, lengths = self.ends[:-1], np.diff(self.ends)
        alike = np.flatnonzero(lengths > 0)
        within: list[npt.NDArray[np.int64]] = []
        for offset, byte in enumerate(text):
            alike = alike[letters[starts[alike] + offset] == byte]
            if offset + 1 < len(text):
                ends_here = lengths[alike] == offset + 1
                within.append(alike[ends_here])
                alike = alike[~ends_here]
            if not alike.size:
                break
        return np.concatenate([*within, alike[:0]]), alike


class Vocabulary:
    """Wraps llguidance's tokenizer: every token's bytes, and a canonical tokenization.

    Building takes 0.3 s for 49k tokens and seconds for 262k: do it in a thread, once.

    Attributes:
        vocab_size: number of token ids; masks have `ceil(vocab_size / 32)` words.
        eos_id: the end-of-turn token, which a grammar that cannot go on forces.
        stop_ids: every token that may end a turn, `eos_id` included.
        special_ids: tokens that no text spells, by their names.
    """

    def __init__(
        self,
        tokenizer_json: str,
        vocab_size: int,
        eos_id: int,
        special_ids: Mapping[str, int],
        stop_ids: Collection[int],
    ) -> None:
        self.vocab_size = vocab_size
        self.eos_id = eos_id
        self.stop_ids = frozenset(stop_ids) | {eos_id}
        self.special_ids = dict(special_ids)
        ends = [eos_id, *sorted(self.stop_ids - {eos_id})]
        try:
            self.tokenizer = llguidance.LLTokenizer(tokenizer_json, vocab_size, ends, slices=SLICES)
        except ValueError as exc:
            raise ModelFileError(f"the vocabulary cannot constrain an output: {exc}") from exc

    @property
    def stop_mask(self) -> npt.NDArray[np.int32]:
        """The row of a token bitmask that allows `stop_ids` and nothing else."""
        bits = np.zeros(self.num_mask_words * 32, dtype=np.uint8)
        bits[list(self.stop_ids)] = 1
        return np.packbits(bits, bitorder="little").view(np.int32)

    @property
    def num_mask_words(self) -> int:
        """32-bit words of one row of a token bitmask."""
        return (self.vocab_size + 31) // 32

    @cached_property
    def texts(self) -> TokenTexts:
        """The bytes of every token (40 ms and 3 MB for 262k), built when first asked for."""
        specials = frozenset(self.special_ids.values()) | self.stop_ids
        tokenizer = self.tokenizer
        parts = [
            b"" if token_id in specials else tokenizer.decode_bytes([token_id])
            for token_id in range(self.vocab_size)
        ]
        ends = np.zeros(self.vocab_size + 1, dtype=np.int32)
        np.cumsum([len(part) for part in parts], out=ends[1:])
        return TokenTexts(b"".join(parts), ends)
