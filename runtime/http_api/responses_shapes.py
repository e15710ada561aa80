"""What `POST /v1/responses` takes, field by field.

Every field of OpenAI's is here: what this server cannot do is refused by name, and so is a field
that nobody documents. Fields that only advise a hosted service are taken and change nothing.

Source: openai-openapi 2.3.0, `CreateResponse`; `client_metadata` is what Codex adds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from runtime.http_api.chat_shapes import (
    MAX_TOOLS,
    WHOLE,
    Effort,
    InputGrammar,
    Json,
    ObjectFormat,
    Shape,
    TemplateOptions,
)
from runtime.http_api.chat_shapes import TextFormat as PlainFormat
from runtime.http_api.responses_items import Items

Include = Literal[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]
LOGPROBS: Include = "message.output_text.logprobs"
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ],
    Field(max_length=16),
]
Caller = Literal["direct", "programmatic"]


class FunctionTool(Shape):
    """One of the client's functions; its arguments are always decoded strictly."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None
    output_schema: Json | None = None
    defer_loading: bool | None = None
    allowed_callers: list[Caller] | None = None
    is_async: Annotated[bool | None, Field(alias="async")] = None


class GrammarFormat(InputGrammar):
    """A text of a grammar."""

    type: Literal["grammar"]


class CustomTool(Shape):
    """A tool of the client's that gets a text in place of arguments."""

    type: Literal["custom"]
    name: Name
    description: str | None = None
    format: Annotated[PlainFormat | GrammarFormat, Field(discriminator="type")] | None = None
    defer_loading: bool | None = None
    allowed_callers: list[Caller] | None = None


class NamespaceTool(Shape):
    """Functions of the client's that belong together; the name of each call says to which."""

    type: Literal["namespace"]
    name: Name
    description: str | None = None
    tools: Annotated[list[FunctionTool], Field(min_length=1)]


class WebSearchTool(Shape):
    """A search that a model may make, and none here can: it is not told of it, nor are you.

    Codex offers it with every request. An answer's `tools` do not have it.
    """

    type: Literal["web_search", "web_search_2025_08_26", "web_search_preview"]
    external_web_access: bool | None = None
    filters: Json | None = None
    search_context_size: Literal["low", "medium", "high"] | None = None
    search_content_types: list[str] | None = None
    user_location: Json | None = None


class ToolFilter(Shape):
    """Some of a server's tools."""

    tool_names: list[str] | None = None
    read_only: bool | None = None


class ApprovalFilter(Shape):
    """Which calls a client wants to be asked about."""

    always: ToolFilter | None = None
    never: ToolFilter | None = None


class McpTool(Shape):
    """The tools of a tool server."""

    type: Literal["mcp"]
    server_label: Annotated[str, Field(min_length=1)]
    server_description: str | None = None
    server_url: str | None = None
    connector_id: str | None = None
    tunnel_id: str | None = None
    headers: dict[str, str] | None = None
    authorization: str | None = None
    allowed_tools: list[str] | ToolFilter | None = None
    require_approval: Literal["always", "never"] | ApprovalFilter | None = None
    defer_loading: bool | None = None
    allowed_callers: list[Caller] | None = None


AnyTool = Annotated[
    FunctionTool | CustomTool | NamespaceTool | McpTool | WebSearchTool,
    Field(discriminator="type"),
]


class FunctionChoice(Shape):
    """A function by its name."""

    type: Literal["function"]
    name: str


class CustomChoice(Shape):
    """A custom tool by its name."""

    type: Literal["custom"]
    name: str


class McpChoice(Shape):
    """A server's tool by its name, or any of its tools."""

    type: Literal["mcp"]
    server_label: str
    name: str | None = None


class AllowedChoice(Shape):
    """Of the tools, those that may be called."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[
        list[Annotated[FunctionChoice | CustomChoice | McpChoice, Field(discriminator="type")]],
        Field(min_length=1),
    ]


Choice = (
    Literal["none", "auto", "required"]
    | Annotated[
        FunctionChoice | CustomChoice | McpChoice | AllowedChoice, Field(discriminator="type")
    ]
)


class SchemaFormat(Shape):
    """JSON of a schema, always enforced strictly."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    type: Literal["json_schema"]
    name: Name
    json_schema: Annotated[Json, Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class TextOptions(Shape):
    """What the answer looks like."""

    format: (
        Annotated[PlainFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")] | None
    ) = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Shape):
    """Whether the model thinks, and how its thought is written."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    mode: str | None = None


class ConversationId(Shape):
    """A conversation by its id."""

    id: str


class StreamOptions(Shape):
    """What a stream has besides its events."""

    include_obfuscation: bool | None = None


class ContextManagement(Shape):
    """From how many tokens on a conversation is compacted before the model goes on."""

    type: Literal["compaction"]
    compact_threshold: Annotated[int, Field(ge=1000)] | None = None


class InputTokensRequest(Shape):
    """The body of `POST /v1/responses/input_tokens`; what a response's input is made of."""

    model: str | None = None
    input: Items | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationId | None = None
    tools: Annotated[list[AnyTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None
    personality: str | None = None


class ResponseRequest(InputTokensRequest):
    """The body of `POST /v1/responses`."""

    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    include: list[Include] | None = None
    max_output_tokens: Annotated[int, Field(ge=16), WHOLE] | None = None
    max_tool_calls: Annotated[int, Field(ge=0), WHOLE] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    metadata: Metadata | None = None

    top_k: Annotated[int, Field(ge=-1), WHOLE] | None = None
    min_p: Annotated[float, Field(ge=0, lt=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63), WHOLE] | None = None
    chat_template_kwargs: TemplateOptions | None = None

    prompt: Json | None = None
    context_management: Annotated[list[ContextManagement], Field(min_length=1)] | None = None
    moderation: Json | None = None
    access_programs: Json | None = None
    background_options: Json | None = None
    client_metadata: Json | None = None
    image: Json | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Json | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    safety_identifier: str | None = None
    service_tier: (
        Literal["auto", "default", "flex", "priority", "scale", "fast", "ultrafast"] | None
    ) = None
    user: str | None = None
