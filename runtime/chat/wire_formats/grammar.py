"""What a turn may say, as one grammar from its first token to its last.

`auto`, `none`, `required`, a named tool, some of the tools and calls one at a time are shapes
of it, and so are thoughts: open, closed, or opened by the prompt already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runtime.chat.messages import ToolChoice
from runtime.chat.wire_formats.arguments import (
    HintValues,
    Scope,
    field_values,
    json_value,
)
from runtime.chat.wire_formats.format import (
    CALL_ID,
    CALL_ID_CHARS,
    CALL_INDEX,
    BoundFormat,
    FieldArguments,
    JsonArguments,
    Thinking,
)
from runtime.chat.wire_formats.notation import notation_value
from runtime.chat.wire_formats.rules import ANY_TEXT, Rules, escape, in_slashes, text_without
from runtime.chat.wire_formats.schemas import HINT_OPENS, unfollowed_hints
from runtime.errors import UnsupportedSchemaError
from runtime.grammar.compile import GrammarSource
from runtime.grammar.ladder import SchemaLevel
from runtime.grammar.schema import check_bounds, close_objects, write_schema
from tools.errors import InvalidRequestError, UnknownToolError
from tools.spec import JsonObject, ToolSpec

_TOOL_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_BLANKS = '("\\n" "\\n"?)?'


@dataclass(frozen=True, slots=True)
class TurnShape:
    """What is asked of a turn, beside the tools.

    Attributes:
        choice: whether and which tools may be called.
        output: language of the visible answer; None for any text.
        thinking: how thoughts are marked, and whether the prompt has opened them; None where
            the turn has none.
        levels: how strictly the schema of each tool is compiled, by name; strict by default.
        hints: what hints in the tools' schemas refer to; None where that is not known yet.
    """

    choice: ToolChoice
    output: GrammarSource | None = None
    thinking: Thinking | None = None
    levels: Mapping[str, SchemaLevel] = field(default_factory=dict)
    hints: HintValues | None = None


def turn_grammar(
    bound: BoundFormat, tools: Sequence[ToolSpec], shape: TurnShape
) -> GrammarSource | None:
    """Language of a turn with these tools; None where anything may be said.

    With `shape.output`, the visible answer is a sentence of it; otherwise it is any text that
    does not open a call. Nothing follows the last call.

    Raises:
        InvalidRequestError: a call is required and there is no tool, a bad tool name, or a hint
            that refers to nothing.
        UnknownToolError: the named tool is not among `tools`.
        UnsupportedSchemaError: a tool's schema is too large; the message names the tool.
    """
    callable_tools = choose_tools(tools, shape.choice)
    if not tools and shape.output is None:
        return None
    is_plain = not callable_tools and shape.thinking is None and not bound.wire.answer_opens
    if is_plain and shape.output is not None:
        return shape.output
    rules = Rules(bound.ids)
    main = _main(bound, rules, callable_tools, shape)
    start = _with_thoughts(bound, rules, main, shape.thinking)
    return rules.source(start, **({} if shape.output is None else {"output": shape.output}))


def choose_tools(tools: Sequence[ToolSpec], choice: ToolChoice) -> Sequence[ToolSpec]:
    """The tools that `choice` lets the model call.

    Raises:
        InvalidRequestError: names clash or are malformed, or a call is required of no tool.
        UnknownToolError: a named tool is not among `tools`.
    """
    names = [tool.name for tool in tools]
    for name in names:
        if not _TOOL_NAME.fullmatch(name):
            raise InvalidRequestError(
                f"tool name {name!r} must be 1 to 128 letters, digits or any of _ . : / -"
            )
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InvalidRequestError(f"tool names must differ; given twice: {', '.join(twice)}")
    wanted = choice.allowed if choice.name is None else (choice.name,)
    for name in wanted or ():
        if name not in names:
            raise UnknownToolError(name, names)
    if wanted is not None:
        tools = [tool for tool in tools if tool.name in wanted]
    if choice.mode == "required" and not tools:
        raise InvalidRequestError("a tool call is required, but no tools are offered")
    return tools if choice.mode != "none" or choice.name is not None else ()


def object_schema(tool: ToolSpec) -> JsonObject:
    """A tool's schema, which says of itself that it describes an object.

    Raises:
        UnsupportedSchemaError: it describes something else.
    """
    schema = {"type": "object", "properties": {}, **tool.input_schema}
    if schema["type"] != "object":
        raise UnsupportedSchemaError(
            f"keyword 'type' at $ must be 'object', not {schema['type']!r}"
        )
    return schema


def arguments_schema(tool: ToolSpec) -> JsonObject:
    """The schema a tool's arguments are generated from: an object that holds what it lists.

    Raises:
        UnsupportedSchemaError: the schema is too large or describes no object.
    """
    return _read_schema(tool)[0]


def _read_schema(tool: ToolSpec) -> tuple[JsonObject, str]:
    """`arguments_schema`, and the tool's own schema as JSON."""
    try:
        schema = object_schema(tool)
        text = write_schema(schema)
        check_bounds(schema, text)
    except UnsupportedSchemaError as exc:
        raise UnsupportedSchemaError(f"tool {tool.name!r}: {exc}") from exc
    return close_objects(schema), text


