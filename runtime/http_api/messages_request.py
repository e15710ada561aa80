"""From the body of a message to what `ChatModel.stream` takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from runtime.chat.messages import AUTO, Message, OutputSchema, ToolChoice, ToolChoiceMode
from runtime.http_api.faults import bad_request
from runtime.http_api.messages_shapes import (
    AnyChoice,
    CountRequest,
    CustomTool,
    HostedTool,
    MessagesRequest,
    NamedChoice,
    NoChoice,
    OutputConfig,
    ThinkingAdaptive,
    ThinkingBetweenTools,
    ThinkingEnabled,
)
from runtime.http_api.messages_turns import Conversation, read_turns
from runtime.request import SamplingParams
from tools.spec import ToolSpec

_UNSUPPORTED = {
    "container": "there is no container to run code in",
    "mcp_servers": "tool servers are configured by who runs this server, not by a request",
    "compaction": "conversations are not compacted",
    "thread": "no thread is kept; send the whole conversation",
    "fallbacks": "no other model answers instead",
    "fallback_credit_token": "no other model answers instead",
    "billing_policy": "nothing is billed",
}


@dataclass(frozen=True, slots=True)
class MessageTurn:
    """One message, in our terms.

    Attributes:
        tools: what the prompt lists.
        admitted: what the conversation tells of, and may be called too.
        shows_thoughts: whether thoughts are a part of the answer; None where only their
            signature is.
    """

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    admitted: tuple[ToolSpec, ...]
    tool_choice: ToolChoice
    output: OutputSchema | None
    thinks: bool
    shows_thoughts: bool | None


def read_message(request: CountRequest) -> MessageTurn:
    """Translate a request.

    Raises:
        FaultError: names the field that cannot be honoured.
    """
    _refuse_unsupported(request)
    declared = _tools(request)
    deferred = _deferred(request)
    conversation = read_turns(request, declared, deferred)
    available = [tool for tool in declared.values() if tool.name in conversation.available]
    listed = tuple(tool for tool in declared.values() if tool.name not in deferred)
    turn = MessageTurn(
        conversation.messages,
        listed,
        tuple(tool for tool in available if tool.name in deferred),
        _tool_choice(request, listed, [tool.name for tool in available]),
        _output(request),
        _thinks(request, conversation),
        _shows_thoughts(request),
    )
    if isinstance(request, MessagesRequest) and request.max_tokens == 0:
        return replace(turn, tool_choice=AUTO, output=None)  # only the prompt is to be cached
    return turn


def read_sampling(request: MessagesRequest) -> SamplingParams:
    """Say how the answer is drawn."""
    return SamplingParams(
        max_tokens=request.max_tokens,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_k=request.top_k or 0,
        # 0 is in Anthropic's range and keeps no token: the likeliest is kept.
        top_p=1.0 if request.top_p is None else max(request.top_p, 1e-6),
        stop=tuple(request.stop_sequences or ()),
    )


def _refuse_unsupported(request: CountRequest) -> None:
    for name, reason in _UNSUPPORTED.items():
        if getattr(request, name, None):
            raise bad_request(reason, name)
    if request.speed == "fast":
        raise bad_request("there is no faster mode", "speed")
    if request.output_config is not None and request.output_config.task_budget:
        raise bad_request("tasks have no budget; see max_tokens", "output_config.task_budget")
    diagnostics = getattr(request, "diagnostics", None)
    if diagnostics and diagnostics != {"previous_message_id": None}:
        raise bad_request("cache misses are not explained", "diagnostics")
    # With tools the budget is for the thoughts of several answers.
    if (
        isinstance(request, MessagesRequest)
        and isinstance(request.thinking, ThinkingEnabled)
        and request.thinking.budget_tokens >= request.max_tokens
        and not request.tools
    ):
        raise bad_request("it must be less than max_tokens", "thinking.budget_tokens")


def _tools(request: CountRequest) -> dict[str, ToolSpec]:
    declared: dict[str, ToolSpec] = {}
    for at, tool in enumerate(request.tools or ()):
        where = f"tools[{at}]"
        if isinstance(tool, HostedTool):
            text = f"{tool.type} is a tool of Anthropic's service; declare one of your own instead"
            raise bad_request(text, f"{where}.type")
        schema = {"type": "object", **tool.input_schema}
        if schema["type"] != "object":
            raise bad_request("it must be 'object'", f"{where}.input_schema.type")
        if "direct" not in (tool.allowed_callers or ["direct"]):
            text = "only the model calls tools here: allow 'direct'"
            raise bad_request(text, f"{where}.allowed_callers")
        if tool.name in declared:
            raise bad_request(f"another tool is named {tool.name!r} too", f"{where}.name")
        declared[tool.name] = ToolSpec(tool.name, _describe(tool), schema)
    return declared


def _describe(tool: CustomTool) -> str:
    examples = [json.dumps(one, ensure_ascii=False) for one in tool.input_examples or ()]
    lines = [tool.description, *(f"Example of its input: {one}" for one in examples)]
    return "\n".join(filter(None, lines))


def _deferred(request: CountRequest) -> set[str]:
    return {
        tool.name
        for tool in request.tools or ()
        if isinstance(tool, CustomTool) and tool.defer_loading
    }


def _tool_choice(
    request: CountRequest, listed: Sequence[ToolSpec], available: Sequence[str]
) -> ToolChoice:
    choice = request.tool_choice
    if isinstance(choice, NamedChoice) and choice.name not in available:
        raise bad_request(f"no tool that may be called is named {choice.name!r}", "tool_choice")
    if isinstance(choice, AnyChoice) and not available:
        raise bad_request("there is no tool to call", "tool_choice")
    if isinstance(choice, NoChoice) or not available:
        return ToolChoice("none") if listed else AUTO
    if isinstance(choice, NamedChoice):
        return ToolChoice("required", choice.name, parallel=False)
    is_parallel = choice is None or not choice.disable_parallel_tool_use
    removed = {tool.name for tool in listed} - set(available)
    allowed = tuple(available) if removed else None
    mode: ToolChoiceMode = "required" if isinstance(choice, AnyChoice) else "auto"
    return ToolChoice(mode, parallel=is_parallel, allowed=allowed)


def _output(request: CountRequest) -> OutputSchema | None:
    config = request.output_config or OutputConfig()
    if config.format is not None and request.output_format is not None:
        raise bad_request("output_config.format says so too; give one", "output_format")
    asked = config.format or request.output_format
    return None if asked is None else OutputSchema(asked.json_schema)


def _thinks(request: CountRequest, conversation: Conversation) -> bool:
    if isinstance(request.thinking, ThinkingBetweenTools):
        return conversation.messages[-1].role == "tool"
    return isinstance(request.thinking, ThinkingEnabled | ThinkingAdaptive)


def _shows_thoughts(request: CountRequest) -> bool | None:
    thinking = request.thinking
    if isinstance(thinking, ThinkingEnabled | ThinkingAdaptive):
        return None if thinking.display == "omitted" else True
    return isinstance(thinking, ThinkingBetweenTools)
