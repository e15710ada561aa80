"""The default model's file: its token ids and numbers equal those of other readers."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from runtime.tokenizer import Tokenizer, load_tokenizer
from runtime.weights import open_checkpoint
from runtime.weights.names import canonical_name
from tests.helpers.mixed_texts import ids_digest, mixed_texts

pytestmark = pytest.mark.real

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Tokenizer:
    return load_tokenizer(open_checkpoint(smollm2).metadata)


@pytest.mark.parametrize("kind", ["parsed", "plain"])
def test_ids_of_mixed_texts_equal_those_of_transformers(kind: str, tokenizer: Tokenizer) -> None:
    digests = json.loads((DATA / "smollm2_tokens.json").read_text(encoding="utf-8"))[kind]
    wanted = [digests[at : at + 6] for at in range(0, len(digests), 6)]
    texts = mixed_texts()
    found = [ids_digest(tokenizer.encode(text, parse_special=kind == "parsed")) for text in texts]
    differing = [text for text, a, b in zip(texts, wanted, found, strict=True) if a != b]
    assert (len(wanted), differing) == (1000, [])


def test_prompts_of_the_greedy_goldens_have_the_ids_written_there(tokenizer: Tokenizer) -> None:
    rows = json.loads((DATA / "smollm2_greedy.json").read_text(encoding="utf-8"))
    assert len(rows) == 20
    for row in rows:
        assert tokenizer.encode(row["prompt"], parse_special=True) == row["prompt_ids"]


@pytest.mark.slow
def test_numbers_equal_those_of_the_gguf_package(smollm2: Path) -> None:
    checkpoint = open_checkpoint(smollm2)
    reader = gguf.GGUFReader(smollm2)
    assert len(checkpoint.names) == len(reader.tensors) == 272
    for tensor in reader.tensors[::34]:
        decoded = checkpoint.read(canonical_name(tensor.name)).dequantize()
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(decoded.view(np.uint32), expected.view(np.uint32))
