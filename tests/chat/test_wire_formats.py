"""Tests of what a turn may say, with markers as tokens and as bytes."""

from __future__ import annotations

import random

import jsonschema
import pytest

from runtime.chat.messages import AUTO, Message, ToolCall, ToolChoice
from runtime.chat.parser import MarkedText, TurnParser
from runtime.chat.wire_formats.format import bind
from runtime.chat.wire_formats.grammar import TurnShape, turn_grammar
from runtime.chat.wire_formats.hermes import HERMES
from runtime.chat.wire_formats.render import (
    add_to_system,
    describe_tools,
    dump_compact,
    plain_messages,
    write_calls,
)
from runtime.errors import UnsupportedSchemaError
from runtime.grammar.compile import GrammarSource, compile_grammar, from_json_schema
from runtime.tokenizer.tokenizer import Tokenizer
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.vocabularies import accepts, allowed_ids, vocabulary_of
from tools.errors import InvalidRequestError, UnknownToolError
from tools.spec import ToolSpec

ADD = ToolSpec(
    "add",
    "Adds.",
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/$defs/small"}},
        "required": ["a"],
        "$defs": {"small": {"enum": [1, 2]}},
    },
)
NOW = ToolSpec("now", "Tells the time.", {"type": "object"})
TOOLS = (ADD, NOW)

CALL_ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 12, "b": 2}}\n</tool_call>'
CALL_NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'

AS_BYTES = tiny_tokenizer()
AS_TOKENS = tiny_tokenizer("<tool_call>", "</tool_call>")
VOCABULARIES = {id(one): vocabulary_of(one) for one in (AS_BYTES, AS_TOKENS)}

UNBOUND = bind(HERMES, {})
REQUIRED, NONE = ToolChoice("required"), ToolChoice("none")
TEXTS = ["", "Hello.\n\n日本 <tool>", "a <tool_cal"]
CHATTER = [f"{CALL_ADD} done", f"{CALL_ADD}\n", f"{CALL_ADD}\n\n{CALL_NOW}"]
WRONG = [
    "Say <tool_call> what",
    CALL_ADD[:-1],
    CALL_NOW.replace("now", "later"),
    CALL_ADD.replace("12", '"12"'),
    CALL_ADD.replace('"b": 2', '"b": 3'),
    CALL_ADD.replace('"b": 2', '"c": 2'),
    CALL_ADD.replace('"a": 12, ', ""),
    CALL_ADD.replace(": 12", ":12"),
    CALL_NOW.replace("{}", '{"x": 1}'),
    "<tool_call>" + CALL_NOW,
]
SHAPES: list[tuple[ToolChoice, list[str], list[str]]] = [
    (
        AUTO,
        [*TEXTS, CALL_ADD, f"Sure:\n{CALL_NOW}", f"x{CALL_NOW}\n{CALL_ADD}\n{CALL_NOW}"],
        [*CHATTER, *WRONG],
    ),
    (ToolChoice("auto", parallel=False), ["x", CALL_ADD], [f"{CALL_ADD}\n{CALL_NOW}", *WRONG]),
    (NONE, TEXTS, [CALL_ADD, f"x{CALL_NOW}", "<tool_call>", *WRONG]),
    (REQUIRED, [CALL_ADD, CALL_NOW, f"{CALL_NOW}\n{CALL_NOW}"], [*TEXTS, *CHATTER, *WRONG]),
    (ToolChoice("required", parallel=False), [CALL_NOW], [*TEXTS, f"{CALL_NOW}\n{CALL_NOW}"]),
    (ToolChoice(name="now"), [CALL_NOW, f"{CALL_NOW}\n{CALL_NOW}"], [*TEXTS, CALL_ADD]),
]


def markers_of(tokenizer: Tokenizer) -> dict[str, int]:
    return {m: tokenizer.special_ids[m] for m in HERMES.markers if m in tokenizer.special_ids}


