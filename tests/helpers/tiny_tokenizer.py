"""A tokenizer over the vocabulary of the tiny checkpoints, with special tokens to taste."""

from __future__ import annotations

import numpy as np

from runtime.tokenizer import load_tokenizer
from runtime.tokenizer.tokenizer import Tokenizer
from tests.helpers.tiny_gguf import tiny_vocabulary


def tiny_tokenizer(*special_tokens: str, chat_template: str | None = None) -> Tokenizer:
    """Build it; `special_tokens` join the vocabulary as control tokens."""
    metadata = tiny_vocabulary(*special_tokens)
    metadata["tokenizer.ggml.token_type"] = np.array(metadata["tokenizer.ggml.token_type"])
    if chat_template is not None:
        metadata["tokenizer.chat_template"] = chat_template
    return load_tokenizer(metadata)
