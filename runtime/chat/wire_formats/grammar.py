"""What a turn may say, as one grammar from its first token to its last.

`auto`, `none`, `required`, a named tool and calls one at a time are shapes of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from runtime.chat.messages import ToolChoice
from runtime.chat.wire_formats.format import CALL_ID, CALL_ID_CHARS, WireFormat
from runtime.errors import UnsupportedSchemaError
from runtime.grammar.compile import GrammarSource
from runtime.grammar.ladder import with_options
from runtime.grammar.schema import check_bounds, close_objects, dump_json
from tools.errors import InvalidRequestError, UnknownToolError
from tools.spec import JsonObject, ToolSpec

_TOOL_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")


def turn_grammar(
    wire_format: WireFormat,
    tools: Sequence[ToolSpec],
    choice: ToolChoice,
    output: GrammarSource | None,
    marker_ids: Mapping[str, int],
) -> GrammarSource | None:
    """Language of a turn with these tools; None where anything may be said.

    With `output`, the visible answer is a sentence of it; otherwise it is any text that does
    not open a call. Nothing follows the last call. `marker_ids` has the format's markers that
    are single tokens of the vocabulary.

    Raises:
        InvalidRequestError: a call is required and there is no tool, or a bad tool name.
        UnknownToolError: the named tool is not among `tools`.
        UnsupportedSchemaError: a tool's schema is too large; the message names the tool.
    """
    callable_tools = choose_tools(tools, choice)
    if not callable_tools:
        return output if output is not None or not tools else _text_only(wire_format, marker_ids)
    trigger = _literal(wire_format.trigger, marker_ids)
    rules = _call_rules(wire_format, callable_tools, choice, marker_ids)
    if choice.mode == "required" or choice.name is not None:
        return _lark(f"start: {trigger} calls", *rules)
    if output is not None:
        main = f"start: @output | {trigger} calls"
        return replace(_lark(main, *rules), parts=(("output", output),))
    lead, text = _lead(wire_format, marker_ids), _text(wire_format)
    return _lark("start: TEXT | lead calls", lead, text, *rules)


def choose_tools(tools: Sequence[ToolSpec], choice: ToolChoice) -> Sequence[ToolSpec]:
    """The tools that `choice` lets the model call.

    Raises:
        InvalidRequestError: names clash or are malformed, or a call is required of no tool.
        UnknownToolError: the named tool is not among `tools`.
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
    if choice.name is not None:
        if choice.name not in names:
            raise UnknownToolError(choice.name, names)
        return [tool for tool in tools if tool.name == choice.name]
    if choice.mode == "required" and not tools:
        raise InvalidRequestError("a tool call is required, but no tools are offered")
    return tools if choice.mode != "none" else ()


def arguments_schema(tool: ToolSpec) -> JsonObject:
    """The schema a tool's arguments are generated from: an object that holds what it lists.

    Raises:
        UnsupportedSchemaError: the schema is too large or describes no object.
    """
    schema = {"type": "object", "properties": {}, **tool.input_schema}
    if schema["type"] != "object":
        raise UnsupportedSchemaError(
            f"tool {tool.name!r}: keyword 'type' at $ must be 'object', not {schema['type']!r}"
        )
    try:
        check_bounds(schema)
    except UnsupportedSchemaError as exc:
        raise UnsupportedSchemaError(f"tool {tool.name!r}: {exc}") from exc
    return close_objects(schema)


def _call_rules(
    wire_format: WireFormat,
    tools: Sequence[ToolSpec],
    choice: ToolChoice,
    marker_ids: Mapping[str, int],
) -> list[str]:
    def literal(text: str) -> str:
        return _literal(text, marker_ids)

    head, tail = wire_format.before_name, wire_format.before_arguments
    rules = [
        f"call_{index}: {literal(head + tool.name + tail)}"
        f" %json {dump_json(with_options(arguments_schema(tool)))}"
        f" {literal(wire_format.after_arguments)}"
        for index, tool in enumerate(tools)
    ]
    rules.append("call: " + " | ".join(f"call_{index}" for index in range(len(tools))))
    again = ""
    if choice.parallel and wire_format.between_calls is not None:
        again = f" ({literal(wire_format.between_calls)} call)*"
    rest_of_open = literal(wire_format.opens.removeprefix(wire_format.trigger))
    rules.append(f"calls: {rest_of_open} call{again} {literal(wire_format.closes)}")
    if wire_format.has_call_ids:
        rules.append(f"CALL_ID: /[A-Za-z0-9]{{{CALL_ID_CHARS}}}/")
    return rules


def _lead(wire_format: WireFormat, marker_ids: Mapping[str, int]) -> str:
    """Text up to and including what opens the first call."""
    trigger = _literal(wire_format.trigger, marker_ids)
    if wire_format.trigger in marker_ids:
        return f"lead: TEXT {trigger}"
    # A greedy text would swallow the spelled marker; `suffix` ends it at the first one.
    return f"lead[suffix={trigger}]: TEXT"


def _text(wire_format: WireFormat) -> str:
    """Any text that does not open a call."""
    trigger = re.escape(wire_format.trigger).replace("/", "\\/").replace("\\ ", " ")
    return f"TEXT: /(?s:.*)/ & ~/(?s:.*){trigger}(?s:.*)/"


def _text_only(wire_format: WireFormat, marker_ids: Mapping[str, int]) -> GrammarSource:
    """Text of a model that sees tools and may not call one.

    Spelled markers are ruled out at their first character where the text begins: a model about
    to call would otherwise be led into the marker and left there with a broken one.
    """
    text = _text(wire_format)
    if wire_format.trigger not in marker_ids:
        text += f" & /([^{re.escape(wire_format.trigger[0])}](?s:.*))?/"
    return _lark("start: TEXT", text)


def _literal(text: str, marker_ids: Mapping[str, int]) -> str:
    """The text, its markers as tokens where the vocabulary has them, else as bytes."""
    pattern = "|".join(map(re.escape, (CALL_ID, *marker_ids)))
    pieces = (piece for piece in re.split(f"({pattern})", text) if piece)
    return " ".join(_terminal(piece, marker_ids) for piece in pieces)


def _terminal(piece: str, marker_ids: Mapping[str, int]) -> str:
    if piece == CALL_ID:
        return "CALL_ID"
    return f"<[{marker_ids[piece]}]>" if piece in marker_ids else _quote(piece)


def _lark(*rules: str) -> GrammarSource:
    return GrammarSource("lark", "\n".join(rules))


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
