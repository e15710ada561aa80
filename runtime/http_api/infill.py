"""Text between a prompt and a suffix, in the way that models of code are trained to fill it in.

Source: Bavarian et al., arXiv 2207.14255, prefix-suffix-middle order; the control tokens are those
of StarCoder, Qwen Coder and CodeGemma, Code Llama, and DeepSeek Coder.
"""

from __future__ import annotations

from runtime.http_api.faults import bad_request
from runtime.tokenizer.tokenizer import Tokenizer

_MARKERS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),
    ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
)


def read_gap(prompt: str, suffix: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens after which a model writes what stands between two texts.

    Raises:
        FaultError: the model has no tokens for that.
    """
    special_ids = tokenizer.special_ids
    for markers in _MARKERS:
        if all(marker in special_ids for marker in markers):
            before, after, middle = (special_ids[marker] for marker in markers)
            whole = [before, *tokenizer.encode(prompt), after, *tokenizer.encode(suffix), middle]
            starts = (
                [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
            )
            return (*starts, *whole)
    text = "this model has no tokens that mark a gap to be filled; ask one that is made for code"
    raise bad_request(text, "suffix")
