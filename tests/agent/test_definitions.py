"""Tests of definitions that hide something, or never end."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

from runtime.agent.definitions import (
    MAX_DESCRIPTION_CHARS,
    MAX_TEXT_CHARS,
    clean_definition,
    hidden_place,
)
from runtime.agent.loop import Agent
from tests.helpers.scripted_chat_model import ScriptedChatModel, ScriptedTurn, play
from tests.helpers.scripted_tools import ScriptedToolset, echo
from tests.helpers.tool_sets import SETS
from tools.spec import JsonObject, ToolSpec

HIDDEN = [
    *("\0", "\x1b", "\r", "\x85", "\u202e", "\u2066", "\ue000", "\ud800"),
    *("\U000e0041", "\U000e0100", "\U000f0000"),
]
IN_VALUES_TOO = ["\u200d", "\ufe0f", "\u200b", "\ufeff", "\u00ad", "\u2060"]


def tool(schema: JsonObject, description: str = "Does it.") -> ToolSpec:
    return ToolSpec("s__t", description, schema, server="s")


@pytest.mark.parametrize("spec", SETS["mixed"], ids=lambda spec: spec.name)
def test_honest_definitions_stay_the_very_same(spec: ToolSpec) -> None:
    assert clean_definition(spec) is spec
    assert hidden_place(spec) is None


def test_tabs_lines_escapes_and_every_script_are_shown() -> None:
    text = 'a\tb\n"c" \\b \\u0041 \N{GREEK SMALL LETTER ALPHA} \u6771\u4eac \N{GRINNING FACE}'
    schema = {"properties": {"p": {"description": text, "pattern": "\\bx\\r", "enum": [text]}}}
    spec = tool(schema, text)
    assert clean_definition(spec) is spec
    assert hidden_place(spec) is None


@pytest.mark.parametrize("char", HIDDEN + IN_VALUES_TOO, ids=ascii)
def test_hidden_characters_are_taken_out_of_texts_at_any_depth(char: str) -> None:
    def nest(text: str, examples: JsonObject) -> JsonObject:
        leaf = {"type": "string", "description": text, "title": text, **examples}
        return {
            "description": text,
            "properties": {"description": leaf, "list": {"items": {"anyOf": [leaf, True]}}},
            "$defs": {"d": leaf},
        }

    hidden = f"a{char}b"
    spec = tool(nest(hidden, {"default": hidden, "examples": [{"x": [hidden]}]}), hidden)
    cleaned = clean_definition(spec)
    assert cleaned == tool(nest("ab", {}), "ab")
    assert hidden_place(cleaned) is None


def test_long_texts_are_cut() -> None:
    long = "x" * 20_000
    cleaned = clean_definition(tool({"properties": {"p": {"description": long}}}, long))
    assert cleaned == tool(
        {"properties": {"p": {"description": "x" * MAX_TEXT_CHARS}}}, "x" * MAX_DESCRIPTION_CHARS
    )


@pytest.mark.parametrize("char", HIDDEN, ids=ascii)
@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"properties": {"p": {"enum": ["fine", "a{}b"]}}}, "$.properties.p.enum[1]"),
        ({"properties": {"p": {"const": {"k": "a{}b"}}}}, "$.properties.p.const.k"),
        ({"properties": {"a{}b": {}}}, "a name in $.properties"),
        ({"required": ["a{}b"]}, "$.required[0]"),
        ({"properties": {"p": {"pattern": "a{}b"}}}, "$.properties.p.pattern"),
        ({"x-anything": {"deep": ["a{}b"]}}, "$.x-anything.deep[0]"),
    ],
)
def test_names_and_values_that_hide_something_are_found(
    char: str, schema: JsonObject, place: str
) -> None:
    def put(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("{}", char)
        if isinstance(value, list):
            return [put(item) for item in value]
        return {put(name): put(part) for name, part in value.items()}

    assert hidden_place(clean_definition(tool(put(schema)))) == place


@pytest.mark.parametrize("char", ["\u200d", "\ufe0f"], ids=ascii)
def test_joiners_and_selectors_have_a_place_in_values(char: str) -> None:
    spec = tool({"properties": {"p": {"enum": [f"a{char}b"]}}})
    assert clean_definition(spec) == spec
    assert hidden_place(spec) is None


@pytest.mark.parametrize("levels", [60, 90, 5000])
def test_depth_is_no_way_around(levels: int) -> None:
    schema: JsonObject = {"enum": ["a\u202eb"]}
    for _ in range(levels):
        schema = {"items": schema}
    assert hidden_place(clean_definition(tool(schema))) is not None


@pytest.mark.anyio
async def test_model_is_shown_cleaned_tools_and_none_that_hides_something(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "runtime.agent.loop")
    bad = ToolSpec("s__bad", "Fine.", {"properties": {"p": {"enum": ["\u202e"]}}}, server="s")
    toolset = ScriptedToolset([(tool({}, "Good\u202e tool."), echo), (bad, echo)])
    agent = Agent(ScriptedChatModel(play(ScriptedTurn("done"))), toolset)
    with anyio.fail_after(5):
        assert await agent.list_tools() == [tool({}, "Good tool.")]
    assert [record.getMessage() for record in caplog.records] == [
        "tool='s__bad' is not offered: its definition hides characters in $.properties.p.enum[0]"
    ]
