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


def test_texts_are_what_tokens_spell_and_special_ones_spell_nothing() -> None:
    tokenizer = tiny_tokenizer()
    vocabulary = vocabulary_of(tokenizer)
    special = set(vocabulary.special_ids.values())
    for token_id in range(vocabulary.vocab_size):
        text = b"" if token_id in special else vocabulary.tokenizer.decode_bytes([token_id])
        assert vocabulary.texts.get(token_id) == text
    assert (
        b"".join(map(vocabulary.texts.get, tokenizer.encode("naïve {x}"))) == "naïve {x}".encode()
    )


def test_texts_are_split_by_a_prefix_as_one_by_one() -> None:
    texts = vocabulary_of(tiny_tokenizer()).texts
    spelled = {token_id: texts.get(token_id) for token_id in range(len(texts.ends) - 1)}
    for prefix in (b"n", b"na", b"name", b'"', b'": "', b'", "arguments": {"x', b"\xff\xfe", b"zq"):
        within, beyond = texts.split_by_prefix(prefix)
        proper = {at for at, text in spelled.items() if text and prefix.startswith(text)}
        starting = {at for at, text in spelled.items() if text.startswith(prefix)}
        assert (set(within.tolist()), set(beyond.tolist())) == (proper - starting, starting)
    for offset in (0, 3):
        expected = [text[offset] if len(text) > offset else -1 for text in spelled.values()]
        assert texts.bytes_at(offset).tolist() == expected


def test_broken_tokenizer_is_an_error_of_ours() -> None:
    with pytest.raises(ModelFileError, match="cannot constrain an output"):
        Vocabulary("{}", 10, 0, {}, set())
