"""What `POST /v1/messages` and `/v1/messages/count_tokens` take, field by field.

Every field of Anthropic's is here: what this server cannot do is refused by name, and so is a
field that nobody documents. Fields that only advise a hosted service (whom to bill, where to
compute, what to cache and for how long) are taken and change nothing: prefixes are cached anyway.

Source: anthropic 2.14, `types/message_create_params.py` and `types/beta/message_create_params.py`;
`temperature`, `top_k` and `top_p` are those of its older versions.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from runtime.http_api.chat_shapes import MAX_TOOLS, WHOLE, Json, Shape

Effort = Literal["low", "medium", "high", "xhigh", "max"]
Display = Literal["summarized", "omitted"]

UNREADABLE = Literal[
    "image",
    "container_upload",
    "compaction",
    "browser_state",
    "fallback",
    "server_tool_use",
    "mcp_tool_use",
    "mcp_tool_result",
    "mcp_tool_listing",
    "advisor_tool_result",
    "web_search_tool_result",
    "web_fetch_tool_result",
    "code_execution_tool_result",
    "bash_code_execution_tool_result",
    "text_editor_code_execution_tool_result",
    "tool_search_tool_result",
]


class CacheControl(Shape):
    """Where a prefix worth caching ends."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None
    scope: Literal["global", "organization"] | None = None


class Block(Shape):
    """A part of a turn."""

    cache_control: CacheControl | None = None


class TextBlock(Block):
    """A text."""

    type: Literal["text"]
    text: str
    citations: list[Json] | None = None


class ThinkingBlock(Shape):
    """What the model thought; ours bear a signature that holds thoughts which were not shown."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class RedactedThinkingBlock(Shape):
    """Thoughts that only the service which wrote them can read."""

    type: Literal["redacted_thinking"]
    data: str


class Caller(Shape):
    """Who called a tool: the model itself."""

    type: Literal["direct"]


class ToolUseBlock(Block):
    """A call that the model made."""

    type: Literal["tool_use"]
    id: Annotated[str, Field(min_length=1)]
    name: str
    input: Json
    caller: Caller | None = None
    toolset_name: None = None


class UnreadableBlock(Shape, extra="allow"):
    """A part that no text model reads, or that only Anthropic's own tools write."""

    type: UNREADABLE


class PlainSource(Shape):
    """A document's text."""

    type: Literal["text"]
    data: str
    media_type: Literal["text/plain"]


class BlocksSource(Shape):
    """A document as blocks."""

    type: Literal["content"]
    content: str | list[Annotated[TextBlock | UnreadableBlock, Field(discriminator="type")]]


class UnreadableSource(Shape, extra="allow"):
    """A document that is not text, or is somewhere else."""

    type: Literal["base64", "url", "file"]


class Citations(Shape):
    """Whether answers cite a document."""

    enabled: bool | None = None


class DocumentBlock(Block):
    """A document."""

    type: Literal["document"]
    source: Annotated[PlainSource | BlocksSource | UnreadableSource, Field(discriminator="type")]
    title: str | None = None
    context: str | None = None
    citations: Citations | None = None


class SearchResultBlock(Block):
    """A page that a search found."""

    type: Literal["search_result"]
    source: str
    title: str
    content: list[TextBlock]
    citations: Citations | None = None


class ToolReferenceBlock(Block):
    """A tool, declared with `defer_loading`, that the model is told of here."""

    type: Literal["tool_reference"]
    tool_name: str


ResultBlock = Annotated[
    TextBlock | DocumentBlock | SearchResultBlock | ToolReferenceBlock | UnreadableBlock,
    Field(discriminator="type"),
]


class ToolResultBlock(Block):
    """What a call returned."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[ResultBlock] | None = None
    is_error: bool | None = None
    toolset_name: None = None


class NamedTool(Shape):
    """A tool of the request by its name."""

    type: Literal["tool_reference"]
    name: str


class ToolChangeBlock(Block):
    """From here on a tool may, or may no longer, be called."""

    type: Literal["tool_addition", "tool_removal"]
    tool: NamedTool


UserBlock = Annotated[
    TextBlock | DocumentBlock | SearchResultBlock | ToolResultBlock | UnreadableBlock,
    Field(discriminator="type"),
]
AssistantBlock = Annotated[
    TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | UnreadableBlock,
    Field(discriminator="type"),
]
SystemBlock = Annotated[TextBlock | ToolChangeBlock, Field(discriminator="type")]


class UserTurn(Shape):
    """What a person says, and what calls returned."""

    role: Literal["user"]
    content: str | list[UserBlock]


class AssistantTurn(Shape):
    """What the model said."""

    role: Literal["assistant"]
    content: str | list[AssistantBlock]


class TurnOptions(Shape):
    """What a system message asks of the turns after it."""

    effort: Effort | None = None


class SystemTurn(Shape):
    """Instructions in the middle of a conversation."""

    role: Literal["system"]
    content: str | list[SystemBlock] = ""
    clear_at: Literal["next_user_message", "never"] | None = None
    output_config: TurnOptions | None = None


AnyTurn = Annotated[UserTurn | AssistantTurn | SystemTurn, Field(discriminator="role")]


class CustomTool(Shape):
    """A tool of the client's; its calls are always decoded under its schema."""

    type: Literal["custom"] | None = None
    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_-]+$")]
    input_schema: Json
    description: str = ""
    input_examples: list[Json] | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None
    allowed_callers: list[str] | None = None


