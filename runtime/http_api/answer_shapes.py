"""What the routes answer, field by field, as the API's document shows it.

Answers are written as plain objects; the tests hold them against these shapes.
Source: openai-openapi 2.3.0; vLLM's `/tokenize`, llama.cpp's `/tokenize`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from runtime.http_api.chat_shapes import CustomCall, Json, Shape

Ended = Literal["stop", "length", "tool_calls", "function_call"]


class ErrorDetail(Shape):
    """Why a request was not answered as asked."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Shape):
    """An error."""

    error: ErrorDetail


class ModelAnswer(Shape):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelsAnswer(Shape):
    """All models that are served."""

    object: Literal["list"]
    data: list[ModelAnswer]


class PromptDetails(Shape):
    """Of a prompt's tokens."""

    cached_tokens: int
    audio_tokens: int


class CompletionDetails(Shape):
    """What the tokens of an answer were for."""

    reasoning_tokens: int
    audio_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class UsageAnswer(Shape):
    """Tokens that an answer took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails | None = None


class TokenLogprob(Shape):
    """A token by itself."""

    token: str
    logprob: float
    bytes: list[int]


class ScoredToken(TokenLogprob):
    """A token of an answer, and the likeliest in its place."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(Shape):
    """Log-probabilities of the tokens of a message's content."""

    content: list[ScoredToken]
    refusal: None


class CalledFunction(Shape):
    """A function's name and its arguments as JSON text."""

    name: str
    arguments: str


class AnsweredCall(Shape):
    """A call that the model wants made."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnsweredCustomCall(Shape):
    """A call of a custom tool that the model wants made."""

    id: str
    type: Literal["custom"]
    custom: CustomCall


class AnsweredMessage(Shape):
    """What the model said."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: list[Json]
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[AnsweredCall | AnsweredCustomCall] | None = None
    function_call: CalledFunction | None = None


class ChatChoice(Shape):
    """One of the answers."""

    index: int
    message: AnsweredMessage
    logprobs: ChatLogprobs | None
    finish_reason: Ended


class ChatAnswer(Shape):
    """A chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    service_tier: str
    system_fingerprint: None
    choices: list[ChatChoice]
    usage: UsageAnswer
    metadata: dict[str, str] | None = None


class TextTokens(Shape):
    """Log-probabilities of a text's tokens, and where in the text each begins."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Shape):
    """One of the texts."""

    index: int
    text: str
    logprobs: TextTokens | None
    finish_reason: Literal["stop", "length"]


class CompletionAnswer(Shape):
    """A completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageAnswer


class EmbeddingAnswer(Shape):
    """A vector: numbers, or little-endian float32 numbers in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Shape):
    """Tokens that the texts have."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(Shape):
    """Vectors in the order of the texts."""

    object: Literal["list"]
    data: list[EmbeddingAnswer]
    model: str
    usage: EmbeddingUsage


class TokensAnswer(Shape):
    """Tokens of a prompt or a conversation."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class TokenPiece(Shape):
    """A token and its text, or its bytes where they are no text."""

    id: int
    piece: str | list[int]


class ContentTokensAnswer(Shape):
    """Tokens of a content."""

    tokens: list[int] | list[TokenPiece]


class TextAnswer(Shape):
    """Tokens' text, by the names of both shapes."""

    prompt: str
    content: str


class PromptAnswer(Shape):
    """A conversation as the model would read it."""

    prompt: str = Field(description="Control tokens are written as they are spelled.")


class StoredPage(Shape):
    """Some of the stored completions."""

    object: Literal["list"]
    data: list[ChatAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class MessagesPage(Shape):
    """Some of the messages that a stored completion answers."""

    object: Literal["list"]
    data: list[Json]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ModelDeletedAnswer(Shape):
    """Which model is not loaded any more."""

    object: Literal["model"]
    id: str
    deleted: bool


class DeletedAnswer(Shape):
    """What was deleted."""

    object: Literal["chat.completion.deleted"]
    id: str
    deleted: bool
