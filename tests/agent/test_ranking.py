"""Tests of how tools are found by words."""

from __future__ import annotations

import pytest

from runtime.agent.ranking import ToolIndex
from tests.helpers.many_tools import many_specs
from tools.spec import ToolSpec


def tool(name: str, description: str, *parameters: str, server: str | None = None) -> ToolSpec:
    schema = {"type": "object", "properties": {parameter: {} for parameter in parameters}}
    return ToolSpec(name, description, schema, server=server)


TOOLS = (
    tool("fs__readTextFile", "Reads a file.", "path", server="fs"),
    tool("fs__write_file", "Writes text into a file.", "path", "content", server="fs"),
    tool("mail__send", "Sends a message to somebody.", "to", "subject", server="mail"),
    tool("calc__add", "Calculates the sum of numbers.", "numbers", server="calc"),
    tool("misc__wetter", "Wie das Wetter in 東京 wird.", server="misc"),
)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("write a file", ["fs__write_file", "fs__readTextFile", "mail__send"]),
        ("read text", ["fs__readTextFile", "fs__write_file"]),
        ("fs__write_file", ["fs__write_file", "fs__readTextFile"]),
        ("READTEXTFILE files", ["fs__readTextFile", "fs__write_file"]),
        ("messages", ["mail__send"]),
        ("subject", ["mail__send"]),
        ("calculation", ["calc__add"]),
        ("mail", ["mail__send"]),
        ("東京", ["misc__wetter"]),
        ("wetter", ["misc__wetter"]),
        ("zebra", []),
        ("", []),
        ("?!", []),
    ],
)
def test_tools_are_found_by_words_of_name_description_parameters_and_server(
    query: str, found: list[str]
) -> None:
    assert [tool.name for tool in ToolIndex(TOOLS).find(query, 5)] == found


def test_at_most_so_many_are_found_and_equals_stay_in_order() -> None:
    tools = [tool(f"same_{letter}", "Does it.") for letter in "abcdef"]
    assert ToolIndex(tools).find("same", 3) == tools[:3]


def test_nothing_is_found_among_no_tools_or_tools_without_words() -> None:
    assert ToolIndex([]).find("word", 5) == []
    assert ToolIndex([ToolSpec("_", "", {"properties": 3})]).find("word", 5) == []


def test_each_of_300_tools_is_among_the_first_for_what_it_does() -> None:
    specs = many_specs(300)
    index = ToolIndex(specs)
    assert len({spec.name for spec in specs}) == 300
    for spec in specs:
        query = " ".join(spec.name.partition("__")[2].split("_"))
        assert index.find(query, 5)[0] == spec
        assert spec in index.find(spec.description, 5)
