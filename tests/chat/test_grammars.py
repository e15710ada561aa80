"""Tests of a model's grammars: what is remembered, and from several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from runtime.chat.grammars import MAX_CATALOGUES, Grammars
from runtime.chat.messages import ToolChoice
from runtime.chat.support import ToolSupport
from runtime.chat.wire_formats.arguments import HintValues
from runtime.chat.wire_formats.format import WireFormat, bind
from runtime.chat.wire_formats.gemma import FUNCTION_GEMMA
from runtime.chat.wire_formats.grammar import TurnShape
from runtime.chat.wire_formats.hermes import HERMES, QWEN_CODER
from runtime.errors import UnsupportedSchemaError
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.vocabularies import accepts
from tools.spec import JsonObject, ToolSpec

TOKENIZER = tiny_tokenizer()
REQUIRED = TurnShape(ToolChoice("required"))


def grammars_of(wire: WireFormat = HERMES) -> Grammars:

    return Grammars(bind(wire, {}), TOKENIZER, TOKENIZER.eos_id)


def tool_of(name: str, schema: JsonObject) -> ToolSpec:
    properties = {"v": schema}
    return ToolSpec(name, "", {"type": "object", "properties": properties, "required": ["v"]})


def test_turns_are_remembered_by_their_tools_and_only_so_many() -> None:
    grammars = grammars_of()
    tools = [tool_of(f"t{at}", {"type": "integer"}) for at in range(MAX_CATALOGUES + 1)]
    first = grammars.compile(tools[:1], REQUIRED)
    assert grammars.compile(tools[:1], REQUIRED) is first
    for tool in tools[1:]:
        grammars.compile([tool], REQUIRED)
    # Each is known by the identities of its tools and by what they say.
    assert len(grammars._turns) == 2 * MAX_CATALOGUES
    # Whoever is forgotten may be another by the same identity later on.
    by_identity = [(key, known) for key, known in grammars._turns.items() if known.tools]
    assert len(by_identity) == MAX_CATALOGUES
    for key, known in by_identity:
        assert isinstance(key, tuple)
        assert key[0] == tuple(map(id, known.tools))


def test_threads_get_the_same_grammar_and_support() -> None:
    grammars = grammars_of(QWEN_CODER)
    tools = [tool_of(f"t{at}", {"type": "string", "format": "date"}) for at in range(6)]
    with ThreadPoolExecutor(8) as pool:
        compiled = list(pool.map(lambda _: grammars.compile(tools, REQUIRED), range(16)))
        supports = list(pool.map(lambda _: grammars.support_of(tools), range(16)))
    assert len({id(one.finder) for one in compiled if one is not None}) == 1
    expected = {tool.name: ToolSupport("lenient", ("format at $.v",)) for tool in tools}
    assert supports == [expected] * 16


def test_lists_of_one_turn_are_not_those_of_the_next() -> None:
    grammars = grammars_of()
    tools = [tool_of("t", {"type": "string", "x-choices-from": "names"})]
    text = '<tool_call>\n{"name": "t", "arguments": {"v": "b"}}\n</tool_call>'
    found = []
    for names in (["a"], ["b"], ["a"]):
        grammar = grammars.compile(
            tools, TurnShape(ToolChoice("required"), hints=HintValues({"names": names}))
        )
        assert grammar is not None
        found.append(accepts(grammar.constraint(500), TOKENIZER.encode(text)))
    assert found == [False, True, False]


def test_equal_references_of_two_tools_lead_to_each_ones_own_schema() -> None:
    def tool(name: str, value: str) -> ToolSpec:
        spec = tool_of(name, {"$ref": "#/$defs/x"})
        spec.input_schema["$defs"] = {"x": {"enum": [value]}}
        return spec

    grammar = grammars_of(FUNCTION_GEMMA).compile([tool("a", "one"), tool("b", "two")], REQUIRED)
    assert grammar is not None
    for name, value, is_legal in (("a", "one", True), ("b", "two", True), ("b", "one", False)):
        call = f"<start_function_call>call:{name}{{v:<escape>{value}<escape>}}<end_function_call>"
        assert accepts(grammar.constraint(500), TOKENIZER.encode(call)) == is_legal


@pytest.mark.parametrize(
    ("wire", "schema", "message"),
    [
        (
            FUNCTION_GEMMA,
            {"type": "object", "properties": {"a:b": {}}},
            ("tool 't': keyword 'properties' at $.v: the model's notation cannot write 'a:b'"),
        ),
        (
            FUNCTION_GEMMA,
            {"enum": ["<escape>"]},
            "tool 't': keyword 'enum' at $.v: no value can be written",
        ),
        (
            QWEN_CODER,
            {"enum": ["a\n</parameter>"]},
            "tool 't': keyword 'enum' at $.v: no value can be written",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_by_its_name(
    wire: WireFormat, schema: JsonObject, message: str
) -> None:
    with pytest.raises(UnsupportedSchemaError) as caught:
        grammars_of(wire).support(tool_of("t", schema))
    assert str(caught.value) == message


def test_name_that_begins_like_another_argument_is_refused() -> None:
    schema = {"type": "object", "properties": {"a": {}, "a>\nb": {}}}
    with pytest.raises(UnsupportedSchemaError) as caught:
        grammars_of(QWEN_CODER).support(ToolSpec("t", "", schema))
    assert str(caught.value) == (
        "tool 't': keyword 'properties' at $: 'a>\\nb' would be taken for 'a'"
    )
