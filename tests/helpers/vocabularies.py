"""Grammar vocabularies of tiny tokenizers, and walks over constraints."""

from __future__ import annotations

import numpy as np

from runtime.grammar.constraint import Constraint
from runtime.grammar.vocabulary import Vocabulary
from runtime.tokenizer.tokenizer import Tokenizer


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(
        tokenizer.json,
        tokenizer.vocab_size,
        tokenizer.eos_id,
        tokenizer.special_ids,
        tokenizer.stop_ids,
    )


def allowed_ids(constraint: Constraint, vocab_size: int) -> set[int]:
    """The ids that `fill` allows next."""
    mask = np.full((1, (vocab_size + 31) // 32), -1, dtype=np.int32)
    constraint.fill(mask, 0)
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[:vocab_size]
    return set(np.flatnonzero(bits).tolist())


def accepts(constraint: Constraint, token_ids: list[int]) -> bool:
    """Whether the tokens, followed by the end of the turn, are a whole output."""
    copy = constraint.fork()
    return copy.advance(token_ids) == len(token_ids) and copy.state == "accepting"
