"""Tests of the streaming parser: same events however the text is cut."""

from __future__ import annotations

import itertools
import random
import sys

import pytest

from runtime.chat.messages import TextDelta, ToolCall, ToolCallDelta
from runtime.chat.parser import MarkedText, ParserEvent, TurnParser
from runtime.chat.wire_formats.format import bind
from runtime.chat.wire_formats.hermes import HERMES
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tools.spec import ToolSpec

ARGUMENTS = '{"city":"Zürich \\"{é}\\" </tool_call>","n":[1,{}]}'
CALL = f'<tool_call>\n{{"name": "get_time", "arguments": {ARGUMENTS}}}\n</tool_call>'
EMPTY_CALL = '<tool_call>\n{"name": "list", "arguments": {}}\n</tool_call>'

TURNS: list[tuple[str, list[ParserEvent], int]] = [
    ("just text", [TextDelta("just text")], 0),
    ("a < b <tool_cal", [TextDelta("a < b <tool_cal")], 0),
    ("", [], 0),
    (CALL, [ToolCallDelta(0, "get_time"), ToolCallDelta(0, None, ARGUMENTS)], 1),
    (
        f"<<tool_call>{CALL.removeprefix('<tool_call>')}\n{EMPTY_CALL}",
        [
            TextDelta("<"),
            ToolCallDelta(0, "get_time"),
            ToolCallDelta(0, None, ARGUMENTS),
            ToolCallDelta(1, "list"),
            ToolCallDelta(1, None, "{}"),
        ],
        2,
    ),
    (
        f"so\n{EMPTY_CALL}\n{CALL[:-20]}",
        [
            TextDelta("so\n"),
            ToolCallDelta(0, "list"),
            ToolCallDelta(0, None, "{}"),
            ToolCallDelta(1, "get_time"),
            ToolCallDelta(1, None, ARGUMENTS[:-6]),
        ],
        1,
    ),
]


BOUND = bind(HERMES, {})
TOOLS = (ToolSpec("get_time", "", {"type": "object"}), ToolSpec("list", "", {"type": "object"}))


def parse(pieces: list[str], *, has_free_text: bool = True) -> tuple[list[ParserEvent], TurnParser]:
    numbers = itertools.count()
    parser = TurnParser(
        BOUND, TOOLS, has_free_text=has_free_text, make_call_id=lambda: f"call_{next(numbers)}"
    )
    events = [event for piece in pieces for event in parser.push(piece)]
    return joined([*events, *parser.finish()]), parser


def joined(events: list[ParserEvent]) -> list[ParserEvent]:
    """Merge neighbouring deltas of the same thing."""
    merged: list[ParserEvent] = []
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            merged[-1] = TextDelta(last.text + event.text)
        elif (
            isinstance(event, ToolCallDelta)
            and isinstance(last, ToolCallDelta)
            and event.name is last.name is None
        ):
            merged[-1] = ToolCallDelta(last.index, None, last.arguments + event.arguments)
        else:
            merged.append(event)
    return merged


@pytest.mark.parametrize(("text", "events", "num_calls"), TURNS)
def test_events_are_the_same_at_every_split(
    text: str, events: list[ParserEvent], num_calls: int
) -> None:
    splits = [[text], list(text), *([text[:at], text[at:]] for at in range(len(text)))]
    draw = random.Random(0)
    for _ in range(200):
        cuts = sorted(draw.choices(range(len(text) + 1), k=5))
        splits.append([text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])])
    for pieces in splits:
        found, parser = parse(pieces)
        assert found == events
        assert len(parser.calls) == num_calls


def test_completed_calls_carry_parsed_arguments() -> None:
    _, parser = parse([f"ok {EMPTY_CALL}\n{CALL}"])
    assert parser.text == "ok "
    assert parser.calls == [
        ToolCall("call_0", "list", {}),
        ToolCall("call_1", "get_time", {"city": 'Zürich "{é}" </tool_call>', "n": [1, {}]}),
    ]
    assert not parser.is_cut


@pytest.mark.parametrize("length", range(len("<tool_call>"), len(EMPTY_CALL)))
def test_call_that_was_cut_short_is_no_call(length: int) -> None:
    _, parser = parse([EMPTY_CALL[:length]])
    assert parser.is_cut
    assert parser.calls == []


def test_cut_between_two_calls_shows() -> None:
    for text, is_cut in ((EMPTY_CALL, False), (f"{EMPTY_CALL}\n<to", True)):
        _, parser = parse([text])
        assert (parser.is_cut, len(parser.calls)) == (is_cut, 1)


def test_without_free_text_only_the_start_can_be_a_call() -> None:
    answer = f'{{"a":"{EMPTY_CALL[:11]}"}}'
    for pieces in ([answer], list(answer)):
        events, parser = parse(pieces, has_free_text=False)
        assert events == [TextDelta(answer)]
        assert not parser.calls
    events, parser = parse(list(EMPTY_CALL), has_free_text=False)
    assert [call.name for call in parser.calls] == ["list"]
    events, _ = parse(["<tool"], has_free_text=False)
    assert events == [TextDelta("<tool")]


def test_deltas_come_as_soon_as_they_are_certain() -> None:
    parser = TurnParser(BOUND, TOOLS)
    seen = [parser.push(piece) for piece in ("hi <", "tool", "box> x", EMPTY_CALL[:-3])]
    assert seen == [
        [TextDelta("hi ")],
        [],
        [TextDelta("<toolbox> x")],
        [ToolCallDelta(0, "list"), ToolCallDelta(0, None, "{}")],
    ]


def test_arguments_that_python_cannot_hold_are_bounded_or_reported() -> None:
    largest = sys.float_info.max
    written = f'{{"a":1e999,"b":-1e999,"c":{"9" * 5000},"d":{10**300},"e":0.5}}'
    _, parser = parse([EMPTY_CALL.replace("{}", written)])
    assert parser.calls[0].arguments == {
        "a": largest,
        "b": -largest,
        "c": largest,
        "d": 10**300,
        "e": 0.5,
    }
    deep = f'{{"a":{"[" * 50_000}{"]" * 50_000}}}'
    _, parser = parse([EMPTY_CALL.replace("{}", deep)])
    assert parser.calls == []
    assert parser.problem == "the arguments of 'list' nest too deep to be read"


def test_marker_tokens_become_characters_that_no_text_holds() -> None:
    tokenizer = tiny_tokenizer("<tool_call>", "</tool_call>")
    bound = bind(HERMES, {text: tokenizer.special_ids[text] for text in HERMES.markers})
    marked = MarkedText(bound.ids, tokenizer)
    token_ids = tokenizer.encode(f"n\u00e9 {EMPTY_CALL}", parse_special=True)
    broken = tokenizer.encode("\u00e9")[0]  # the first byte of two
    text = marked.push([*token_ids, broken]) + marked.push(token_ids[-1:])
    opens, closes = bound.ids
    expected = f"n\u00e9 {EMPTY_CALL}".replace("<tool_call>", opens).replace("</tool_call>", closes)
    assert text == f"{expected}\ufffd{closes}"
    assert marked.ends[-1] == len(text)
    assert bound.spell(text) == f"n\u00e9 {EMPTY_CALL}\ufffd</tool_call>"