def accepted(
    tokenizer: Tokenizer, choice: ToolChoice, output: GrammarSource | None, text: str
) -> bool:
    marker_ids = markers_of(tokenizer)
    source = turn_grammar(bind(HERMES, marker_ids), TOOLS, TurnShape(choice, output))
    assert source is not None
    constraint = compile_grammar(source, VOCABULARIES[id(tokenizer)]).constraint()
    return accepts(constraint, tokenizer.encode(text, parse_special=True))


@pytest.mark.parametrize("tokenizer", [AS_BYTES, AS_TOKENS], ids=["bytes", "tokens"])
@pytest.mark.parametrize(("choice", "legal", "illegal"), SHAPES)
def test_choice_shapes_the_turn(
    tokenizer: Tokenizer, choice: ToolChoice, legal: list[str], illegal: list[str]
) -> None:
    assert [text for text in legal if not accepted(tokenizer, choice, None, text)] == []
    assert [text for text in illegal if accepted(tokenizer, choice, None, text)] == []


def test_marker_that_is_a_token_cannot_be_spelled() -> None:
    source = turn_grammar(bind(HERMES, markers_of(AS_TOKENS)), TOOLS, TurnShape(AUTO))
    assert source is not None
    constraint = compile_grammar(source, VOCABULARIES[id(AS_TOKENS)]).constraint()
    spelled = AS_TOKENS.encode("<tool_call>")
    assert constraint.advance(spelled) < len(spelled)


def test_text_that_may_not_call_does_not_begin_like_a_spelled_call() -> None:
    for tokenizer, is_legal in ((AS_BYTES, False), (AS_TOKENS, True)):
        assert accepted(tokenizer, NONE, None, "<b>Noon</b>") == is_legal
        assert accepted(tokenizer, NONE, None, "\n<b>Noon</b>")


@pytest.mark.parametrize("tokenizer", [AS_BYTES, AS_TOKENS], ids=["bytes", "tokens"])
def test_output_takes_the_place_of_free_text(tokenizer: Tokenizer) -> None:
    number = from_json_schema({"type": "integer"})
    for output in (
        number,
        GrammarSource("regex", "[0-9]+"),
        GrammarSource("lark", "start: /[0-9]+/"),
    ):
        for choice, legal, illegal in (
            (AUTO, ["42", CALL_NOW], ["x", f"4{CALL_NOW}"]),
            (NONE, ["42"], ["x", CALL_NOW]),
            (REQUIRED, [CALL_NOW], ["42"]),
        ):
            assert all(accepted(tokenizer, choice, output, text) for text in legal)
            assert not any(accepted(tokenizer, choice, output, text) for text in illegal)


PLAN = ToolSpec(
    "plan",
    "Plans.",
    {
        "type": "object",
        "properties": {
            "title": {"type": "string", "maxLength": 4},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "tags": {"type": "array", "items": {"enum": ["a", '\u00e9"\\']}, "maxItems": 2},
            "near": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
            "at": {"type": "object", "properties": {"x": {"type": "number"}}},
        },
        "required": ["days", "at"],
    },
)


@pytest.mark.parametrize("tokenizer", [AS_BYTES, AS_TOKENS], ids=["bytes", "tokens"])
def test_whatever_is_drawn_parses_and_validates(tokenizer: Tokenizer) -> None:
    bound = bind(HERMES, markers_of(tokenizer))
    source = turn_grammar(bound, [PLAN, ADD], TurnShape(REQUIRED))
    assert source is not None
    grammar = compile_grammar(source, VOCABULARIES[id(tokenizer)])
    draw = random.Random(0)
    num_calls = 0
    for _ in range(25):
        constraint, parser = grammar.constraint(), TurnParser(bound, [PLAN, ADD])
        text = MarkedText(bound.ids, tokenizer)
        for _ in range(300):
            allowed = sorted(allowed_ids(constraint, tokenizer.vocab_size))
            chosen = constraint.forced() or [draw.choice(allowed)]
            assert constraint.advance(chosen) == len(chosen)
            parser.push(text.push([one for one in chosen if one not in tokenizer.stop_ids]))
            if constraint.state == "done":
                break
        if constraint.state == "done":
            assert parser.calls
            assert not parser.is_cut
        for call in parser.calls:
            schema = PLAN.input_schema if call.name == "plan" else ADD.input_schema
            jsonschema.validate(call.arguments, schema)
            num_calls += 1
    assert num_calls > 25


