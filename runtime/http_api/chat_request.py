"""From the body of a chat completion to what `ChatModel.stream` takes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from runtime.chat.messages import AUTO, Message, OutputSchema, ToolCall, ToolChoice
from runtime.chat.model import Output
from runtime.grammar.compile import from_choices, from_grammar, from_json_schema, from_regex
from runtime.http_api.chat_shapes import (
    AllowedToolsChoice,
    AnyMessage,
    AnyTool,
    AssistantMessage,
    ChatRequest,
    CustomTool,
    Drawn,
    FunctionDefinition,
    FunctionMessage,
    GrammarFormat,
    Guided,
    MessageCall,
    NamedCustomTool,
    NamedFunction,
    NamedTool,
    RefusalPart,
    SchemaFormat,
    SystemMessage,
    TextFormat,
    TextPart,
    ToolMessage,
    UserMessage,
)
from runtime.http_api.custom_tools import arguments_of, custom_tool
from runtime.http_api.faults import bad_request
from runtime.request import SamplingParams
from tools.json_text import is_too_deep, read_json
from tools.spec import JsonObject, ToolSpec

_Item = TypeVar("_Item")

ANY_ARGUMENTS: JsonObject = {"type": "object", "properties": {}}
ANY_OBJECT: JsonObject = {"type": "object"}


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """One chat completion, in our terms.

    Attributes:
        sampling: one for each choice.
        is_legacy: whether calls are answered as `function_call`.
        custom: names of the tools whose calls are answered as a text.
    """

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    tool_choice: ToolChoice
    output: Output | None
    sampling: tuple[SamplingParams, ...]
    thinks: bool | None
    is_legacy: bool
    custom: frozenset[str]

    @property
    def has_scores(self) -> bool:
        """Whether tokens come with their log-probabilities."""
        return self.sampling[0].top_logprobs is not None

    @property
    def is_predicted(self) -> bool:
        """Whether the client says what is likely answered."""
        return bool(self.sampling[0].prediction)


def read_chat(request: ChatRequest, context_length: int) -> ChatTurn:
    """Translate a request.

    Raises:
        FaultError: names the field that cannot be honoured.
        InvalidRequestError: a number out of range, or a schema or grammar that is none.
    """
    _refuse_unsupported(request)
    tools = read_tools(request.tools or ())
    older = [read_tool(one, f"functions[{at}]") for at, one in _each(request.functions)]
    tools += [one for one in older if one not in tools]
    return ChatTurn(
        tuple(read_messages(request.messages)),
        tuple(tools),
        _tool_choice(request, [tool.name for tool in tools]),
        read_output(request),
        tuple(_sampling(request, context_length)),
        _thinks(request),
        is_legacy=bool(request.functions) and not request.tools,
        custom=frozenset(
            tool.custom.name for tool in request.tools or () if isinstance(tool, CustomTool)
        ),
    )


def _each(items: list[_Item] | None) -> enumerate[_Item]:
    return enumerate(items or ())


def _refuse_unsupported(request: ChatRequest) -> None:
    if request.stream_options is not None and request.stream is None:
        raise bad_request("stream_options needs stream: true", "stream_options")
    if "audio" in (request.modalities or ()):
        raise bad_request("this model writes text, no audio", "modalities")
    if request.top_logprobs is not None and not request.logprobs:
        raise bad_request("top_logprobs needs logprobs: true", "top_logprobs")


def read_messages(messages: Sequence[AnyMessage]) -> list[Message]:
    """Translate a conversation.

    Raises:
        FaultError: a result answers no call before it, or arguments are no JSON object.
    """
    found: list[Message] = []
    names: dict[str, str] = {}
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        match message:
            case SystemMessage():
                found.append(Message("system", _text(message.content)))
            case UserMessage():
                found.append(Message("user", _text(message.content)))
            case AssistantMessage():
                calls = _calls(message, at, where)
                names |= {call.call_id: call.name for call in calls}
                text = _text(message.content or message.refusal or "")
                thought = message.reasoning or message.reasoning_content or ""
                found.append(Message("assistant", text, tool_calls=calls, reasoning=thought))
            case ToolMessage():
                name = names.get(message.tool_call_id)
                if name is None:
                    text = f"no call before it has the id {message.tool_call_id!r}"
                    raise bad_request(text, f"{where}.tool_call_id")
                text = _text(message.content)
                found.append(Message("tool", text, call_id=message.tool_call_id, name=name))
            case FunctionMessage():
                call_id = next((key for key in reversed(names) if names[key] == message.name), None)
                if call_id is None:
                    raise bad_request("no call before it has this name", f"{where}.name")
                text = message.content or ""
                found.append(Message("tool", text, call_id=call_id, name=message.name))
    return found


def _text(content: str | Sequence[TextPart | RefusalPart]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)


def _calls(message: AssistantMessage, at: int, where: str) -> tuple[ToolCall, ...]:
    calls: list[ToolCall] = []
    for index, call in _each(message.tool_calls):
        if isinstance(call, MessageCall):
            place = f"{where}.tool_calls[{index}].function.arguments"
            arguments = read_arguments(call.function.arguments, place)
            calls.append(ToolCall(call.id, call.function.name, arguments))
        else:
            custom = call.custom
            calls.append(ToolCall(call.id, custom.name, arguments_of(custom.input)))
    if (older := message.function_call) is not None:
        arguments = read_arguments(older.arguments, f"{where}.function_call.arguments")
        calls.append(ToolCall(f"call_{at}", older.name, arguments))
    return tuple(calls)


def read_arguments(text: str, where: str) -> JsonObject:
    """Read a call's arguments, which stand at `where`.

    Raises:
        FaultError: they are no JSON object, or nest deeper than a body may.
    """
    try:
        arguments = None if is_too_deep(text.encode()) else read_json(text or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise bad_request("arguments are a JSON object as text", where)
    return arguments


def read_tools(tools: Sequence[AnyTool]) -> list[ToolSpec]:
    """Translate the tools that stand in a body's field `tools`.

    Raises:
        FaultError: parameters are no object, or a grammar cannot be honoured.
    """
    found: list[ToolSpec] = []
    for at, tool in enumerate(tools):
        if isinstance(tool, CustomTool):
            one, where = tool.custom, f"tools[{at}].custom.format.grammar"
            grammar = one.format.grammar if isinstance(one.format, GrammarFormat) else None
            found.append(custom_tool(one.name, one.description, grammar, where))
        else:
            found.append(read_tool(tool.function, f"tools[{at}].function"))
    return found


def read_tool(function: FunctionDefinition, where: str) -> ToolSpec:
    """Translate a function that stands at `where`.

    Raises:
        FaultError: its parameters are no object.
    """
    schema = function.parameters or ANY_ARGUMENTS
    if schema.get("type", "object") != "object":
        raise bad_request("the type of parameters is object", f"{where}.parameters.type")
    return ToolSpec(function.name, function.description, {**schema, "type": "object"})


def _tool_choice(request: ChatRequest, names: Sequence[str]) -> ToolChoice:
    choice = request.function_call if request.tool_choice is None else request.tool_choice
    found = ToolChoice(parallel=request.parallel_tool_calls is not False and not request.functions)
    wanted: list[str] = []
    if isinstance(choice, str):
        found = replace(found, mode=choice)
    elif isinstance(choice, NamedTool | NamedCustomTool | NamedFunction):
        name = choice.name if isinstance(choice, NamedFunction) else _name_of(choice)
        wanted = [name]
        found = ToolChoice("required", name, parallel=False)
    elif isinstance(choice, AllowedToolsChoice):
        wanted = [_name_of(tool) for tool in choice.allowed_tools.tools]
        found = replace(found, mode=choice.allowed_tools.mode, allowed=tuple(wanted))
    for name in wanted:
        if name not in names:
            raise bad_request(f"no tool is named {name!r}", "tool_choice")
    if found.mode == "required" and not names:
        raise bad_request("there is no tool to call", "tool_choice")
    return found if names else AUTO


def _name_of(tool: NamedTool | NamedCustomTool) -> str:
    return tool.function.name if isinstance(tool, NamedTool) else tool.custom.name


def read_output(request: Guided) -> Output | None:
    """Read what an answer is constrained to.

    Raises:
        FaultError: two fields say it.
        InvalidRequestError: a schema or grammar that is none.
    """
    asked: dict[str, Output] = {}
    form = request.response_format
    if isinstance(form, SchemaFormat):
        asked["response_format"] = OutputSchema(form.json_schema.json_schema)
    elif form is not None and not isinstance(form, TextFormat):
        asked["response_format"] = OutputSchema(ANY_OBJECT)
    if request.guided_json is not None:
        asked["guided_json"] = from_json_schema(request.guided_json)
    if request.guided_regex is not None:
        asked["guided_regex"] = from_regex(request.guided_regex)
    if request.guided_choice is not None:
        asked["guided_choice"] = from_choices(request.guided_choice)
    for name in ("guided_grammar", "grammar"):
        if (text := getattr(request, name)) is not None:
            asked[name] = from_grammar(text)
    if len(asked) > 1:
        first, second, *_ = asked
        raise bad_request(f"{first} and {second} both say what the answer is; give one", second)
    return next(iter(asked.values()), None)


def _sampling(request: ChatRequest, context_length: int) -> list[SamplingParams]:
    limits = (request.max_completion_tokens, request.max_tokens, context_length)
    max_tokens = next(limit for limit in limits if limit is not None)
    num_top = (request.top_logprobs or 0) if request.logprobs else None
    drawn = read_sampling(request, max_tokens, num_top)
    if request.prediction is not None:
        drawn = replace(drawn, prediction=_text(request.prediction.content))
    seeds = (None if drawn.seed is None else (drawn.seed + n) % 2**63 for n in itertools.count())
    return [replace(drawn, seed=next(seeds)) for _ in range(request.n or 1)]


def read_sampling(request: Drawn, max_tokens: int, num_top: int | None) -> SamplingParams:
    """How tokens are drawn, with OpenAI's defaults; `num_top` as in `SamplingParams`.

    Raises:
        FaultError: `logit_bias` is keyed by what is no token id.
    """
    stop = request.stop or ()
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=1.0 if request.temperature is None else request.temperature,
        # OpenAI's range has 0 in it, which keeps no token: the likeliest is kept.
        top_p=max(1.0 if request.top_p is None else request.top_p, 1e-6),
        top_k=max(request.top_k or 0, 0),
        min_p=request.min_p or 0.0,
        repetition_penalty=request.repetition_penalty or 1.0,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        seed=None if request.seed is None else request.seed % 2**63,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        logit_bias=_read_bias(request.logit_bias),
        top_logprobs=num_top,
    )


def _read_bias(bias: Mapping[str, float] | None) -> tuple[tuple[int, float], ...]:
    """Read `logit_bias`: token ids as text, and what is added to their logits.

    What is biased by 0 is left as it is, whatever its key.

    Raises:
        FaultError: a key is no token id, or one comes twice.
    """
    found: dict[int, float] = {}
    for key, value in (bias or {}).items():
        if not value:
            continue
        if not (key.isascii() and key.isdigit() and len(key) < 10) or int(key) in found:
            raise bad_request("its keys are token ids, each once", "logit_bias")
        found[int(key)] = value
    return tuple(found.items())


def _thinks(request: ChatRequest) -> bool | None:
    options = request.chat_template_kwargs
    if options is not None and options.enable_thinking is not None:
        return options.enable_thinking
    effort = request.reasoning_effort
    return None if effort is None else effort not in {"none", "minimal"}
