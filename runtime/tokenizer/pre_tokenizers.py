"""How byte-level vocabularies split text before merging: one row per `tokenizer.ggml.pre`.

A wrong row gives plausible but wrong ids, so an unknown name is refused.

Source: llama.cpp `llama-vocab.cpp` (names, BOS, `ignore_merges`); the models' own
`tokenizer.json` (expressions).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.errors import ModelFileError
from tools.errors import suggest

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One way to split text.

    Attributes:
        expression: matches the parts; None for GPT-2's own, which `tokenizers` has built in.
        ignore_merges: a part that is a token stays whole, whatever the merges say.
        adds_bos: a prompt starts with BOS where the file does not say.
    """

    expression: str | None = None
    ignore_merges: bool = False
    adds_bos: bool = False

    def json(self) -> dict[str, Any]:
        """The `pre_tokenizer` of a tokenizer.json."""
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        if self.expression is None:
            return byte_level | {"use_regex": True}
        split = {
            "type": "Split",
            "pattern": {"Regex": self.expression},
            "behavior": "Isolated",
            "invert": False,
        }
        return {"type": "Sequence", "pretokenizers": [split, byte_level | {"use_regex": False}]}


_LLAMA3_ROW = PreTokenizer(_LLAMA3, ignore_merges=True, adds_bos=True)

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    "gpt-2": PreTokenizer(),
    # SmolLM's own tokenizer.json cuts off each digit first: other ids for several white spaces
    # before a digit and for some non-ASCII numbers. We read the file as transformers does.
    "smollm": PreTokenizer(),
    "llama-bpe": _LLAMA3_ROW,
    "llama3": _LLAMA3_ROW,
    "llama-v3": _LLAMA3_ROW,
    "qwen2": PreTokenizer(_QWEN2),
    "deepseek-r1-qwen": PreTokenizer(_QWEN2),
}


def find_pre_tokenizer(metadata: Mapping[str, Any]) -> PreTokenizer:
    """The row a checkpoint's metadata names.

    Raises:
        ModelFileError: no such row, or the file does not say.
    """
    name = metadata.get("tokenizer.ggml.pre")
    if name is None and metadata.get("general.architecture") == "gpt2":
        name = "gpt-2"
    row = PRE_TOKENIZERS.get(name) if isinstance(name, str) else None
    if row is None:
        hint = suggest(str(name), PRE_TOKENIZERS)
        raise ModelFileError(f"tokenizer.ggml.pre is {name!r}, which we cannot split{hint}")
    return row
