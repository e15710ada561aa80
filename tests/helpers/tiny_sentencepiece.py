"""A tiny SentencePiece vocabulary, and SentencePiece's own way of encoding with it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

_MERGED = (
    "▁t", "he", "▁the", "▁a", "in", "▁in", "er", "▁▁", "▁▁▁▁", "an", "▁an", "the", "and", "▁and",
    "re", "th", "ere", "▁there", "e\u0301", "日本", "本語", "日本語",
)  # fmt: skip
_LETTERS = "▁abcdehinrst日本語.,é\u0301"


def tiny_sentencepiece() -> dict[str, Any]:
    """The `tokenizer.*` metadata: specials, 256 bytes, a user token, merged pieces, letters."""
    pieces = [("<unk>", 2, 0.0), ("<s>", 3, 0.0), ("</s>", 3, 0.0)]
    pieces += [(f"<0x{value:02X}>", 6, 0.0) for value in range(256)]
    pieces += [("<think>", 4, 0.0), ("[PAD]", 5, 0.0)]
    normal = [*_MERGED, *_LETTERS]
    pieces += [(text, 1, -float(rank)) for rank, text in enumerate(normal)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [text for text, _, _ in pieces],
        "tokenizer.ggml.token_type": np.array([type_ for _, type_, _ in pieces], np.int32),
        "tokenizer.ggml.scores": np.array([score for _, _, score in pieces], np.float32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def encode_by_scores(metadata: Mapping[str, Any], text: str) -> list[int]:
    """Merge the best-scored pair, leftmost first, until none is left.

    Source: SentencePiece, `bpe_model.cc`, `Model::SampleEncode`.
    """
    rows = zip(
        metadata["tokenizer.ggml.tokens"],
        metadata["tokenizer.ggml.token_type"],
        metadata["tokenizer.ggml.scores"],
        strict=True,
    )
    normal = {
        text: (float(score), id_) for id_, (text, type_, score) in enumerate(rows) if type_ == 1
    }
    symbols = list(("▁" + text if text else "").replace(" ", "▁"))
    while True:
        pairs = [left + right for left, right in itertools.pairwise(symbols)]
        scored = [(-normal[pair][0], at) for at, pair in enumerate(pairs) if pair in normal]
        if not scored:
            break
        _, at = min(scored)
        symbols[at : at + 2] = [pairs[at]]
    token_ids = []
    for symbol in symbols:
        in_bytes = [3 + byte for byte in symbol.encode()]
        token_ids += [normal[symbol][1]] if symbol in normal else in_bytes
    return token_ids
