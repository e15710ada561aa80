"""The vocabulary of a model file: its pieces, their types and the bytes they stand for.

Reads and checks the `tokenizer.ggml.*` keys; knows nothing of how text is split.

Source: ggml, docs/gguf.md, section "Tokenizer"; llama.cpp `llama-vocab.cpp`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, TypeVar

import numpy as np

from runtime.errors import ModelFileError

Kind = Literal["gpt2", "llama"]
_T = TypeVar("_T")

SPACE = "\u2581"
"""What SentencePiece writes for a space."""

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
# Deriving merges is quadratic in a piece's length; real vocabularies end at a few hundred.
_MAX_PIECE_CHARS = 1024
_NAMED_IDS = ("bos", "eos", "eot", "eom", "unknown", "padding")


class PieceType(IntEnum):
    """`tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Pieces:
    """A checked vocabulary.

    Attributes:
        kind: "gpt2" is byte-level BPE, "llama" is SentencePiece.
        texts: the pieces as the file spells them, by token id; no two are equal.
        types: what each is, by token id.
        scores: higher merges first; "llama" only.
        merges: pairs in order of priority; "gpt2" only.
        named_ids: `bos`, `eos`, `eot`, `eom`, `unknown`, `padding`, where the file has them.
    """

    kind: Kind
    texts: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float]
    merges: Sequence[tuple[str, str]]
    named_ids: Mapping[str, int]

    @property
    def special_ids(self) -> dict[str, int]:
        """Control pieces by their text; they structure a prompt and have no text in output."""
        special = {PieceType.CONTROL, PieceType.UNKNOWN}
        return {
            text: token_id
            for token_id, (text, piece_type) in enumerate(zip(self.texts, self.types, strict=True))
            if piece_type in special
        }


def read_pieces(metadata: Mapping[str, Any]) -> Pieces:
    """Check the vocabulary in a checkpoint's metadata.

    Raises:
        ModelFileError: a key is missing, of the wrong type, or contradicts another.
    """
    kind = _read_kind(metadata)
    texts = get_value(metadata, "tokenizer.ggml.tokens", list)
    if len(set(texts)) != len(texts):
        raise ModelFileError("tokenizer.ggml.tokens: two tokens have the same text")
    if max(map(len, texts), default=0) > _MAX_PIECE_CHARS:
        raise ModelFileError(f"tokenizer.ggml.tokens: one is over {_MAX_PIECE_CHARS} characters")
    named_ids = _read_named_ids(metadata, len(texts))
    return Pieces(
        kind=kind,
        texts=texts,
        types=_read_types(metadata, len(texts), named_ids),
        scores=_read_numbers(metadata, "scores", len(texts)) if kind == "llama" else (),
        merges=_read_merges(metadata, texts) if kind == "gpt2" else (),
        named_ids=named_ids,
    )


def token_bytes(pieces: Pieces) -> tuple[bytes, ...]:
    """The bytes of text each token stands for; special and unused tokens have none."""
    spell = spell_byte_level if pieces.kind == "gpt2" else spell_sentencepiece
    found = []
    for text, piece_type in zip(pieces.texts, pieces.types, strict=True):
        if piece_type == PieceType.NORMAL:
            found.append(spell(text))
        elif piece_type == PieceType.USER_DEFINED:
            found.append(text.encode())
        elif piece_type == PieceType.BYTE:
            found.append(parse_byte(text))
        else:
            found.append(b"")
    return tuple(found)


def get_value(metadata: Mapping[str, Any], key: str, type_: type[_T]) -> _T:
    """The value of a key that must be there.

    Raises:
        ModelFileError: it is missing or of another type.
    """
    value = metadata.get(key)
    if not isinstance(value, type_):
        found = "nothing" if value is None else type(value).__name__
        raise ModelFileError(f"wanted {key} as {type_.__name__} in the model file, found {found}")
    return value


def _read_kind(metadata: Mapping[str, Any]) -> Kind:
    kind = get_value(metadata, "tokenizer.ggml.model", str)
    if kind == "gpt2":
        return "gpt2"
    if kind == "llama":
        return "llama"
    raise ModelFileError(f"wanted a tokenizer of model 'gpt2' or 'llama', found {kind!r}")


def _read_named_ids(metadata: Mapping[str, Any], vocab_size: int) -> dict[str, int]:
    found = {}
    for name in _NAMED_IDS:
        key = f"tokenizer.ggml.{name}_token_id"
        if key in metadata:
            token_id = get_value(metadata, key, int)
            if not 0 <= token_id < vocab_size:
                raise ModelFileError(f"wanted {key} below {vocab_size}, found {token_id}")
            found[name] = token_id
    return found


def _read_types(
    metadata: Mapping[str, Any], vocab_size: int, named_ids: Mapping[str, int]
) -> Sequence[int]:
    if "tokenizer.ggml.token_type" in metadata:
        return [int(value) for value in _read_numbers(metadata, "token_type", vocab_size)]
    types = [int(PieceType.NORMAL)] * vocab_size
    for token_id in named_ids.values():
        types[token_id] = PieceType.CONTROL
    return types


def _read_numbers(metadata: Mapping[str, Any], name: str, vocab_size: int) -> Sequence[float]:
    key = f"tokenizer.ggml.{name}"
    numbers = np.asarray(metadata.get(key))
    if numbers.shape != (vocab_size,) or not np.issubdtype(numbers.dtype, np.number):
        found = f"{numbers.dtype} of shape {list(numbers.shape)}"
        raise ModelFileError(f"wanted {vocab_size} numbers in {key}, found {found}")
    values: Sequence[float] = numbers.tolist()
    return values


def _read_merges(metadata: Mapping[str, Any], texts: Sequence[str]) -> Sequence[tuple[str, str]]:
    known = set(texts)
    merges = []
    for merge in get_value(metadata, "tokenizer.ggml.merges", list):
        left, _, right = merge.partition(" ")
        if left not in known or right not in known or left + right not in known:
            raise ModelFileError(f"tokenizer.ggml.merges: {merge!r} names an unknown token")
        merges.append((left, right))
    return merges


def byte_alphabet() -> dict[str, int]:
    """The printable character that byte-level BPE writes for each byte, to that byte.

    Source: GPT-2, `encoder.py`, `bytes_to_unicode`.
    """
    kept = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = [value for value in range(256) if value not in kept]
    return {chr(value): value for value in kept} | {
        chr(256 + position): value for position, value in enumerate(moved)
    }


_BYTE_OF = byte_alphabet()


def spell_byte_level(text: str) -> bytes:
    """The bytes of a byte-level piece."""
    try:
        return bytes(_BYTE_OF[letter] for letter in text)
    except KeyError:
        return text.encode()  # some converters store added tokens as they are


def spell_sentencepiece(text: str) -> bytes:
    """The bytes of a SentencePiece piece that is no single byte."""
    return text.replace(SPACE, " ").encode()


def parse_byte(text: str) -> bytes:
    """The byte of a piece like "<0x0A>".

    Raises:
        ModelFileError: the piece is spelled otherwise.
    """
    if not _BYTE_PIECE.fullmatch(text):
        raise ModelFileError(f"wanted a byte token like '<0x0A>', found {text!r}")
    return bytes([int(text[3:5], 16)])
