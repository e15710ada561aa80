"""Checkpoint metadata to a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.errors import ModelFileError
from runtime.tokenizer.decoder import IncrementalDecoder
from runtime.tokenizer.pieces import Pieces, get_value, read_pieces, token_bytes
from runtime.tokenizer.pre_tokenizers import find_pre_tokenizer
from runtime.tokenizer.tokenizer import Tokenizer
from runtime.tokenizer.tokenizer_json import byte_level_json, sentencepiece_json

__all__ = ["IncrementalDecoder", "Tokenizer", "load_tokenizer"]

# How models spell the end of a turn or text where the file names only one of them.
_STOP_TOKENS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<｜end▁of▁sentence｜>",  # noqa: RUF001 DeepSeek's own spelling
)


def load_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer that a checkpoint's metadata describes.

    Takes 0.2 s for 49,152 tokens; run it in a thread.

    Raises:
        ModelFileError: keys are missing, contradict each other, or name a way of splitting
            text that is not known.
    """
    pieces = read_pieces(metadata)
    if pieces.kind == "gpt2":
        pre_tokenizer = find_pre_tokenizer(metadata)
        json = byte_level_json(pieces, pre_tokenizer)
        adds_bos = pre_tokenizer.adds_bos
    else:
        adds_space = metadata.get("tokenizer.ggml.add_space_prefix", True)
        json = sentencepiece_json(pieces, adds_space=adds_space)
        adds_bos = True
    template = None
    if "tokenizer.chat_template" in metadata:
        template = get_value(metadata, "tokenizer.chat_template", str)
    stop_ids = _stop_ids(pieces)
    bos_id = pieces.named_ids.get("bos")
    return Tokenizer(
        json,
        token_bytes(pieces),
        bos_id=bos_id,
        eos_id=pieces.named_ids.get("eos", min(stop_ids)),
        adds_bos=bos_id is not None
        and bool(metadata.get("tokenizer.ggml.add_bos_token", adds_bos)),
        stop_ids=stop_ids,
        special_ids=pieces.special_ids,
        chat_template=template,
    )


def _stop_ids(pieces: Pieces) -> frozenset[int]:
    named = {pieces.named_ids[name] for name in ("eos", "eot", "eom") if name in pieces.named_ids}
    special_ids = pieces.special_ids
    spelled = {special_ids[text] for text in _STOP_TOKENS if text in special_ids}
    if not named | spelled:
        raise ModelFileError("wanted tokenizer.ggml.eos_token_id in the model file, found nothing")
    return frozenset(named | spelled)
