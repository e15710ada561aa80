"""Tests of the hints in tools' schemas, in all three ways of writing arguments."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from runtime.chat.cursor import TurnCursor
from runtime.chat.grammars import Grammars
from runtime.chat.limited import LimitedConstraint, WaysOut, limits_of
from runtime.chat.messages import ToolCall, ToolChoice
from runtime.chat.parser import MarkedText, TurnParser
from runtime.chat.support import ToolSupport
from runtime.chat.wire_formats.arguments import HintValues
from runtime.chat.wire_formats.format import (
    BoundFormat,
    FieldArguments,
    NotationArguments,
    WireFormat,
    bind,
)
from runtime.chat.wire_formats.gemma import FUNCTION_GEMMA, GEMMA4
from runtime.chat.wire_formats.grammar import TurnShape
from runtime.chat.wire_formats.hermes import GLM47, HERMES, QWEN_CODER
from runtime.chat.wire_formats.mistral import MISTRAL_V13
from runtime.chat.wire_formats.render import write_calls
from runtime.grammar.closing import BudgetedConstraint
from runtime.tokenizer.tokenizer import Tokenizer
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.vocabularies import accepts, allowed_ids
from tools.errors import InvalidRequestError
from tools.spec import JsonObject, ToolSpec

FORMATS = (HERMES, MISTRAL_V13, QWEN_CODER, GLM47, FUNCTION_GEMMA, GEMMA4)
MARKERS = dict.fromkeys(marker for one in FORMATS for marker in one.markers)
TOKENIZERS = {"tokens": tiny_tokenizer(*MARKERS), "bytes": tiny_tokenizer()}
REQUIRED = ToolChoice("required", parallel=False)
TEXT: JsonObject = {"type": "string"}

MESSAGE = 'Ship "AB-77" to Zürich,\nplease: C:\\x </parameter> <escape>'
FILES = ('a"b.txt', "日本", "two\nlines", "C:\\x", "plain", "plainer")


def hinted(hint: JsonObject, *, required: bool = True, **defs: JsonObject) -> ToolSpec:
    schema: JsonObject = {"type": "object", "properties": {"v": {**TEXT, **hint}}}
    return ToolSpec("use", "", {**schema, "required": ["v"] if required else [], **defs})


CHOICE, VERBATIM = {"x-choices-from": "files"}, {"x-verbatim-from": "user"}


class Model:
    """A format in a vocabulary."""

    def __init__(self, wire: WireFormat, tokenizer: Tokenizer) -> None:
        ids = {
            text: tokenizer.special_ids[text]
            for text in wire.markers
            if text in tokenizer.special_ids
        }
        self.bound: BoundFormat = bind(wire, ids)
        self.tokenizer = tokenizer
        self.grammars = Grammars(self.bound, tokenizer, tokenizer.eos_id)

    def constraint(
        self,
        tool: ToolSpec,
        choices: Mapping[str, Sequence[str]],
        user: str = MESSAGE,
        max_tokens: int = 4000,
    ) -> BudgetedConstraint:
        hints = HintValues(choices, {"user": user, "conversation": f"{user}\nresult 42"})
        grammar = self.grammars.compile([tool], TurnShape(REQUIRED, hints=hints))
        assert grammar is not None
        return grammar.constraint(max_tokens)

    def encode(self, tool: ToolSpec, arguments: JsonObject) -> list[int]:
        written = write_calls(
            self.bound.wire, [ToolCall("0", tool.name, arguments)], hide="\ue000{}\ue001".format
        )
        token_ids = []
        for at, piece in enumerate(written.replace("\ue001", "\ue000").split("\ue000")):
            if at % 2:
                token_ids += self.tokenizer.encode(piece)
                continue
            for char in piece:
                known = self.bound.ids.get(char)
                token_ids += self.tokenizer.encode(char) if known is None else [known]
        return token_ids

    def accepts(self, tool: ToolSpec, arguments: JsonObject, **options: Any) -> bool:
        constraint = self.constraint(tool, options.pop("choices", {"files": FILES}), **options)
        return accepts(constraint, self.encode(tool, arguments))


MODELS = [
    pytest.param(Model(wire, tokenizer), id=f"{wire.name}-{kind}")
    for wire in FORMATS
    for kind, tokenizer in TOKENIZERS.items()
]
every_model = pytest.mark.parametrize("model", MODELS)


@every_model
def test_text_is_one_of_the_requests_list(model: Model) -> None:
    tool = hinted(CHOICE)
    assert [one for one in FILES if not model.accepts(tool, {"v": one})] == []
    for wrong in ("plai", "plainest", "", "two", "a"):
        assert not model.accepts(tool, {"v": wrong})
    assert not model.accepts(tool, {})
    assert model.accepts(hinted(CHOICE, required=False), {})
    assert model.accepts(tool, {"v": "x"}, choices={"files": ["x"]})
    assert model.accepts(tool, {"v": ""}, choices={"files": ["", "x"]})


@every_model
def test_text_is_a_run_of_the_words_of_a_message(model: Model) -> None:
    tool = hinted(VERBATIM)
    legal = ["AB-77", "AB", "Zürich", "please", 'Ship "AB-77"', "to Zürich,\nplease", "C:\\x", "\n"]
    assert [one for one in legal if not model.accepts(tool, {"v": one})] == []
    for wrong in ("AB-78", "AB-7", "", "please Ship", "42", "zürich"):
        assert not model.accepts(tool, {"v": wrong})
    assert model.accepts(hinted(VERBATIM, required=False), {})
    heard = hinted({"x-verbatim-from": "conversation"})
    assert model.accepts(heard, {"v": "42"})
    limited = hinted({**VERBATIM, "maxLength": 4})
    assert model.accepts(limited, {"v": "Zürich"})  # refused when it is checked
    assert model.grammars.support_of([limited])["use"].dropped == ("maxLength at $.v",)


@every_model
def test_hints_hold_at_every_depth(model: Model) -> None:
    hint = {**TEXT, **CHOICE}
    tool = ToolSpec(
        "use",
        "",
        {
            "type": "object",
            "properties": {
                "list": {"type": "array", "items": hint},
                "inner": {"type": "object", "properties": {"v": hint, "n": {"type": "integer"}}},
                "known": {"$ref": "#/$defs/known"},
                "maybe": {"anyOf": [hint, {"type": "null"}]},
                "typed": {"type": ["string", "null"], **CHOICE},
            },
            "$defs": {"known": hint},
        },
    )
    legals: list[JsonObject] = [
        {},
        {"list": ["plain", "日本"]},
        {"list": []},
        {"inner": {"v": 'a"b.txt', "n": 3}},
        {"inner": {"n": 3}},
        {"known": "plain", "maybe": "plain", "typed": "plain"},
        {"maybe": None, "typed": None},
    ]
    for legal in legals:
        assert model.accepts(tool, legal), legal
    for illegal in (
        {"list": ["plain", "x"]},
        {"inner": {"v": "x"}},
        {"known": "x"},
        {"maybe": "x"},
        {"typed": "x"},
        {"typed": 3},
    ):
        assert not model.accepts(tool, illegal), illegal


@every_model
def test_hint_in_a_schema_that_refers_to_itself(model: Model) -> None:
    node = {
        "type": "object",
        "properties": {"v": {**TEXT, **CHOICE}, "next": {"$ref": "#/$defs/n"}},
    }
    schema = {"type": "object", "properties": {"top": {"$ref": "#/$defs/n"}}, "$defs": {"n": node}}
    tool = ToolSpec("use", "", schema)
    assert model.accepts(tool, {"top": {"v": "plain", "next": {"next": {"v": "plain"}}}})
    assert not model.accepts(tool, {"top": {"v": "plain", "next": {"next": {"v": "x"}}}})


@every_model
def test_only_texts_that_the_schema_allows_are_offered(model: Model) -> None:
    tool = hinted({**CHOICE, "maxLength": 5})
    assert model.accepts(tool, {"v": "plain"})
    assert not model.accepts(tool, {"v": "plainer"})
    with pytest.raises(InvalidRequestError) as caught:
        model.accepts(hinted({**CHOICE, "maxLength": 1}), {})
    assert str(caught.value) == "tool 'use': x-choices-from at $.v: no text of 'files' is allowed"


@every_model
@pytest.mark.parametrize(
    ("hint", "choices", "user", "message"),
    [
        (
            CHOICE,
            {},
            "?",
            "x-choices-from at $.v names 'files', which is no list of this request; given are none",
        ),
        (
            CHOICE,
            {"files": [], "b": ["x"]},
            "?",
            (
                "x-choices-from at $.v names 'files', which is no list of this request;"
                " given are b, files"
            ),
        ),
        (
            {"x-choices-from": 3},
            {"b": ["x"]},
            "?",
            "x-choices-from at $.v names 3, which is no list of this request; given are b",
        ),
        (CHOICE, {"files": ["\ud800"]}, "?", "x-choices-from at $.v: '\\ud800' is no Unicode text"),
        (
            {"x-verbatim-from": "system"},
            {},
            "?",
            (
                "x-verbatim-from at $.v names 'system', which is no text of this request; there are"
                " conversation, user"
            ),
        ),
        (
            VERBATIM,
            {},
            " \n",
            "x-verbatim-from at $.v: nothing can be taken from 'user', which is empty",
        ),
    ],
)
def test_hint_that_refers_to_nothing_names_tool_and_path(
    model: Model, hint: JsonObject, choices: dict[str, list[str]], user: str, message: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        model.constraint(hinted(hint), choices, user)
    assert str(caught.value) == f"tool 'use': {message}"


@every_model
def test_unknown_hints_are_ignored(model: Model) -> None:
    tool = hinted({"x-order": 3, "x-anything": {"a": []}})
    assert model.accepts(tool, {"v": "whatever"})
    assert model.grammars.support_of([tool]) == {"use": ToolSupport("strict")}


@every_model
def test_what_cannot_be_enforced_is_reported(model: Model) -> None:
    properties = {
        "number": {"type": "integer", "x-max-tokens": 3, **CHOICE},
        "map": {"type": "object", "additionalProperties": {**TEXT, "x-temperature": 1}},
    }
    tool = ToolSpec("use", "", {"type": "object", "properties": properties})
    assert model.grammars.support_of([tool]) == {
        "use": ToolSupport(
            "lenient",
            (
                "x-choices-from at $.number",
                "x-temperature at $.properties.map.additionalProperties",
                "x-max-tokens at $.properties.number",
            ),
        )
    }


@every_model
@pytest.mark.parametrize("limit", [1, 2, 5])
def test_text_ends_after_its_tokens(model: Model, limit: int) -> None:
    item = {**TEXT, "x-max-tokens": limit}
    schema = {
        "type": "object",
        "properties": {"v": item, "list": {"type": "array", "items": item, "maxItems": 2}},
        "required": ["v", "list"],
    }
    tool = ToolSpec("use", "", schema)
    draw, num_cut = random.Random(limit), 0
    for _ in range(25):
        arguments, num_tokens = draw_call(model, tool, draw)
        # An escape or a character that was begun is ended: a few bytes more.
        for text in (arguments["v"], *arguments["list"]):
            assert len(model.tokenizer.encode(text)) <= 40 * limit
        assert max(num_tokens) <= limit + 4 + longest_closing(model)
        num_cut += max(num_tokens) >= limit
    assert num_cut > 5
    assert model.grammars.support_of([tool])["use"].dropped == ()


def longest_closing(model: Model) -> int:
    style = model.bound.wire.arguments
    closing = style.after_value if isinstance(style, FieldArguments) else ""
    closing = style.quote if isinstance(style, NotationArguments) else closing
    return len(model.tokenizer.encode(closing)) if closing[:1] not in model.bound.ids else 1


def draw_call(model: Model, tool: ToolSpec, draw: random.Random) -> tuple[JsonObject, list[int]]:
    """Draw a call at random; return its arguments and how many tokens its texts took."""
    grammar = model.grammars.compile([tool], TurnShape(REQUIRED))
    assert grammar is not None

    def begin() -> tuple[TurnParser, MarkedText]:
        return TurnParser(model.bound, [tool]), MarkedText(model.bound.ids, model.tokenizer)

    constraint = LimitedConstraint(
        grammar.constraint(2000),
        {tool.name: limits_of(tool)},
        TurnCursor(begin),
        WaysOut(model.bound, grammar.compiled.vocabulary),
    )
    cursor, num_tokens, number = TurnCursor(begin), [0], 0
    while constraint.state != "done":
        if draw.random() < 0.1:
            constraint = constraint.fork()
        allowed = sorted(allowed_ids(constraint, model.tokenizer.vocab_size))
        chosen = constraint.forced() or [draw.choice(allowed)]
        assert constraint.advance(chosen) == len(chosen)
        if draw.random() < 0.1:
            constraint.rollback(len(chosen))
            assert constraint.advance(chosen) == len(chosen)
        for token_id in chosen:
            if token_id in model.tokenizer.stop_ids:
                continue
            cursor.push([token_id])
            at = cursor.arguments
            if at.is_in_text and at.num_texts == number:
                num_tokens[-1] += 1
            elif at.num_texts != number:
                num_tokens.append(0)
                number = at.num_texts
    parser, marked = begin()
    parser.push(marked.push(cursor._token_ids))
    parser.finish()
    assert not parser.is_cut
    [call] = parser.calls
    assert json.loads(json.dumps(call.arguments)) == call.arguments
    return call.arguments, num_tokens


@every_model
def test_limit_does_not_break_a_token_that_ends_more(model: Model) -> None:
    tool = hinted({"x-max-tokens": 3, "enum": ["a rather long text that is listed"]})
    draw = random.Random(0)
    arguments, _ = draw_call(model, tool, draw)
    assert arguments == {"v": "a rather long text that is listed"}


@pytest.mark.parametrize("value", [0, -1, 2.5, "9", True, None])
def test_limit_that_is_no_positive_integer_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        limits_of(hinted({"x-max-tokens": value}))
    assert str(caught.value) == (
        f"tool 'use': x-max-tokens at $.v must be an integer of at least 1, not {value!r}"
    )


@every_model
def test_call_is_finished_within_its_budget_under_hints(model: Model) -> None:
    tool = hinted(VERBATIM)
    constraint = model.constraint(tool, {}, max_tokens=120)
    draw = random.Random(0)
    for _ in range(121):
        allowed = sorted(allowed_ids(constraint, model.tokenizer.vocab_size))
        chosen = constraint.forced() or [draw.choice(allowed)]
        if not constraint.advance(chosen):
            constraint.advance(constraint.forced())
        if constraint.state == "done":
            return
    pytest.fail("the call was not finished")