def test_nothing_to_constrain_is_no_grammar() -> None:
    assert turn_grammar(UNBOUND, (), TurnShape(AUTO)) is None
    output = GrammarSource("regex", "a")
    assert turn_grammar(UNBOUND, (), TurnShape(AUTO, output)) is output


def test_required_calls_are_forced_up_to_the_first_choice() -> None:
    source = turn_grammar(UNBOUND, TOOLS, TurnShape(REQUIRED))
    assert source is not None
    constraint = compile_grammar(source, VOCABULARIES[id(AS_BYTES)]).constraint()
    said = []
    for choice in ("n", ""):
        forced = constraint.forced()
        constraint.advance(forced)
        said.append(AS_BYTES.decode(forced))
        constraint.advance(AS_BYTES.encode(choice))
    assert said == [
        '<tool_call>\n{"name": "',
        'ow", "arguments": {}}\n</tool_call>',
    ]


IMPOSSIBLE: list[tuple[tuple[ToolSpec, ...], ToolChoice, type[Exception], str]] = [
    ((), REQUIRED, InvalidRequestError, "no tools are offered"),
    (TOOLS, ToolChoice(name="ad"), UnknownToolError, "did you mean 'add'"),
    ((ADD, ADD), AUTO, InvalidRequestError, "given twice: add"),
    ((ToolSpec("a b", "", {}),), AUTO, InvalidRequestError, "tool name 'a b'"),
    ((ToolSpec("x", "", {"type": "string"}),), AUTO, UnsupportedSchemaError, "tool 'x'"),
    (
        (ToolSpec("x", "", {"properties": {"a": {"pattern": "a" * 9999}}}),),
        AUTO,
        UnsupportedSchemaError,
        "tool 'x': keyword 'pattern' at $.properties.a",
    ),
]


@pytest.mark.parametrize(("tools", "choice", "error", "message"), IMPOSSIBLE)
def test_impossible_choice_is_refused(
    tools: tuple[ToolSpec, ...], choice: ToolChoice, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        turn_grammar(UNBOUND, tools, TurnShape(choice))
    assert message in str(caught.value)


def test_rendered_call_is_what_the_grammar_accepts() -> None:
    call = ToolCall("1", "add", {"a": 12, "b": 2})
    assert write_calls(HERMES, [call]) == CALL_ADD


def test_conversation_for_a_template_without_tools() -> None:
    messages = [
        Message("system", "Be brief."),
        Message("user", "Time?"),
        Message("assistant", "Look:", (ToolCall("1", "now", {}), ToolCall("2", "now", {}))),
        Message("tool", "noon", call_id="1", name="now"),
        Message("tool", "one", call_id="2", name="now"),
        Message("assistant", "Noon."),
    ]
    rendered = plain_messages(HERMES, messages)
    add_to_system(rendered, describe_tools(HERMES, [NOW], dump_compact))
    tool = (
        '{"type":"function","function":{"name":"now","description":"Tells the time.",'
        '"parameters":{"type":"object"}}}'
    )
    assert rendered == [
        {
            "role": "system",
            "content": f"Be brief.\n\n{HERMES.tools_before}\n{tool}{HERMES.tools_after}",
        },
        {"role": "user", "content": "Time?"},
        {"role": "assistant", "content": f"Look:\n{CALL_NOW}\n{CALL_NOW}"},
        {
            "role": "user",
            "content": (
                "<tool_response>\nnoon\n</tool_response>\n<tool_response>\none\n</tool_response>"
            ),
        },
        {"role": "assistant", "content": "Noon."},
    ]
