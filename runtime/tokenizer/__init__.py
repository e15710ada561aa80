"""Checkpoint metadata to a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from runtime.errors import ModelFileError
from runtime.tokenizer.decoder import IncrementalDecoder
from runtime.tokenizer.derived import load_or_derive
from runtime.tokenizer.folder import read_folder
from runtime.tokenizer.pieces import get_value, read_pieces, token_bytes
from runtime.tokenizer.pre_tokenizers import find_pre_tokenizer
from runtime.tokenizer.tokenizer import Tokenizer
from runtime.tokenizer.tokenizer_json import byte_level_json, sentencepiece_json

__all__ = ["IncrementalDecoder", "Tokenizer", "load_folder_tokenizer", "load_tokenizer"]

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
    "<|call|>",
    "<|return|>",
    "<turn|>",
    "<|tool_response>",
    "<start_function_response>",
    "<|observation|>",
)
_CHANNELS = "<|channel|>"


def load_tokenizer(metadata: Mapping[str, Any], cache_dir: Path | None = None) -> Tokenizer:
    """Build the tokenizer that a checkpoint's metadata describes.

    Takes 0.2 s for 49,152 tokens; run it in a thread. A SentencePiece vocabulary of 262,144
    takes 5 s, or 1.5 s when `cache_dir` has what was derived from it before.

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
        adds_space = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
        derive = partial(sentencepiece_json, pieces, adds_space=adds_space)
        if cache_dir is None:
            json = derive()
        else:
            json = load_or_derive(pieces, adds_space, cache_dir / "tokenizers", derive)
        adds_bos = True
    template = None
    if "tokenizer.chat_template" in metadata:
        template = get_value(metadata, "tokenizer.chat_template", str)
    bos_id = pieces.named_ids.get("bos")
    ends = [pieces.named_ids[name] for name in ("eos", "eot", "eom") if name in pieces.named_ids]
    stop_ids = _stop_ids(ends, pieces.special_ids, "tokenizer.ggml.eos_token_id")
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


def load_folder_tokenizer(folder: Path) -> Tokenizer:
    """Build the tokenizer of a folder of safetensors: its `tokenizer.json` as it is.

    Raises:
        ModelFileError: files are missing, damaged, contradict each other, or describe a
            tokenizer that is not BPE.
    """
    found = read_folder(folder)
    stop_ids = _stop_ids(found.ends, found.special_ids, "eos_token_id")
    return Tokenizer(
        found.json,
        found.token_bytes,
        bos_id=found.bos_id,
        eos_id=found.ends[0] if found.ends else min(stop_ids),
        adds_bos=found.adds_bos,
        stop_ids=stop_ids,
        special_ids=found.special_ids,
        chat_template=found.chat_template,
    )


def _stop_ids(ends: Sequence[int], special_ids: Mapping[str, int], wanted: str) -> frozenset[int]:
    spelled = {special_ids[text] for text in _STOP_TOKENS if text in special_ids}
    if _CHANNELS in special_ids:  # there it ends a channel's message, not the turn
        spelled.discard(special_ids.get("<|end|>", -1))
    if not spelled.union(ends):
        raise ModelFileError(f"wanted {wanted} in the model file, found nothing")
    return frozenset(spelled.union(ends))
