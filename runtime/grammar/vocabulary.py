"""A model's vocabulary as the mask engine wants it; built once per model."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import llguidance

from runtime.errors import ModelFileError


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
            self.tokenizer = llguidance.LLTokenizer(tokenizer_json, vocab_size, ends)
        except ValueError as exc:
            raise ModelFileError(f"the vocabulary cannot constrain an output: {exc}") from exc

    @property
    def num_mask_words(self) -> int:
        """32-bit words of one row of a token bitmask."""
        return (self.vocab_size + 31) // 32
