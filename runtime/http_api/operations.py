"""The operations of OpenAI's API, and of the routes about tokens, for the API's document."""

from __future__ import annotations

from runtime.http_api.answer_shapes import (
    ChatAnswer,
    CompletionAnswer,
    ContentTokensAnswer,
    DeletedAnswer,
    EmbeddingsAnswer,
    MessagesPage,
    ModelAnswer,
    ModelDeletedAnswer,
    ModelsAnswer,
    PromptAnswer,
    StoredPage,
    TextAnswer,
    TokensAnswer,
)
from runtime.http_api.chat_shapes import ChatRequest, UpdateRequest
from runtime.http_api.openapi import Operation
from runtime.http_api.text_shapes import (
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TemplateRequest,
    TokenizeRequest,
)

STORED = "/v1/chat/completions/{completion_id}"

OPERATIONS = (
    Operation(
        "post",
        "/v1/chat/completions",
        "Answer a conversation",
        (ChatAnswer,),
        ChatRequest,
        streams=True,
    ),
    Operation("get", "/v1/chat/completions", "List stored completions", (StoredPage,)),
    Operation("get", STORED, "Show a stored completion", (ChatAnswer,)),
    Operation("post", STORED, "Change its metadata", (ChatAnswer,), UpdateRequest),
    Operation("delete", STORED, "Forget a stored completion", (DeletedAnswer,)),
    Operation("get", f"{STORED}/messages", "List what it answers", (MessagesPage,)),
    Operation(
        "post",
        "/v1/completions",
        "Go on from a text",
        (CompletionAnswer,),
        CompletionRequest,
        streams=True,
    ),
    Operation(
        "post", "/v1/embeddings", "Turn texts into vectors", (EmbeddingsAnswer,), EmbeddingRequest
    ),
    Operation("get", "/v1/models", "List the models", (ModelsAnswer,)),
    Operation("get", "/v1/models/{model}", "Describe a model", (ModelAnswer,)),
    Operation("delete", "/v1/models/{model}", "Unload a model", (ModelDeletedAnswer,)),
    Operation(
        "post",
        "/tokenize",
        "Cut a text or a conversation into tokens",
        (TokensAnswer, ContentTokensAnswer),
        TokenizeRequest,
    ),
    Operation("post", "/detokenize", "Join tokens to a text", (TextAnswer,), DetokenizeRequest),
    Operation("post", "/apply-template", "Render a conversation", (PromptAnswer,), TemplateRequest),
)