def unenforced(
    bound: BoundFormat, tool: ToolSpec, level: SchemaLevel, text: str
) -> tuple[str, ...]:
    """Keywords of a tool's schema, with their paths, that a turn's decoding does not enforce.

    `text` is the schema as JSON.

    Raises:
        UnsupportedSchemaError: as `arguments_schema`.
    """
    if isinstance(bound.wire.arguments, JsonArguments) and HINT_OPENS not in text:
        return ()  # no hints: the schema's own compiler writes all of it
    unfollowed = unfollowed_hints(tool.input_schema)
    scope = _scope(Rules(bound.ids), bound, tool, level, None)
    _arguments(bound, scope)
    return tuple(dict.fromkeys((*scope.dropped, *unfollowed)))


def _scope(
    rules: Rules, bound: BoundFormat, tool: ToolSpec, level: SchemaLevel, hints: HintValues | None
) -> Scope:
    style = bound.wire.arguments
    is_spaced = isinstance(style, JsonArguments) and style.is_spaced
    schema, text = _read_schema(tool)
    return Scope(tool.name, rules, schema, level, is_spaced, hints, may_hint=HINT_OPENS in text)


def _main(bound: BoundFormat, rules: Rules, tools: Sequence[ToolSpec], shape: TurnShape) -> str:
    """The turn behind its thoughts."""
    wire, choice = bound.wire, shape.choice
    answer = _answer(bound, rules, shape, may_call=bool(tools))
    if not tools:
        return answer
    trigger, calls = rules.literal(wire.trigger), _calls(bound, rules, tools, shape)
    if choice.mode == "required" or choice.name is not None:
        return f"{trigger} {calls}"
    if wire.answer_opens:
        lead = f"{rules.literal(wire.lead_opens)} {rules.text_before(wire.lead_closes)}"
        return f"{answer} | ({lead})? {trigger} {calls}"
    if shape.output is not None:
        return f"{answer} | {trigger} {calls}"
    if wire.trigger not in bound.ids:
        return f"{answer} | {rules.text_up_to(wire.trigger)} {calls}"
    text = rules.lexeme(text_without(bound.spell(wire.trigger)))
    return f"{answer} | {text} {trigger} {calls}"


def _answer(bound: BoundFormat, rules: Rules, shape: TurnShape, *, may_call: bool) -> str:
    wire = bound.wire
    opens = f"{rules.literal(wire.answer_opens)} " if wire.answer_opens else ""
    if shape.output is not None:
        return f"{opens}@output"
    text = in_slashes(ANY_TEXT) if wire.answer_opens else text_without(bound.spell(wire.trigger))
    if not may_call and wire.trigger not in bound.ids:
        # A model about to call would be led into the spelled marker and left there with a
        # broken one, so the text does not begin like it.
        text += f" & {in_slashes(f'(?:[^{escape(wire.trigger[0])}]{ANY_TEXT})?')}"
    return opens + rules.lexeme(text)


def _with_thoughts(bound: BoundFormat, rules: Rules, main: str, thinking: Thinking | None) -> str:
    if thinking is None:
        return main
    thoughts = f"{rules.text_before(thinking.reasoning.closes)} {_BLANKS}"
    if thinking.is_open:
        return f"{thoughts} ({main})"
    return f"({_BLANKS} {rules.literal(thinking.reasoning.opens)} {thoughts})? ({main})"


def _calls(bound: BoundFormat, rules: Rules, tools: Sequence[ToolSpec], shape: TurnShape) -> str:
    """All calls of a turn, from behind the trigger on."""
    wire = bound.wire
    call = rules.rule(" | ".join(_call(bound, rules, tool, shape) for tool in tools))
    again = ""
    if shape.choice.parallel and wire.between_calls is not None:
        again = f" ({rules.literal(wire.between_calls)} {call})*"
    opens = _literal(rules, wire.opens.removeprefix(wire.trigger))
    return rules.rule(f"{opens} {call}{again} {_literal(rules, wire.closes)}")


def _call(bound: BoundFormat, rules: Rules, tool: ToolSpec, shape: TurnShape) -> str:
    wire = bound.wire
    scope = _scope(rules, bound, tool, shape.levels.get(tool.name, "strict"), shape.hints)
    try:
        arguments = _arguments(bound, scope)
    except InvalidRequestError as exc:
        raise type(exc)(f"tool {tool.name!r}: {exc}") from exc
    head = _literal(rules, wire.before_name + tool.name + wire.before_arguments)
    return rules.rule(f"{head} {arguments} {_literal(rules, wire.after_arguments)}")


def _arguments(bound: BoundFormat, scope: Scope) -> str:
    style = bound.wire.arguments
    if isinstance(style, JsonArguments):
        return json_value(scope, scope.root, "$")
    if isinstance(style, FieldArguments):
        return field_values(style, scope)
    return notation_value(style, scope, scope.root, "$")


def _literal(rules: Rules, text: str) -> str:
    """A text of the format with the places of ids and numbers."""
    pieces = (piece for piece in re.split(f"([{CALL_ID}{CALL_INDEX}])", text) if piece)
    return " ".join(_piece(rules, piece) for piece in pieces)


def _piece(rules: Rules, piece: str) -> str:
    if piece == CALL_ID:
        return rules.terminal(f"[A-Za-z0-9]{{{CALL_ID_CHARS}}}")
    return rules.terminal("[0-9]{1,4}") if piece == CALL_INDEX else rules.literal(piece)
