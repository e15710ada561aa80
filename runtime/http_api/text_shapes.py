"""What completions, embeddings and the routes about tokens take, field by field.

Source: openai-openapi 2.3.0, `CreateCompletionRequest` and `CreateEmbeddingRequest`; vLLM's
`/tokenize` and `/detokenize`; llama.cpp's `/tokenize`, `/detokenize` and `/apply-template`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runtime.http_api.chat_shapes import (
    WHOLE,
    AnyMessage,
    AnyTool,
    Drawn,
    Shape,
    TemplateOptions,
)

MAX_TEXTS = 2048

TokenId = Annotated[int, Field(ge=0, lt=2**31), WHOLE]
MAX_TOKENS = 2**24  # no context is that long, and no body
Tokens = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_TOKENS)]
Prompt = (
    str
    | Tokens
    | Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS)]
    | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_TEXTS)]
)
"""A text, its tokens, or several of either."""


class CompletionRequest(Drawn):
    """The body of `POST /v1/completions`."""

    model: str
    prompt: Prompt
    suffix: str | None = None
    ignore_eos: bool | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5), WHOLE] | None = None


class EmbeddingRequest(Shape):
    """The body of `POST /v1/embeddings`."""

    model: str
    input: Prompt
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1), WHOLE] | None = None
    user: str | None = None


class TokenizeRequest(Shape):
    """The body of `POST /tokenize`: a text or a conversation, as vLLM or llama.cpp takes it.

    Exactly one of `prompt`, `messages` and `content` is there.
    """

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[AnyMessage], Field(min_length=1)] | None = None
    tools: list[AnyTool] | None = None
    chat_template_kwargs: TemplateOptions | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None

    content: str | None = None
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeRequest(Shape):
    """The body of `POST /detokenize`."""

    model: str | None = None
    tokens: Annotated[list[TokenId], Field(max_length=MAX_TOKENS)]


class TemplateRequest(Shape):
    """The body of `POST /apply-template`."""

    model: str | None = None
    messages: Annotated[list[AnyMessage], Field(min_length=1)]
    tools: list[AnyTool] | None = None
    chat_template_kwargs: TemplateOptions | None = None
