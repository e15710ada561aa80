"""The operations of OpenAI's and Anthropic's APIs, and of the routes about tokens.

They are what the API's document shows.
"""

from __future__ import annotations

from functools import partial
from typing import get_args

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
from runtime.http_api.conversations import AddedItems, ChangedConversation, NewConversation
from runtime.http_api.messages_answer_shapes import (
    CountAnswer,
    EitherErrorAnswer,
    MessageAnswer,
    MessageErrorAnswer,
    ModelInfo,
    ModelInfoPage,
)
from runtime.http_api.messages_shapes import CountRequest, MessagesRequest
from runtime.http_api.openapi import Operation, Parameter
from runtime.http_api.responses import MAX_EVENTS
from runtime.http_api.responses_answer_shapes import (
    CompactedAnswer,
    ConversationAnswer,
    DeletedConversation,
    DeletedResponse,
    InputTokensAnswer,
    ItemAnswer,
    ItemsPage,
    ResponseAnswer,
)
from runtime.http_api.responses_compact import CompactRequest
from runtime.http_api.responses_pages import MAX_PAGE
from runtime.http_api.responses_shapes import Include, InputTokensRequest, ResponseRequest
from runtime.http_api.text_shapes import (
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TemplateRequest,
    TokenizeRequest,
)
from tools.spec import JsonObject

CHATS = "/v1/chat/completions"
STORED = f"{CHATS}/{{completion_id}}"
RESPONSES = "/v1/responses"
RESPONSE = f"{RESPONSES}/{{response_id}}"
CONVERSATIONS = "/v1/conversations"
CONVERSATION = f"{CONVERSATIONS}/{{conversation_id}}"
ITEMS = f"{CONVERSATION}/items"

_SAID: list[JsonObject] = [{"role": "user", "content": "Hello!"}]
_METADATA: JsonObject = {"metadata": {"topic": "greetings"}}

_TEXT: JsonObject = {"type": "string"}
_ORDER = Parameter("order", {"type": "string", "enum": ["asc", "desc"]})
_LIMIT: JsonObject = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE}
_INCLUDED = list(get_args(Include))
_INCLUDE = Parameter("include[]", {"type": "array", "items": {"type": "string", "enum": _INCLUDED}})
_PAGE = (Parameter("after", _TEXT), Parameter("limit", _LIMIT), _ORDER)
_PAGE_OF_CHATS = (
    Parameter("after", _TEXT),
    Parameter("limit", {"type": "integer", "minimum": 0}),
    _ORDER,
)
_VERSION = Parameter("anthropic-version", _TEXT, "header")

_anthropic = partial(Operation, error=MessageErrorAnswer, overloaded=529)

