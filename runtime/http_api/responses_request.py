"""From the body of a response to what a model and the agent loop take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from runtime.chat.messages import AUTO, OutputSchema, ToolChoice
from runtime.chat.model import Output
from runtime.http_api.chat_request import ANY_ARGUMENTS, ANY_OBJECT
from runtime.http_api.chat_shapes import TextFormat
from runtime.http_api.custom_tools import custom_tool
from runtime.http_api.faults import bad_request
from runtime.http_api.responses_messages import offered_name
from runtime.http_api.responses_shapes import (
    LOGPROBS,
    AllowedChoice,
    Caller,
    Choice,
    CustomChoice,
    CustomTool,
    FunctionChoice,
    FunctionTool,
    GrammarFormat,
    InputTokensRequest,
    McpChoice,
    McpTool,
    NamespaceTool,
    ResponseRequest,
    SchemaFormat,
    WebSearchTool,
)
from runtime.request import SamplingParams
from tools.mcp_client.names import exposed_name, server_prefix
from tools.spec import JsonObject, ToolSpec

_REDACTED = "<redacted>"


@dataclass(frozen=True, slots=True)
class ResponseTurn:
    """What a response is made with, but for its conversation.

    Attributes:
        functions: the client's own, which it calls itself.
        custom: the names of those that get a text.
        namespaces: of those that have one, by their names: the namespace and the name in it.
        servers: what it wants of the tool servers, by label.
        thought: as what a model's thought is written.
        seals_thought: whether the thought is also given as `encrypted_content`.
    """

    functions: tuple[ToolSpec, ...]
    custom: frozenset[str]
    namespaces: Mapping[str, tuple[str, str]]
    servers: tuple[McpTool, ...]
    choice: Choice | None
    is_parallel: bool
    output: Output | None
    thinks: bool | None
    has_summary: bool
    seals_thought: bool


def read_turn(request: InputTokensRequest) -> ResponseTurn:
    """Translate what the fields of a request say.

    Raises:
        FaultError: names the field that cannot be honoured.
    """
    _refuse_unsupported(request)
    functions: list[ToolSpec] = []
    namespaces: dict[str, tuple[str, str]] = {}
    servers: list[McpTool] = []
    for at, tool in enumerate(request.tools or ()):
        where = f"tools[{at}]"
        if isinstance(tool, McpTool):
            if any(tool.server_label == one.server_label for one in servers):
                raise bad_request("this server is there twice", f"{where}.server_label")
            servers.append(tool)
        elif isinstance(tool, FunctionTool):
            functions.append(_function(tool, where))
        elif isinstance(tool, CustomTool):
            functions.append(_custom(tool, where))
        elif isinstance(tool, NamespaceTool):
            for place, inner in enumerate(tool.tools):
                spec = _function(inner, f"{where}.tools[{place}]")
                functions.append(replace(spec, name=exposed_name(tool.name, spec.name)))
                namespaces[functions[-1].name] = tool.name, spec.name
    reasoning = request.reasoning
    summary = reasoning and (reasoning.summary or reasoning.generate_summary)
    include = request.include if isinstance(request, ResponseRequest) else None
    return ResponseTurn(
        tuple(functions),
        frozenset(tool.name for tool in request.tools or () if isinstance(tool, CustomTool)),
        namespaces,
        tuple(servers),
        request.tool_choice,
        request.parallel_tool_calls is not False,
        _output(request),
        _thinks(request),
        has_summary=bool(summary),
        seals_thought="reasoning.encrypted_content" in (include or ()),
    )


def instructions_of(request: InputTokensRequest) -> str | None:
    """What the model is told at first: the instructions, and what tool servers are for."""
    told = [
        f"About the tools whose names begin with {server_prefix(tool.server_label)}:"
        f" {tool.server_description}"
        for tool in request.tools or ()
        if isinstance(tool, McpTool) and tool.server_description
    ]
    return "\n\n".join(filter(None, (request.instructions, *told))) or None


def read_sampling(request: ResponseRequest, context_length: int) -> SamplingParams:
    """How each turn of the model is drawn.

    Raises:
        InvalidRequestError: a number is out of range.
    """
    return SamplingParams(
        max_tokens=min(request.max_output_tokens or context_length, context_length),
        temperature=1.0 if request.temperature is None else request.temperature,
        # OpenAI's range has 0 in it, which keeps no token: the likeliest is kept.
        top_p=1.0 if request.top_p is None else max(request.top_p, 1e-6),
        top_k=max(request.top_k or 0, 0),
        min_p=request.min_p or 0.0,
        repetition_penalty=request.repetition_penalty or 1.0,
        seed=None if request.seed is None else request.seed % 2**63,
        top_logprobs=request.top_logprobs or 0 if _is_scored(request) else None,
    )


def _is_scored(request: ResponseRequest) -> bool:
    """Whether tokens come with their log-probabilities."""
    return bool(request.top_logprobs) or LOGPROBS in (request.include or ())


def read_choice(turn: ResponseTurn, specs: Sequence[ToolSpec]) -> ToolChoice:
    """Say which of the tools that there are may or must be called.

    Raises:
        FaultError: a tool is named that is not there.
    """
    choice = turn.choice
    names = [spec.name for spec in specs]
    found = ToolChoice(parallel=turn.is_parallel)
    if isinstance(choice, str):
        found = replace(found, mode=choice)
    elif isinstance(choice, FunctionChoice | CustomChoice | McpChoice):
        wanted = _named(choice, specs)
        if isinstance(choice, McpChoice) and choice.name is None:
            found = replace(found, mode="required", allowed=tuple(wanted))
        else:
            found = ToolChoice("required", wanted[0], parallel=False)
    elif isinstance(choice, AllowedChoice):
        allowed = [name for tool in choice.tools for name in _named(tool, specs)]
        found = replace(found, mode=choice.mode, allowed=tuple(allowed))
    if found.mode == "required" and not names:
        raise bad_request("there is no tool to call", "tool_choice")
    return found if names else AUTO


def write_settings(request: ResponseRequest) -> JsonObject:
    """What a response repeats of its request; secrets for tool servers are not among it."""
    text = request.text.model_dump(by_alias=True, exclude_unset=True) if request.text else {}
    reasoning = request.reasoning
    summary = reasoning and (reasoning.summary or reasoning.generate_summary)
    choice = request.tool_choice
    return {
        "background": bool(request.background),
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": reasoning and reasoning.effort, "summary": summary},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": request.store is not False,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {**text, "format": text.get("format") or {"type": "text"}},
        "tool_choice": (
            choice if isinstance(choice, str) else choice.model_dump(exclude_unset=True)
        )
        if choice is not None
        else "auto",
        "tools": [
            _write_tool(tool) for tool in request.tools or () if not isinstance(tool, WebSearchTool)
        ],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": request.truncation or "disabled",
        "user": request.user,
    }


def _write_tool(tool: FunctionTool | CustomTool | NamespaceTool | McpTool) -> JsonObject:
    written = tool.model_dump(by_alias=True, exclude_none=True)
    if isinstance(tool, CustomTool):
        return {"format": {"type": "text"}, **written}
    if isinstance(tool, FunctionTool):
        return {"description": None, "parameters": None, "strict": True, **written}
    if isinstance(tool, NamespaceTool):
        return {"description": "", **written, "tools": [_write_tool(one) for one in tool.tools]}
    if tool.authorization is not None:
        written["authorization"] = _REDACTED
    if tool.headers is not None:
        written["headers"] = dict.fromkeys(tool.headers, _REDACTED)
    written.setdefault("require_approval", "always")
    return written


def _refuse_unsupported(request: InputTokensRequest) -> None:
    if request.conversation is not None and request.previous_response_id is not None:
        text = "conversation and previous_response_id both say what came before; give one"
        raise bad_request(text, "previous_response_id")
    if request.personality not in {None, "pragmatic", "friendly"}:
        raise bad_request("there is no such personality", "personality")
    if (reasoning := request.reasoning) is not None:
        if reasoning.mode not in {None, "standard"}:
            raise bad_request("the only mode is 'standard'", "reasoning.mode")
        for name in ("summary", "generate_summary"):
            if getattr(reasoning, name) == "concise":
                text = "a thought is given whole; ask for 'detailed' or 'auto'"
                raise bad_request(text, f"reasoning.{name}")
    if isinstance(request, ResponseRequest):
        _refuse_settings(request)


def _refuse_settings(request: ResponseRequest) -> None:
    if request.stream_options is not None and request.stream is None:
        raise bad_request("stream_options needs stream: true", "stream_options")
    if request.background and request.store is False:
        raise bad_request("background needs store: true, to be asked for later", "background")
    if request.prompt is not None:
        raise bad_request("no prompts are kept here; send the text in instructions", "prompt")
    if request.moderation is not None:
        raise bad_request("there is no model that moderates", "moderation")


def _function(tool: FunctionTool, where: str) -> ToolSpec:
    if tool.is_async:
        raise bad_request("calls are answered in order", f"{where}.async")
    _check_callers(tool.allowed_callers, where)
    schema = tool.parameters or ANY_ARGUMENTS
    if schema.get("type", "object") != "object":
        raise bad_request("the type of parameters is object", f"{where}.parameters.type")
    return ToolSpec(tool.name, tool.description or "", {**schema, "type": "object"})


def _custom(tool: CustomTool, where: str) -> ToolSpec:
    _check_callers(tool.allowed_callers, where)
    grammar = tool.format if isinstance(tool.format, GrammarFormat) else None
    return custom_tool(tool.name, tool.description or "", grammar, f"{where}.format")


def _check_callers(allowed: Sequence[Caller] | None, where: str) -> None:
    if allowed is not None and "direct" not in allowed:
        raise bad_request("the only caller is 'direct'", f"{where}.allowed_callers")


def _named(
    choice: FunctionChoice | CustomChoice | McpChoice, specs: Sequence[ToolSpec]
) -> list[str]:
    """The tools that a choice names, as the model knows them."""
    if not isinstance(choice, McpChoice):
        found = [spec.name for spec in specs if spec.server is None and spec.name == choice.name]
    else:
        label = choice.server_label
        wanted = None if choice.name is None else offered_name(label, choice.name)
        found = [
            spec.name
            for spec in specs
            if spec.server == label and (wanted is None or spec.name == wanted)
        ]
    if not found:
        name = choice.name or f"any tool of {getattr(choice, 'server_label', '')}"
        raise bad_request(f"no tool is named {name!r}", "tool_choice")
    return found


def _output(request: InputTokensRequest) -> Output | None:
    form = request.text.format if request.text else None
    if isinstance(form, SchemaFormat):
        return OutputSchema(form.json_schema)
    if form is None or isinstance(form, TextFormat):
        return None
    return OutputSchema(ANY_OBJECT)


def _thinks(request: InputTokensRequest) -> bool | None:
    options = request.chat_template_kwargs if isinstance(request, ResponseRequest) else None
    if options is not None and options.enable_thinking is not None:
        return options.enable_thinking
    effort = request.reasoning.effort if request.reasoning else None
    return None if effort is None else effort not in {"none", "minimal"}
