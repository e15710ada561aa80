"""Tests of vocabularies for the mask engine."""

from __future__ import annotations

import pytest

from runtime.errors import ModelFileError
from runtime.grammar.vocabulary import Vocabulary
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.vocabularies import vocabulary_of


def test_vocabulary_knows_every_end_of_turn_and_the_width_of_a_mask() -> None:
    tokenizer = tiny_tokenizer()
    vocabulary = vocabulary_of(tokenizer)
    assert vocabulary.stop_ids == tokenizer.stop_ids | {tokenizer.eos_id}
    assert vocabulary.num_mask_words == -(-tokenizer.vocab_size // 32)
    assert vocabulary.tokenizer.is_canonical


def test_broken_tokenizer_is_an_error_of_ours() -> None:
    with pytest.raises(ModelFileError, match="cannot constrain an output"):
        Vocabulary("{}", 10, 0, {}, set())
