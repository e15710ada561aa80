"""The tokenizer of a folder of safetensors, as Hugging Face's files describe it.

Reads `tokenizer.json`, `tokenizer_config.json`, `config.json`, `generation_config.json` and
`chat_template.jinja`; only the first is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from runtime.errors import ModelFileError
from runtime.tokenizer.pieces import parse_byte, spell_byte_level, spell_sentencepiece

MAX_FILE_BYTES = 128 * 1024 * 1024
"""The largest vocabularies (262,144 pieces) have files of 33 MB."""

_MAX_VOCAB_SIZE = 1 << 24


@dataclass(frozen=True, slots=True)
class FolderTokenizer:
    """What a folder says of its tokenizer; the fields are those of `Tokenizer`.

    Attributes:
        ends: ids of the tokens that end a turn or text, the tokenizer's own first.
    """

    json: str
    token_bytes: tuple[bytes, ...]
    bos_id: int | None
    ends: Sequence[int]
    adds_bos: bool
    special_ids: Mapping[str, int]
    chat_template: str | None


def read_folder(folder: Path) -> FolderTokenizer:
    """Read and check the files.

    Raises:
        ModelFileError: one is missing, damaged or not of a kind we read.
    """
    text = _read_text(folder / "tokenizer.json")
    if text is None:
        raise ModelFileError(
            f"{folder}: wanted a tokenizer.json, found none; fetch the whole model, "
            "or take a GGUF file of it"
        )
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as exc:
        raise ModelFileError(f"{folder / 'tokenizer.json'}: damaged: {exc}") from exc
    document: dict[str, Any] = json.loads(text)
    settings = _read_object(folder / "tokenizer_config.json")
    added = {token["id"]: token for token in document.get("added_tokens") or ()}
    special_ids = {token["content"]: id_ for id_, token in added.items() if token["special"]}
    bos_id = _id_of(settings.get("bos_token"), backend)
    starts = backend.encode("", add_special_tokens=True).ids
    return FolderTokenizer(
        json=text,
        token_bytes=_token_bytes(folder, document, added, backend),
        bos_id=bos_id,
        ends=_read_ends(folder, settings, backend),
        adds_bos=bos_id is not None
        and (starts[:1] == [bos_id] or settings.get("add_bos_token") is True),
        special_ids=special_ids,
        chat_template=_read_template(folder, settings),
    )


def _read_text(path: Path) -> str | None:
    """A file's text, or None when it is not there."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ModelFileError(f"{path}: over {MAX_FILE_BYTES} bytes is no file we read")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as exc:
        raise ModelFileError(f"{path}: cannot be read: {exc}") from exc


def _read_object(path: Path) -> dict[str, Any]:
    """A file's JSON object; empty when it is not there."""
    text = _read_text(path)
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ModelFileError(f"{path}: wanted JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise ModelFileError(f"{path}: wanted a JSON object, found {type(found).__name__}")
    return found


def _id_of(token: object, backend: tokenizers.Tokenizer) -> int | None:
    """The id of a token given by its text, or as an object with that text in it."""
    text = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(text) if isinstance(text, str) else None


def _read_ends(
    folder: Path, settings: Mapping[str, Any], backend: tokenizers.Tokenizer
) -> Sequence[int]:
    ends = [_id_of(settings.get("eos_token"), backend)]
    for name in ("generation_config.json", "config.json"):
        value = _read_object(folder / name).get("eos_token_id")
        ends += value if isinstance(value, list) else [value]
    known = range(backend.get_vocab_size())
    return list(dict.fromkeys(id_ for id_ in ends if isinstance(id_, int) and id_ in known))


def _read_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    template = _read_text(folder / "chat_template.jinja") or settings.get("chat_template")
    if isinstance(template, list):  # named templates: the one for chats is "default"
        named = {row.get("name"): row.get("template") for row in template if isinstance(row, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _token_bytes(
    folder: Path,
    document: Mapping[str, Any],
    added: Mapping[int, Mapping[str, Any]],
    backend: tokenizers.Tokenizer,
) -> tuple[bytes, ...]:
    """The bytes of each token; ids that the model has and the tokenizer lacks have none."""
    kind = document["model"]["type"]
    if kind != "BPE":
        raise ModelFileError(f"{folder}: wanted a BPE tokenizer, found {kind}")
    is_byte_level = '"ByteLevel"' in json.dumps(document.get("decoder"))
    has_bytes = document["model"].get("byte_fallback", False)
    found = [b""] * _vocab_size(folder, backend)
    for text, token_id in backend.get_vocab(with_added_tokens=True).items():
        if token_id in added:
            found[token_id] = b"" if added[token_id]["special"] else text.encode()
        elif is_byte_level:
            found[token_id] = spell_byte_level(text)
        elif has_bytes and len(text) == 6 and text.startswith("<0x"):
            found[token_id] = parse_byte(text)
        else:
            found[token_id] = spell_sentencepiece(text)
    return tuple(found)


def _vocab_size(folder: Path, backend: tokenizers.Tokenizer) -> int:
    """Rows of the model's embedding: at least one per token, often padded."""
    ids = backend.get_vocab(with_added_tokens=True).values()
    config = _read_object(folder / "config.json")
    nested = config.get("text_config")
    size = (nested if isinstance(nested, dict) else config).get("vocab_size", 0)
    needed = max(ids, default=-1) + 1
    if not isinstance(size, int) or max(size, needed) > _MAX_VOCAB_SIZE:
        raise ModelFileError(
            f"{folder}: a vocabulary of {size!r} and {needed} tokens makes no sense"
        )
    return max(size, needed)