OPERATIONS = (
    Operation(
        "post",
        CHATS,
        "Answer a conversation",
        (ChatAnswer,),
        ChatRequest,
        {"messages": _SAID, "max_completion_tokens": 16, "store": True},
        streams=True,
        tells={"query.model": "/model"},
    ),
    Operation(
        "get",
        CHATS,
        "List stored completions",
        (StoredPage,),
        parameters=(
            *_PAGE_OF_CHATS,
            Parameter("model", _TEXT),
            # Whatever its values were, in a query they are texts.
            Parameter("metadata", {"type": "object"}, is_object=True),
        ),
        tells={"completion_id": "/data/0/id"},
    ),
    Operation("get", STORED, "Show a stored completion", (ChatAnswer,)),
    Operation("post", STORED, "Change its metadata", (ChatAnswer,), UpdateRequest, _METADATA),
    Operation("delete", STORED, "Forget a stored completion", (DeletedAnswer,)),
    Operation(
        "get",
        f"{STORED}/messages",
        "List what it answers",
        (MessagesPage,),
        parameters=_PAGE_OF_CHATS,
    ),
    Operation(
        "post",
        "/v1/completions",
        "Go on from a text",
        (CompletionAnswer,),
        CompletionRequest,
        {"prompt": "Once upon a time", "max_tokens": 16},
        streams=True,
    ),
    Operation(
        "post",
        "/v1/embeddings",
        "Turn texts into vectors",
        (EmbeddingsAnswer,),
        EmbeddingRequest,
        {"input": ["a text", "another"]},
    ),
    Operation(
        "get",
        "/v1/models",
        "List the models, as Anthropic's API does for who names its version",
        (ModelsAnswer, ModelInfoPage),
        error=EitherErrorAnswer,
        parameters=(_VERSION,),
        tells={"model": "/data/0/id", "body.model": "/data/0/id"},
    ),
    Operation(
        "get",
        "/v1/models/{model}",
        "Describe a model",
        (ModelAnswer, ModelInfo),
        error=EitherErrorAnswer,
        parameters=(_VERSION,),
    ),
    Operation(
        "post",
        RESPONSES,
        "Answer, with tools of tool servers too",
        (ResponseAnswer,),
        ResponseRequest,
        {"input": "Hello!", "max_output_tokens": 16},
        streams=True,
        tells={"response_id": "/id", "body.previous_response_id": "/id"},
    ),
    Operation(
        "post",
        f"{RESPONSES}/input_tokens",
        "Count the tokens of a response's input",
        (InputTokensAnswer,),
        InputTokensRequest,
        {"input": "Hello!"},
    ),
    Operation(
        "post",
        f"{RESPONSES}/compact",
        "Make a conversation short",
        (CompactedAnswer,),
        CompactRequest,
        {"input": "Hello!"},
    ),
    Operation(
        "get",
        RESPONSE,
        "Show a response",
        (ResponseAnswer,),
        streams=True,
        parameters=(
            Parameter("stream", {"type": "boolean"}),
            Parameter("starting_after", {"type": "integer", "minimum": 0, "maximum": MAX_EVENTS}),
            Parameter("include_obfuscation", {"type": "boolean"}),
            _INCLUDE,
        ),
    ),
    Operation("delete", RESPONSE, "Forget a response", (DeletedResponse,)),
    Operation("post", f"{RESPONSE}/cancel", "End a response", (ResponseAnswer,)),
    Operation(
        "get",
        f"{RESPONSE}/input_items",
        "List what it was made of",
        (ItemsPage,),
        parameters=(*_PAGE, _INCLUDE),
    ),
    Operation(
        "post",
        CONVERSATIONS,
        "Begin a conversation",
        (ConversationAnswer,),
        NewConversation,
        {"items": _SAID, **_METADATA},
        tells={"conversation_id": "/id", "body.conversation": "/id"},
    ),
    Operation("get", CONVERSATION, "Show a conversation", (ConversationAnswer,)),
    Operation(
        "post",
        CONVERSATION,
        "Change its metadata",
        (ConversationAnswer,),
        ChangedConversation,
        _METADATA,
    ),
    Operation("delete", CONVERSATION, "Forget a conversation", (DeletedConversation,)),
    Operation(
        "get",
        ITEMS,
        "List a conversation's items",
        (ItemsPage,),
        parameters=(*_PAGE, _INCLUDE),
        tells={"item_id": "/data/0/id"},
    ),
    Operation(
        "post",
        ITEMS,
        "Add items to a conversation",
        (ItemsPage,),
        AddedItems,
        {"items": _SAID},
        parameters=(_INCLUDE,),
        tells={"item_id": "/data/0/id"},
    ),
    Operation("get", f"{ITEMS}/{{item_id}}", "Show an item", (ItemAnswer,), parameters=(_INCLUDE,)),
    Operation("delete", f"{ITEMS}/{{item_id}}", "Remove an item", (ConversationAnswer,)),
    _anthropic(
        "post",
        "/v1/messages",
        "Answer a conversation, in Anthropic's way",
        (MessageAnswer,),
        MessagesRequest,
        {"messages": _SAID, "max_tokens": 16},
        streams=True,
    ),
    _anthropic(
        "post",
        "/v1/messages/count_tokens",
        "Count the tokens of a message's prompt",
        (CountAnswer,),
        CountRequest,
        {"messages": _SAID},
    ),
    Operation("delete", "/v1/models/{model}", "Unload a model", (ModelDeletedAnswer,)),
    Operation(
        "post",
        "/tokenize",
        "Cut a text or a conversation into tokens",
        (TokensAnswer, ContentTokensAnswer),
        TokenizeRequest,
        {"content": "Hello!"},
    ),
    Operation(
        "post",
        "/detokenize",
        "Join tokens to a text",
        (TextAnswer,),
        DetokenizeRequest,
        {"tokens": [3, 4, 5]},
    ),
    Operation(
        "post",
        "/apply-template",
        "Render a conversation",
        (PromptAnswer,),
        TemplateRequest,
        {"messages": _SAID},
    ),
)
