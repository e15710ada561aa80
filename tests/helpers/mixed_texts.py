"""1,000 texts that tokenizers disagree about: code, Unicode, white space, special tokens."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

_FRAGMENTS = (
    # prose and its contractions
    "The quick brown fox", "don't", "they'LL've", "I'm", " it's", "naïve café", "e.g.", "—", "…",
    "Mr. O'Neill", "über", "Straße", "iPhone", "McDonald", "HTTPServer2", "snake_case_name",
    # numbers
    "0", "42", "3.14159", "1,000,000", "1e-9", "0xFF", "2026-11-24", " 7", "½", "²", "٣٤", "Ⅷ",
    "\uff11\uff12", "  9", "\n\n1. ", "[0]",
    # code
    "def f(x: int) -> None:\n    return x + 1\n", "for (int i = 0; i < n; ++i) {\n\t", "}\n\n",
    '{"name": "get_time", "arguments": {"timezone": "UTC"}}', "</div>", "&&", "!==", "#!/bin/sh\n",
    "SELECT * FROM t WHERE a='b';", "\\n\\t", "`code`", "```python\n", "a[i][j]", "//", "::",
    "$$x^2$$",
    # white space
    " ", "  ", "   ", "        ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r", " \n", "\n ",
    "\u00a0", "\u2003", "\u3000", "\u200b", "\ufeff", "\x0b", "\x0c", "\x1c", "\x85", "\u2028",
    # other scripts
    "東京は日本の首都です", "你好\uff0c世界", "안녕하세요", "Привет, мир!", "Καλημέρα",
    "שלום", "مرحبا", "नमस्ते", "ไทย", "Tiếng Việt", "ქართული", "ß", "ŉ", "ǅ",
    # beyond the basic plane, combining, control
    "🙂", "👩\u200d👩\u200d👧", "🇩🇪", "👍🏽", "\U0001d518\U0001d52b", "e\u0301", "a\u0308\u0323",
    "\u202etext\u202c", "\x00", "\x7f", "\ufffd", "\U0010ffff", "\ue000",
    # special tokens, whole and almost
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<file_sep>", "<empty_output>",
    "<|im_start|>user\nHi<|im_end|>\n", "<|im_start", "|>", "<|im_end|", "< |im_end|>",
    "<|IM_END|>", "<tool_call>", "</tool_call>", "<unk>", "<s>", "[INST]", "<0x0A>", "Ġ", "▁", "Ċ",
)  # fmt: skip


def mixed_texts() -> list[str]:
    """Always the same 1,000 texts: every fragment alone, then random mixtures."""
    draw = random.Random(20261124)
    texts = ["", *_FRAGMENTS]
    while len(texts) < 900:
        parts = draw.choices(_FRAGMENTS, k=draw.randint(2, 12))
        texts.append(draw.choice(("", " ")).join(parts))
    while len(texts) < 1000:
        letters = [chr(_code_point(draw)) for _ in range(draw.randint(1, 40))]
        texts.append("".join(letters))
    return texts


def ids_digest(token_ids: Sequence[int]) -> str:
    """Six hexadecimal digits that stand for a list of token ids."""
    return hashlib.blake2b(repr(list(token_ids)).encode(), digest_size=3).hexdigest()


def _code_point(draw: random.Random) -> int:
    """Any character but a surrogate, mostly ASCII."""
    if draw.random() < 0.6:
        return draw.randrange(0x80)
    code_point = draw.randrange(0x80, 0x110000 - 0x800)
    return code_point if code_point < 0xD800 else code_point + 0x800
