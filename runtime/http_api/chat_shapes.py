"""What `POST /v1/chat/completions` takes, field by field.

Every field of OpenAI's is here: what this server cannot do is refused by name, and so is a field
that nobody documents. Fields that only advise a hosted service (whom to bill, how to route, what
to keep) are taken and change nothing.

Source: openai-openapi 2.3.0, `CreateChatCompletionRequest`. The extensions are named as vLLM and
llama.cpp name them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    Tag,
)
from pydantic_core import CoreSchema


def _whole(value: object) -> object:
    """To JSON Schema 2.0 is an integer, as 2 is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Json = dict[str, Any]
WHOLE = BeforeValidator(_whole)
"""Stands last: what stands before it is in the document."""
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Tier = Literal["auto", "default", "flex", "priority", "scale", "fast"]


MAX_VALUES = 32_768
"""Of any list that says no other limit: more messages or items than a context has room for."""
MAX_TOOLS = 4096


def _bound_lists(schema: object) -> None:
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            schema["fail_fast"] = True
            schema.setdefault("max_length", MAX_VALUES)
        for part in schema.values():
            _bound_lists(part)
    elif isinstance(schema, list):
        for part in schema:
            _bound_lists(part)


class Shape(BaseModel):
    """A JSON object that says nothing but what it lists.

    Of a list only the first value that does not fit is told, and all of them are bounded: there may
    be millions.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema = handler(source)
        _bound_lists(schema)
        return schema


class TextPart(Shape):
    """A text among the parts of a message."""

    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: Json | None = None


class RefusalPart(Shape):
    """What an assistant would not say."""

    type: Literal["refusal"]
    refusal: str


Text = str | Annotated[list[TextPart], Field(min_length=1)]


class SystemMessage(Shape):
    """Instructions; `developer` is the newer name."""

    role: Literal["system", "developer"]
    content: Text
    name: str | None = None


class UserMessage(Shape):
    """What a person says."""

    role: Literal["user"]
    content: Text
    name: str | None = None


class FunctionCall(Shape):
    """A function's name and its arguments as JSON text."""

    name: str
    arguments: str


class MessageCall(Shape):
    """A call that the assistant made."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    index: Annotated[int, WHOLE] | None = None


class CustomCall(Shape):
    """A custom tool's name and the text that it got."""

    name: str
    input: str


class MessageCustomCall(Shape):
    """A call of a custom tool that the assistant made."""

    id: str
    type: Literal["custom"]
    custom: CustomCall
    index: Annotated[int, WHOLE] | None = None


def _kind_of_call(value: object) -> str | None:
    """The type of a call; one of a function need not name it."""
    if isinstance(value, dict):
        kind = value.get("type", "function")
        return kind if isinstance(kind, str) else None
    return getattr(value, "type", None)


AnyCall = Annotated[
    Annotated[MessageCall, Tag("function")] | Annotated[MessageCustomCall, Tag("custom")],
    Discriminator(
        _kind_of_call,
        custom_error_type="unknown_call",
        custom_error_message="Input should have the type function or custom",
    ),
]


class AssistantMessage(Shape):
    """What the model said before."""

    role: Literal["assistant"]
    content: str | list[Annotated[TextPart | RefusalPart, Field(discriminator="type")]] | None = (
        None
    )
    tool_calls: list[AnyCall] | None = None
    function_call: FunctionCall | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    annotations: list[Json] | None = None
    audio: None = None
    name: str | None = None


class ToolMessage(Shape):
    """What a call returned."""

    role: Literal["tool"]
    content: Text
    tool_call_id: str


class FunctionMessage(Shape):
    """What a call returned, before there were tools."""

    role: Literal["function"]
    content: str | None
    name: str


AnyMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage,
    Field(discriminator="role"),
]


class FunctionDefinition(Shape):
    """A function that may be called; its arguments are always decoded strictly."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]
    description: str = ""
    parameters: Json | None = None
    strict: bool | None = None


class FunctionTool(Shape):
    """A function as a tool."""

    type: Literal["function"]
    function: FunctionDefinition


class TextFormat(Shape):
    """Any text."""

    type: Literal["text"]


class InputGrammar(Shape):
    """What a text for a custom tool looks like; of the syntaxes, `regex` is enforced."""

    definition: str
    syntax: Literal["lark", "regex"]


class GrammarFormat(Shape):
    """A text of a grammar."""

    type: Literal["grammar"]
    grammar: InputGrammar


class CustomDefinition(Shape):
    """A tool that gets a text in place of arguments."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]
    description: str = ""
    format: Annotated[TextFormat | GrammarFormat, Field(discriminator="type")] | None = None


class CustomTool(Shape):
    """A custom tool."""

    type: Literal["custom"]
    custom: CustomDefinition


AnyTool = Annotated[FunctionTool | CustomTool, Field(discriminator="type")]


class NamedFunction(Shape):
    """A function by its name."""

    name: str


class NamedTool(Shape):
    """A tool by its name."""

    type: Literal["function"]
    function: NamedFunction


class NamedCustomTool(Shape):
    """A custom tool by its name."""

    type: Literal["custom"]
    custom: NamedFunction


AnyNamedTool = Annotated[NamedTool | NamedCustomTool, Field(discriminator="type")]


class AllowedTools(Shape):
    """Of the tools, those that may be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[AnyNamedTool], Field(min_length=1)]


class AllowedToolsChoice(Shape):
    """`allowed_tools` as a tool choice."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class ObjectFormat(Shape):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(BaseModel):
    """A JSON Schema, always enforced strictly."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]
    json_schema: Annotated[Json, Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class SchemaFormat(Shape):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class StreamOptions(Shape):
    """What a stream has besides its text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TemplateOptions(Shape):
    """Switches of a chat template."""

    enable_thinking: bool | None = None


Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]


class UpdateRequest(Shape):
    """The body of `POST /v1/chat/completions/{completion_id}`."""

    metadata: Metadata | None


class Guided(Shape):
    """What an answer is constrained to; at most one of these."""

    response_format: (
        Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")] | None
    ) = None
    guided_json: Json | None = None
    guided_regex: str | None = None
    guided_choice: Annotated[list[str], Field(min_length=1)] | None = None
    guided_grammar: str | None = None
    grammar: str | None = None


class Drawn(Guided):
    """How much is written, how its tokens are drawn, and whether it is streamed."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128), WHOLE] | None = None
    max_tokens: Annotated[int, Field(ge=0), WHOLE] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1), WHOLE] | None = None
    min_p: Annotated[float, Field(ge=0, lt=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63), WHOLE] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    user: str | None = None


class Prediction(Shape):
    """What is likely answered."""

    type: Literal["content"]
    content: Text


class ChatRequest(Drawn):
    """The body of `POST /v1/chat/completions`."""

    model: str
    messages: Annotated[list[AnyMessage], Field(min_length=1)]

    tools: Annotated[list[AnyTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: (
        Literal["none", "auto", "required"]
        | Annotated[NamedTool | NamedCustomTool | AllowedToolsChoice, Field(discriminator="type")]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[FunctionDefinition], Field(max_length=MAX_TOOLS)] | None = None
    function_call: Literal["none", "auto"] | NamedFunction | None = None

    max_completion_tokens: Annotated[int, Field(ge=0), WHOLE] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), WHOLE] | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: TemplateOptions | None = None

    modalities: list[Literal["text", "audio"]] | None = None
    audio: Json | None = None
    metadata: Metadata | None = None
    moderation: Json | None = None
    prediction: Prediction | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Json | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    safety_identifier: str | None = None
    service_tier: Tier | None = None
    store: bool | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    web_search_options: Json | None = None
