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
# A word ends where capitals begin again; digits stand alone.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT_4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDING}|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One way to split text.

    Attributes:
        expression: matches the parts; None for GPT-2's own, which `tokenizers` has built in.
        single_digits: every digit is cut off before the expression sees the text.
        ignore_merges: a part that is a token stays whole, whatever the merges say.
        adds_bos: a prompt starts with BOS where the file does not say.
    """

    expression: str | None = None
    single_digits: bool = False
    ignore_merges: bool = False
    adds_bos: bool = False

    def json(self) -> dict[str, Any]:
        """The `pre_tokenizer` of a tokenizer.json."""
        splits: list[dict[str, Any]] = []
        if self.single_digits:
            splits.append({"type": "Digits", "individual_digits": True})
        if self.expression is not None:
            splits.append(
                {
                    "type": "Split",
                    "pattern": {"Regex": self.expression},
                    "behavior": "Isolated",
                    "invert": False,
                }
            )
        byte_level = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": self.expression is None,
        }
        if not splits:
            return byte_level
        return {"type": "Sequence", "pretokenizers": [*splits, byte_level]}


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
    # SmolLM3 and other relatives of Llama 3 whose tokenizer.json says nothing of `ignore_merges`.
    "smaug-bpe": PreTokenizer(_LLAMA3),
    "dbrx": PreTokenizer(_LLAMA3),  # Phi-4, Granite 4
    "tekken": PreTokenizer(_TEKKEN, ignore_merges=True, adds_bos=True),  # Mistral from Nemo on
    "gpt-4o": PreTokenizer(_GPT_4O),  # Phi-4-mini
    "refact": PreTokenizer(single_digits=True),  # Granite 3
    "starcoder": PreTokenizer(single_digits=True),
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
