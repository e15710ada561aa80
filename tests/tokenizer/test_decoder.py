"""Tests of incremental decoding."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from runtime.tokenizer import Tokenizer, load_tokenizer
from tests.helpers.tiny_gguf import IM_END_ID, tiny_vocabulary
from tests.helpers.tiny_sentencepiece import tiny_sentencepiece

_TOKENIZERS = {
    "byte-level": load_tokenizer(tiny_vocabulary()),
    "sentencepiece": load_tokenizer(tiny_sentencepiece()),
}


def _pushed(tokenizer: Tokenizer, chunks: list[list[int]]) -> str:
    decoder = tokenizer.decoder()
    return "".join([decoder.push(chunk) for chunk in chunks]) + decoder.flush()


@given(
    kind=st.sampled_from(sorted(_TOKENIZERS)),
    chunks=st.lists(st.lists(st.integers(0, 260), max_size=4), max_size=12),
)
def test_joined_pushes_equal_decoding_at_once(kind: str, chunks: list[list[int]]) -> None:
    tokenizer = _TOKENIZERS[kind]
    assert _pushed(tokenizer, chunks) == tokenizer.decode(itertools.chain(*chunks))


@given(st.text(max_size=20))
def test_text_comes_back_from_single_tokens(text: str) -> None:
    tokenizer = _TOKENIZERS["byte-level"]
    assert _pushed(tokenizer, [[token_id] for token_id in tokenizer.encode(text)]) == text


def test_text_waits_for_the_end_of_a_character() -> None:
    tokenizer = _TOKENIZERS["byte-level"]
    decoder = tokenizer.decoder()
    token_ids = tokenizer.encode("a🙂b")
    assert [decoder.push([token_id]) for token_id in token_ids] == ["a", "", "", "", "🙂", "b"]
    assert decoder.flush() == ""


def test_special_token_has_no_text_and_does_not_end_a_character() -> None:
    tokenizer = _TOKENIZERS["byte-level"]
    first, second = tokenizer.encode("é")
    decoder = tokenizer.decoder()
    assert [decoder.push([id_]) for id_ in (first, IM_END_ID, second)] == ["", "", "é"]


def test_unfinished_character_becomes_a_replacement_at_the_end() -> None:
    tokenizer = _TOKENIZERS["byte-level"]
    decoder = tokenizer.decoder()
    assert (decoder.push(tokenizer.encode("🙂")[:3]), decoder.flush()) == ("", "\ufffd")