class HostedTool(Shape, extra="allow"):
    """A tool that Anthropic runs, or whose schema only hosted models know."""

    type: str


def _kind_of_tool(tool: object) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return "own" if kind is None or kind == "custom" else "hosted"


AnyTool = Annotated[
    Annotated[CustomTool, Tag("own")] | Annotated[HostedTool, Tag("hosted")],
    Discriminator(_kind_of_tool),
]


class AutoChoice(Shape):
    """The model decides whether to call."""

    type: Literal["auto"]
    disable_parallel_tool_use: bool = False


class AnyChoice(Shape):
    """Some tool is called."""

    type: Literal["any"]
    disable_parallel_tool_use: bool = False


class NamedChoice(Shape):
    """This tool is called."""

    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool = False


class NoChoice(Shape):
    """No tool is called."""

    type: Literal["none"]


AnyToolChoice = Annotated[
    AutoChoice | AnyChoice | NamedChoice | NoChoice, Field(discriminator="type")
]


class ThinkingEnabled(Shape):
    """The model thinks; how long is a target, of hosted models too."""

    type: Literal["enabled"]
    budget_tokens: Annotated[int, Field(ge=1024), WHOLE]
    display: Display | None = None


class ThinkingAdaptive(Shape):
    """The model thinks if it wants to."""

    type: Literal["adaptive"]
    display: Display | None = None


class ThinkingBetweenTools(Shape):
    """The model thinks about what calls returned, not about what it was asked."""

    type: Literal["between_tools"]


class ThinkingDisabled(Shape):
    """The model does not think."""

    type: Literal["disabled"]


Thinking = Annotated[
    ThinkingEnabled | ThinkingAdaptive | ThinkingBetweenTools | ThinkingDisabled,
    Field(discriminator="type"),
]


class OutputFormat(Shape):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: Annotated[Json, Field(alias="schema")]


class OutputConfig(Shape):
    """What the answer is, and how much to spend on it."""

    effort: Effort | None = None
    format: OutputFormat | None = None
    task_budget: Any = None


class KeptThoughts(Shape):
    """Of how many of the last turns the thoughts are kept."""

    type: Literal["thinking_turns", "all"]
    value: Annotated[int, Field(ge=1), WHOLE] | None = None


class ClearThinking(Shape):
    """Old thoughts are left out of the prompt."""

    type: Literal["clear_thinking_20251015"]
    keep: Literal["all"] | KeptThoughts | None = None


class ContextManagement(Shape):
    """What is left out of the prompt."""

    edits: list[ClearThinking] = Field(default_factory=list)


class Metadata(Shape):
    """On whose behalf a request is made."""

    user_id: str | None = None


class CountRequest(Shape):
    """The body of `POST /v1/messages/count_tokens`: what makes the prompt."""

    model: str
    messages: Annotated[list[AnyTurn], Field(min_length=1, max_length=100_000)]
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[AnyTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: AnyToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    context_management: ContextManagement | None = None

    cache_control: CacheControl | None = None
    user_profile_id: str | None = None
    workspace_id: str | None = None

    # What is refused, by name, unless it asks for nothing.
    billing_policy: Any = None
    compaction: Any = None
    mcp_servers: Any = None
    speed: Literal["standard", "fast"] | None = None


class MessagesRequest(CountRequest):
    """The body of `POST /v1/messages`."""

    max_tokens: Annotated[int, Field(ge=0), WHOLE]
    stream: bool | None = None
    stop_sequences: list[Annotated[str, Field(min_length=1)]] | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0), WHOLE] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None

    inference_geo: str | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    container: Any = None
    diagnostics: Any = None
    fallback_credit_token: Any = None
    fallbacks: Any = None
    thread: Any = None
