"""Gemma 3's file: a SentencePiece vocabulary whose ids equal those of another reader."""

import json
from pathlib import Path

import pytest

from runtime.config import load_config
from runtime.tokenizer import Tokenizer, load_tokenizer
from runtime.weights import open_checkpoint
from tests.helpers.mixed_texts import ids_digest, mixed_texts

pytestmark = [pytest.mark.real, pytest.mark.slow]

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def tokenizer(gemma3: Path) -> Tokenizer:
    return load_tokenizer(open_checkpoint(gemma3).metadata, load_config().cache_dir)


def test_the_sentence_that_others_split_wrongly(tokenizer: Tokenizer) -> None:
    token_ids = tokenizer.encode("What is the capital of France?")
    assert token_ids == [3689, 563, 506, 5279, 529, 7001, 236881]


@pytest.mark.parametrize("kind", ["parsed", "plain"])
def test_ids_of_mixed_texts_equal_those_of_transformers(kind: str, tokenizer: Tokenizer) -> None:
    digests = json.loads((DATA / "gemma3_tokens.json").read_text(encoding="utf-8"))[kind]
    wanted = [digests[at : at + 6] for at in range(0, len(digests), 6)]
    texts = mixed_texts()
    found = [ids_digest(tokenizer.encode(text, parse_special=kind == "parsed")) for text in texts]
    differing = [text for text, a, b in zip(texts, wanted, found, strict=True) if a != b]
    assert (len(wanted), differing) == (1000, [])


def test_model_starts_with_bos_and_ends_with_its_turn(tokenizer: Tokenizer) -> None:
    assert (tokenizer.bos_id, tokenizer.adds_bos, tokenizer.vocab_size) == (2, True, 262144)
    assert tokenizer.stop_ids == {1, tokenizer.special_ids["<end_of_turn>"]}
