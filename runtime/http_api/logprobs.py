"""Log-probabilities of tokens as OpenAI writes them: of chats, responses and plain completions.

They are the model's own, before temperature, biases, penalties and grammar.
Source: openai-openapi 2.3.0, `ChatCompletionTokenLogprob` and `CreateCompletionResponse`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from runtime.request import TokenScore
from runtime.tokenizer.tokenizer import Tokenizer
from tools.spec import JsonObject

UNLIKELY = -9999.0
"""Stands for the logarithm of 0, which JSON cannot write."""


def write_chat_logprobs(scores: Iterable[TokenScore], tokenizer: Tokenizer) -> JsonObject:
    """The `logprobs` of a chat's choice."""
    return {"content": write_scores(scores, tokenizer), "refusal": None}


def write_scores(scores: Iterable[TokenScore], tokenizer: Tokenizer) -> list[JsonObject]:
    """Each token of a text, as chats and responses write it."""
    return [
        {
            **_token(score.token_id, score.logprob, tokenizer),
            "top_logprobs": [_token(*one, tokenizer) for one in score.top],
        }
        for score in scores
    ]


def _token(token_id: int, logprob: float, tokenizer: Tokenizer) -> JsonObject:
    spelled = tokenizer.spell(token_id)
    return {
        "token": spelled.decode("utf-8", "replace"),
        "logprob": _finite(logprob),
        "bytes": list(spelled),
    }


class TextLogprobs:
    """Writes the `logprobs` of a completion's choice, all of it or piece by piece.

    The first token begins `offset` characters after the text's beginning.
    """

    def __init__(self, tokenizer: Tokenizer, *, offset: int = 0) -> None:
        self._tokenizer = tokenizer
        self._decoder = tokenizer.decoder()
        self._offset = offset

    def write(
        self, tokens: Iterable[tuple[int, TokenScore | None]], end: int | None = None
    ) -> JsonObject:
        """Write the next tokens, but none that begins at `end`, a number of characters, or after.

        A token without a score is the first of all: nothing stands before it.
        """
        found: list[tuple[str, float | None, dict[str, float] | None, int]] = []
        for token_id, score in tokens:
            if end is not None and self._offset >= end:
                break
            top = None
            if score is not None:
                pairs = (*score.top, (token_id, score.logprob))
                top = {self._name(one): _finite(logprob) for one, logprob in pairs}
            logprob = None if score is None else _finite(score.logprob)
            found.append((self._name(token_id), logprob, top, self._offset))
            self._offset += len(self._decoder.push((token_id,)))
        names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        return {name: [one[at] for one in found] for at, name in enumerate(names)}

    def _name(self, token_id: int) -> str:
        return self._tokenizer.spell(token_id).decode("utf-8", "replace")


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else UNLIKELY
