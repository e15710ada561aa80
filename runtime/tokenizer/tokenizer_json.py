"""A checked vocabulary to the text of a Hugging Face `tokenizer.json`.

The one description of a tokenizer that both `tokenizers` and `llguidance` read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from runtime.tokenizer.pieces import SPACE, Pieces, PieceType
from runtime.tokenizer.pre_tokenizers import PreTokenizer


def byte_level_json(pieces: Pieces, pre_tokenizer: PreTokenizer) -> str:
    """Describe a "gpt2" vocabulary."""
    return _dump(
        pieces,
        pieces.merges,
        pre_tokenizer=pre_tokenizer.json(),
        decoder={
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        model={"ignore_merges": pre_tokenizer.ignore_merges},
    )


def sentencepiece_json(pieces: Pieces, *, adds_space: bool) -> str:
    """Describe a "llama" vocabulary; `adds_space` puts a space before every text."""
    space = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prefix = [{"type": "Prepend", "prepend": SPACE}] if adds_space else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if adds_space else []
    decoders = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    unknown = pieces.named_ids.get("unknown")
    return _dump(
        pieces,
        derive_merges(pieces),
        # SentencePiece looks for user-defined pieces after it has written spaces its way.
        # With a prefix the normalizer would put a space before each of them as well.
        normalizes_added=not adds_space,
        normalizer={"type": "Sequence", "normalizers": [*prefix, space]},
        decoder={"type": "Sequence", "decoders": [*decoders, *strip]},
        model={
            "byte_fallback": PieceType.BYTE in pieces.types,
            "fuse_unk": True,
            "unk_token": None if unknown is None else pieces.texts[unknown],
        },
    )


def derive_merges(pieces: Pieces) -> Sequence[tuple[str, str]]:
    """The merges that act like SentencePiece's scores: the best-scored piece is made first.

    Equal scores keep the order of the vocabulary.
    """
    normal = {
        text: token_id
        for token_id, (text, piece_type) in enumerate(zip(pieces.texts, pieces.types, strict=True))
        if piece_type == PieceType.NORMAL
    }
    found: list[tuple[float, tuple[str, str]]] = []
    for text, token_id in normal.items():
        cuts = [(text[:at], text[at:]) for at in range(1, len(text))]
        made = [cut for cut in cuts if cut[0] in normal and cut[1] in normal]
        made.sort(key=lambda cut: (normal[cut[0]], normal[cut[1]]))
        found += [(pieces.scores[token_id], cut) for cut in made]
    found.sort(key=lambda row: -row[0])
    return [cut for _, cut in found]


def _dump(
    pieces: Pieces,
    merges: Sequence[tuple[str, str]],
    *,
    model: dict[str, Any],
    normalizes_added: bool = False,
    **parts: Any,
) -> str:
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(pieces, normalizes=normalizes_added),
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: token_id for token_id, text in enumerate(pieces.texts)},
            "merges": merges,
        }
        | model,
    } | parts
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _added_tokens(pieces: Pieces, *, normalizes: bool) -> list[dict[str, Any]]:
    special = set(pieces.special_ids.values())
    return [
        {
            "id": token_id,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": normalizes and token_id not in special,
            "special": token_id in special,
        }
        for token_id, (text, piece_type) in enumerate(zip(pieces.texts, pieces.types, strict=True))
        if token_id in special or piece_type == PieceType.USER_DEFINED
    ]
