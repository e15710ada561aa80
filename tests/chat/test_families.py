"""Tests of every family's calls: rendered, accepted and read by the same row."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from runtime.chat.messages import AUTO, Message, ToolCall, ToolChoice
from runtime.chat.parser import TurnParser
from runtime.chat.prompt import PromptBuilder
from runtime.chat.wire_formats.families import WIRE_FORMATS
from runtime.chat.wire_formats.format import WireFormat, native_call_id
from runtime.chat.wire_formats.gemma import GEMMA3
from runtime.chat.wire_formats.grammar import turn_grammar
from runtime.chat.wire_formats.hermes import HERMES
from runtime.chat.wire_formats.llama import LLAMA3
from runtime.chat.wire_formats.mistral import (
    MISTRAL_V3,
    MISTRAL_V3_TEKKEN,
    MISTRAL_V11,
    MISTRAL_V13,
)
from runtime.chat.wire_formats.render import dump_compact, write_calls
from runtime.errors import TemplateError
from runtime.grammar.compile import compile_grammar
from runtime.tokenizer.tokenizer import Tokenizer
from tests.chat.test_prompt import spell
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.vocabularies import accepts, vocabulary_of
from tools.spec import ToolSpec

ADD = ToolSpec(
    "add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
)
NOW = ToolSpec("now", "Tells the time.", {"type": "object"})
CALLS = (ToolCall("aaaaaaaa1", "add", {"a": 7}), ToolCall("bbbbbbbb2", "now", {}))

MARKERS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]")
AS_BYTES, AS_TOKENS = tiny_tokenizer(), tiny_tokenizer(*MARKERS)
VOCABULARIES = {id(one): vocabulary_of(one) for one in (AS_BYTES, AS_TOKENS)}

SPELLED: list[tuple[WireFormat, str, str | None]] = [
    (
        HERMES,
        '<tool_call>\n{"name": "add", "arguments": {"a":7}}\n</tool_call>',
        '\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    ),
    (LLAMA3, '{"name": "add", "parameters": {"a":7}}', None),
    (GEMMA3, '{"name": "add", "parameters": {"a":7}}', None),
    (
        MISTRAL_V3,
        '[TOOL_CALLS] [{"name": "add", "arguments": {"a":7}, "id": "aaaaaaaa1"}]',
        ', {"name": "now", "arguments": {}, "id": "bbbbbbbb2"}]',
    ),
    (
        MISTRAL_V3_TEKKEN,
        '[TOOL_CALLS][{"name": "add", "arguments": {"a":7}, "id": "aaaaaaaa1"}]',
        ', {"name": "now", "arguments": {}, "id": "bbbbbbbb2"}]',
    ),
    (
        MISTRAL_V11,
        '[TOOL_CALLS]add[CALL_ID]aaaaaaaa1[ARGS]{"a":7}',
        "[TOOL_CALLS]now[CALL_ID]bbbbbbbb2[ARGS]{}",
    ),
    (MISTRAL_V13, '[TOOL_CALLS]add[ARGS]{"a":7}', "[TOOL_CALLS]now[ARGS]{}"),
]
NAMES = [wire_format.name for wire_format, _, _ in SPELLED]


def two_calls(wire_format: WireFormat, first: str, more: str | None) -> str | None:
    return None if more is None else first.removesuffix(wire_format.closes) + more


def accepted(
    tokenizer: Tokenizer, wire_format: WireFormat, choice: ToolChoice, text: str | None
) -> bool:
    ids = {m: tokenizer.special_ids[m] for m in wire_format.markers if m in tokenizer.special_ids}
    source = turn_grammar(wire_format, (ADD, NOW), choice, None, ids)
    assert source is not None
    constraint = compile_grammar(source, VOCABULARIES[id(tokenizer)]).constraint()
    return accepts(constraint, tokenizer.encode(text or "", parse_special=True))


def test_every_format_is_tested() -> None:
    assert {wire_format.name for wire_format in WIRE_FORMATS} == set(NAMES)


@pytest.mark.parametrize(("wire_format", "first", "more"), SPELLED, ids=NAMES)
def test_calls_are_written_as_the_family_does(
    wire_format: WireFormat, first: str, more: str | None
) -> None:
    assert write_calls(wire_format, CALLS[:1], dump_compact) == first
    both = two_calls(wire_format, first, more)
    assert both is None or write_calls(wire_format, CALLS, dump_compact) == both


@pytest.mark.parametrize("tokenizer", [AS_BYTES, AS_TOKENS], ids=["bytes", "tokens"])
@pytest.mark.parametrize(("wire_format", "first", "more"), SPELLED, ids=NAMES)
def test_choice_shapes_the_turn_of_every_family(
    tokenizer: Tokenizer, wire_format: WireFormat, first: str, more: str | None
) -> None:
    def takes(choice: ToolChoice, *texts: str | None) -> list[bool]:
        return [accepted(tokenizer, wire_format, choice, text) for text in texts]

    both = two_calls(wire_format, first, more) or first
    wrong = [
        first.replace("add", "sub"),
        first.replace("7", '"7"'),
        first.replace("7", " 7"),
        first[:-1],
        f"{first} done",
        f"{wire_format.trigger} x",
    ]
    assert all(takes(AUTO, "", "Hello.", first, both, f"Sure:\n{first}"))
    assert not any(takes(AUTO, *wrong))
    assert takes(ToolChoice("required"), first, both, "", "Hi") == [True, True, False, False]
    assert takes(ToolChoice("none"), "Hi", "", first, f"x{first}") == [True, True, False, False]
    assert takes(ToolChoice(name="now"), first, "Hi") == [False, False]
    alone = ToolChoice("required", parallel=False)
    assert takes(alone, first, two_calls(wire_format, first, more)) == [True, False]


@pytest.mark.parametrize(("wire_format", "first", "more"), SPELLED, ids=NAMES)
def test_written_calls_are_read_back(wire_format: WireFormat, first: str, more: str | None) -> None:
    text = two_calls(wire_format, first, more) or first
    expected = [call for call in CALLS if call.name in text]
    for pieces in ([text], list(text), ["so: ", *text]):
        parser = TurnParser(wire_format)
        for piece in pieces:
            parser.push(piece)
        parser.finish()
        assert not parser.is_cut
        assert [(call.name, call.arguments) for call in parser.calls] == [
            (call.name, call.arguments) for call in expected
        ]
        if wire_format.has_call_ids:
            ids = [native_call_id(call.call_id) for call in parser.calls]
            assert ids == [call.call_id for call in expected]
        assert parser.text == ("so: " if len(pieces) > len(text) else "")


@pytest.mark.parametrize(("wire_format", "first", "more"), SPELLED, ids=NAMES)
def test_every_cut_short_of_the_end_shows(
    wire_format: WireFormat, first: str, more: str | None
) -> None:
    for length in range(len(wire_format.opens), len(first)):
        parser = TurnParser(wire_format)
        parser.push(first[:length])
        assert parser.is_cut


def test_ids_that_a_model_wrote_stay_apart_and_come_back() -> None:
    ids = []
    for _ in range(2):
        parser = TurnParser(MISTRAL_V3)
        parser.push(SPELLED[3][1])
        ids += [call.call_id for call in parser.calls]
    assert ids[0] != ids[1]
    assert [native_call_id(call_id) for call_id in ids] == ["aaaaaaaa1"] * 2
    foreign = native_call_id("call_0123456789")
    assert len(foreign) == 9
    assert foreign.isalnum()


# The shape of each family's own template, as far as tools go.
LLAMA_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>ipython\n{{ m.content | tojson }}"
    "{% elif m.tool_calls is defined %}{% if m.tool_calls | length != 1 %}"
    "{{ raise_exception('single tool-calls only') }}{% endif %}<|im_start|>assistant\n"
    "{% set call = m.tool_calls[0].function %}"
    '{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}'
    "{% else %}<|im_start|>{{ m.role }}\n"
    "{% if tools and loop.first %}{% for t in tools %}{{ t | tojson(indent=4) }}\n{% endfor %}"
    "{% endif %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL_TEMPLATE = (
    "{% set ns = namespace(turn=0) %}{% for m in messages %}"
    "{% if m.role == 'user' or (m.role == 'assistant' and m.tool_calls is not defined) %}"
    "{% if (m.role == 'user') != (ns.turn % 2 == 0) %}{{ raise_exception('must alternate') }}"
    "{% endif %}{% set ns.turn = ns.turn + 1 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% if tools %}[AVAILABLE_TOOLS] {{ tools"
    " | tojson }}[/AVAILABLE_TOOLS]{% endif %}[INST] {{ m.content }}[/INST]"
    "{% elif m.tool_calls is defined %}[TOOL_CALLS] [{% for call in m.tool_calls %}"
    "{% if call.id | length != 9 %}{{ raise_exception('nine characters') }}{% endif %}"
    '{{ (call.function | tojson)[:-1] }}, "id": "{{ call.id }}"}'
    "{% if not loop.last %}, {% endif %}{% endfor %}]<|im_end|>"
    "{% elif m.role == 'assistant' %} {{ m.content }}<|im_end|>"
    '{% elif m.role == \'tool\' %}[TOOL_RESULTS] {"content": {{ m.content }}, "call_id": '
    '"{{ m.tool_call_id }}"}[/TOOL_RESULTS]{% endif %}{% endfor %}'
)


def test_format_is_the_one_the_template_writes() -> None:
    for template, expected in ((LLAMA_TEMPLATE, LLAMA3), (MISTRAL_TEMPLATE, MISTRAL_V3)):
        prompts = PromptBuilder(tiny_tokenizer("[TOOL_CALLS]", chat_template=template))
        assert prompts.has_native_tools
        assert prompts.wire_format == expected


@pytest.mark.parametrize(("wire_format"), [one for one in WIRE_FORMATS if one.vocabulary])
def test_format_is_the_vocabularys_where_the_template_knows_no_tools(
    wire_format: WireFormat,
) -> None:
    prompts = PromptBuilder(tiny_tokenizer(*wire_format.vocabulary))
    assert not prompts.has_native_tools
    same = MISTRAL_V3 if wire_format == MISTRAL_V3_TEKKEN else wire_format
    assert prompts.wire_format == same
    assert set(prompts.marker_ids) == set(wire_format.markers)


def test_several_calls_become_turns_of_one_where_the_family_knows_no_other() -> None:
    tokenizer = tiny_tokenizer(chat_template=LLAMA_TEMPLATE)
    messages = [
        Message("user", "go"),
        Message("assistant", "", CALLS),
        Message("tool", "seven", call_id="aaaaaaaa1", name="add"),
        Message("tool", "noon", call_id="bbbbbbbb2", name="now"),
    ]
    assert spell(tokenizer, PromptBuilder(tokenizer).build(messages)) == (
        "«<|im_start|>»user\ngo«<|im_end|>»"
        '«<|im_start|>»assistant\n{"name": "add", "parameters": {"a": 7}}«<|im_end|>»'
        '«<|im_start|>»ipython\n"seven"«<|im_end|>»'
        '«<|im_start|>»assistant\n{"name": "now", "parameters": {}}«<|im_end|>»'
        '«<|im_start|>»ipython\n"noon"«<|im_end|>»'
        "«<|im_start|>»assistant\n"
    )


def test_answer_is_spliced_without_the_blank_a_template_puts_before_it() -> None:
    tokenizer = tiny_tokenizer(chat_template=MISTRAL_TEMPLATE)
    prompts = PromptBuilder(tokenizer)
    asked = prompts.build([Message("user", "Hi")])
    said = tuple(tokenizer.encode(" Hello"))
    again = prompts.build([Message("user", "Hi"), Message("assistant", " Hello", token_ids=said)])
    assert again == [*asked, *said, prompts.end_of_turn_id]


def test_calls_are_rendered_again_where_a_template_misses_them_in_a_spliced_turn() -> None:
    tokenizer = tiny_tokenizer(chat_template=MISTRAL_TEMPLATE)
    call = replace(CALLS[1], call_id="bbbbbbbb2-call_1")
    messages = [
        Message("user", "Hi"),
        Message("assistant", "", (call,), token_ids=tuple(tokenizer.encode("spliced"))),
        Message("tool", "noon", call_id=call.call_id, name="now"),
        Message("assistant", "Noon."),
    ]
    assert spell(tokenizer, PromptBuilder(tokenizer).build(messages)) == (
        '[INST] Hi[/INST][TOOL_CALLS] [{"name": "now", "arguments": {}, "id": "bbbbbbbb2"}]'
        '«<|im_end|>»[TOOL_RESULTS] {"content": noon, "call_id": "bbbbbbbb2"}[/TOOL_RESULTS]'
        " Noon.«<|im_end|>»"
    )


FAMILIES = [
    (
        "Gemma",
        ("<start_of_turn>", "<end_of_turn>"),
        (
            "«<|im_start|>»«<start_of_turn>»user\nBe brief.\n\nHi«<end_of_turn>»\n"
            "«<start_of_turn>»model\nYo«<end_of_turn>»\n«<start_of_turn>»model\n"
        ),
    ),
    (
        "ChatML",
        (),
        (
            "«<|im_start|>»system\nBe brief.«<|im_end|>»\n«<|im_start|>»user\nHi«<|im_end|>»\n"
            "«<|im_start|>»assistant\nYo«<|im_end|>»\n«<|im_start|>»assistant\n"
        ),
    ),
]


@pytest.mark.parametrize(("family", "tokens", "expected"), FAMILIES, ids=["gemma", "chatml"])
def test_missing_template_is_the_familys_and_the_log_says_so(
    family: str, tokens: tuple[str, ...], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = tiny_tokenizer(*tokens)
    tokenizer.chat_template = None
    with caplog.at_level(logging.WARNING):
        prompts = PromptBuilder(tokenizer)
    assert caplog.messages == [
        f"the model has no chat template (it may be a base model); the {family} template is used"
    ]
    said = [Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Yo")]
    assert spell(tokenizer, prompts.build(said)) == expected


def test_model_of_no_family_without_template_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.special_ids = {"<s>": 1}
    with pytest.raises(TemplateError, match="no chat template"):
        PromptBuilder(tokenizer)
