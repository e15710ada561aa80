"""Tests of every family's calls: rendered, accepted and read by the same row."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from runtime.chat.messages import AUTO, Message, ToolCall, ToolChoice
from runtime.chat.parser import MarkedText, TurnParser
from runtime.chat.prompt import PromptBuilder
from runtime.chat.wire_formats.families import WIRE_FORMATS
from runtime.chat.wire_formats.format import (
    BoundFormat,
    Reasoning,
    Thinking,
    WireFormat,
    bind,
    native_call_id,
)
from runtime.chat.wire_formats.gemma import FUNCTION_GEMMA, GEMMA3, GEMMA4
from runtime.chat.wire_formats.grammar import TurnShape, turn_grammar
from runtime.chat.wire_formats.hermes import GLM45, GLM47, HERMES, QWEN_CODER
from runtime.chat.wire_formats.llama import LLAMA3
from runtime.chat.wire_formats.mistral import (
    MISTRAL_V3,
    MISTRAL_V3_TEKKEN,
    MISTRAL_V11,
    MISTRAL_V13,
)
from runtime.chat.wire_formats.openai import HARMONY
from runtime.chat.wire_formats.render import write_calls
from runtime.chat.wire_formats.sections import DEEPSEEK_R1, DEEPSEEK_V31, KIMI_K2, PHI4
from runtime.errors import TemplateError
from runtime.grammar.compile import compile_grammar
from runtime.tokenizer.tokenizer import Tokenizer
from tests.chat.test_prompt import spell
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.vocabularies import accepts, vocabulary_of
from tools.spec import ToolSpec

ADD = ToolSpec(
    "add",
    "Adds.",
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "note": {"type": "string"}},
        "required": ["a"],
    },
)
NOW = ToolSpec("now", "Tells the time.", {"type": "object"})
CALLS = (
    ToolCall("aaaaaaaa1", "add", {"a": 7, "note": 'é "b" </x>'}),
    ToolCall("bbbbbbbb2", "now", {}),
)

ARGUMENTS = r'{"a": 7, "note": "é \"b\" </x>"}'

# Written by hand after each family's own template; the second call, where a turn may have two.
SPELLED: list[tuple[WireFormat, str, str | None]] = [
    (
        HERMES,
        f'<tool_call>\n{{"name": "add", "arguments": {ARGUMENTS}}}\n</tool_call>',
        '\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    ),
    (
        QWEN_CODER,
        (
            "<tool_call>\n<function=add>\n<parameter=a>\n7\n</parameter>\n<parameter=note>\n"
            'é "b" </x>\n</parameter>\n</function>\n</tool_call>'
        ),
        "\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
    ),
    (
        GLM45,
        (
            "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>7</arg_value>\n<arg_key>note</arg_key>\n"
            '<arg_value>é "b" </x></arg_value>\n</tool_call>'
        ),
        "\n<tool_call>now\n</tool_call>",
    ),
    (
        GLM47,
        (
            "<tool_call>add<arg_key>a</arg_key><arg_value>7</arg_value><arg_key>note</arg_key>"
            '<arg_value>é "b" </x></arg_value></tool_call>'
        ),
        "<tool_call>now</tool_call>",
    ),
    (LLAMA3, f'{{"name": "add", "parameters": {ARGUMENTS}}}', None),
    (GEMMA3, f'{{"name": "add", "parameters": {ARGUMENTS}}}', None),
    (
        FUNCTION_GEMMA,
        '<start_function_call>call:add{a:7,note:<escape>é "b" </x><escape>}<end_function_call>',
        "<start_function_call>call:now{}<end_function_call>",
    ),
    (
        GEMMA4,
        '<|tool_call>call:add{a:7,note:<|"|>é "b" </x><|"|>}<tool_call|>',
        "<|tool_call>call:now{}<tool_call|>",
    ),
    (
        MISTRAL_V3,
        f'[TOOL_CALLS] [{{"name": "add", "arguments": {ARGUMENTS}, "id": "aaaaaaaa1"}}]',
        ', {"name": "now", "arguments": {}, "id": "bbbbbbbb2"}]',
    ),
    (
        MISTRAL_V3_TEKKEN,
        f'[TOOL_CALLS][{{"name": "add", "arguments": {ARGUMENTS}, "id": "aaaaaaaa1"}}]',
        ', {"name": "now", "arguments": {}, "id": "bbbbbbbb2"}]',
    ),
    (
        MISTRAL_V11,
        f"[TOOL_CALLS]add[CALL_ID]aaaaaaaa1[ARGS]{ARGUMENTS}",
        "[TOOL_CALLS]now[CALL_ID]bbbbbbbb2[ARGS]{}",
    ),
    (MISTRAL_V13, f"[TOOL_CALLS]add[ARGS]{ARGUMENTS}", "[TOOL_CALLS]now[ARGS]{}"),
    (
        DEEPSEEK_R1,
        (
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n"
            f"{ARGUMENTS}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        ),
        (
            "\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>"
            "<｜tool▁calls▁end｜>"
        ),
    ),
    (
        DEEPSEEK_V31,
        (
            f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{ARGUMENTS}<｜tool▁call▁end｜>"
            "<｜tool▁calls▁end｜>"
        ),
        "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    (
        KIMI_K2,
        (
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>"
            f"{ARGUMENTS}<|tool_call_end|><|tool_calls_section_end|>"
        ),
        (
            "<|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
            "<|tool_calls_section_end|>"
        ),
    ),
    (
        PHI4,
        f'<|tool_call|>[{{"name": "add", "arguments": {ARGUMENTS}}}]<|/tool_call|>',
        ', {"name": "now", "arguments": {}}]<|/tool_call|>',
    ),
    (
        HARMONY,
        f"<|channel|>commentary to=functions.add <|constrain|>json<|message|>{ARGUMENTS}",
        None,
    ),
]
NAMES = [wire_format.name for wire_format, _, _ in SPELLED]
THINK = Reasoning("<think>", "</think>")

MARKERS = dict.fromkeys(marker for wire, _, _ in SPELLED for marker in wire.markers)
AS_BYTES, AS_TOKENS = tiny_tokenizer(), tiny_tokenizer(*MARKERS, THINK.opens, THINK.closes)
VOCABULARIES = {id(one): vocabulary_of(one) for one in (AS_BYTES, AS_TOKENS)}
# Harmony's channels are only told apart by its tokens, which its vocabularies always have.
IN_VOCABULARIES = [
    pytest.param(tokenizer, *row, id=f"{row[0].name}-{kind}")
    for row in SPELLED
    for kind, tokenizer in (("bytes", AS_BYTES), ("tokens", AS_TOKENS))
    if kind == "tokens" or row[0] is not HARMONY
]


def two_calls(wire_format: WireFormat, first: str, more: str | None) -> str | None:
    return None if more is None else first.removesuffix(wire_format.closes) + more


def bound_in(tokenizer: Tokenizer, wire_format: WireFormat) -> BoundFormat:
    reasoning = wire_format.reasoning or THINK
    texts = (*wire_format.markers, reasoning.opens, reasoning.closes)
    ids = {text: tokenizer.special_ids[text] for text in texts if text in tokenizer.special_ids}
    return bind(replace(wire_format, reasoning=reasoning), ids)


def accepted(
    tokenizer: Tokenizer,
    wire_format: WireFormat,
    choice: ToolChoice,
    text: str | None,
    *,
    thinks: bool = False,
    is_open: bool = False,
) -> bool:
    bound = bound_in(tokenizer, wire_format)
    assert bound.wire.reasoning is not None
    thinking = Thinking(bound.wire.reasoning, is_open) if thinks else None
    source = turn_grammar(bound, (ADD, NOW), TurnShape(choice, thinking=thinking))
    assert source is not None
    constraint = compile_grammar(source, VOCABULARIES[id(tokenizer)]).constraint()
    return accepts(constraint, tokenizer.encode(text or "", parse_special=True))


def parsed(
    tokenizer: Tokenizer,
    wire_format: WireFormat,
    said: str | list[int],
    thinking: Thinking | None = None,
) -> TurnParser:
    bound = bound_in(tokenizer, wire_format)
    parser, marked = (
        TurnParser(bound, (ADD, NOW), thinking=thinking),
        MarkedText(bound.ids, tokenizer),
    )
    token_ids = tokenizer.encode(said, parse_special=True) if isinstance(said, str) else said
    for token_id in token_ids:
        parser.push(marked.push([token_id]))
    parser.finish()
    return parser


def test_every_format_is_tested() -> None:
    assert {wire_format.name for wire_format in WIRE_FORMATS} == set(NAMES)


@pytest.mark.parametrize(("wire_format", "first", "more"), SPELLED, ids=NAMES)
def test_calls_are_written_as_the_family_does(
    wire_format: WireFormat, first: str, more: str | None
) -> None:
    assert write_calls(wire_format, CALLS[:1]) == first
    both = two_calls(wire_format, first, more)
    assert both is None or write_calls(wire_format, CALLS) == both


@pytest.mark.parametrize(("tokenizer", "wire_format", "first", "more"), IN_VOCABULARIES)
def test_choice_shapes_the_turn_of_every_family(
    tokenizer: Tokenizer, wire_format: WireFormat, first: str, more: str | None
) -> None:
    def takes(choice: ToolChoice, *texts: str | None) -> list[bool]:
        return [accepted(tokenizer, wire_format, choice, text) for text in texts]

    both = two_calls(wire_format, first, more) or first
    answers = [wire_format.answer_opens + text for text in ("", "Hello.", "Hi\n\n")]
    lead = wire_format.lead_opens + "Sure:\n" + wire_format.lead_closes
    wrong = [
        first.replace("add", "sub"),
        first.replace("7", "seven"),
        first[:-1],
        f"{first} done",
        f"{wire_format.trigger} x",
    ]
    assert all(takes(AUTO, *answers, first, both, lead + first))
    assert not any(takes(AUTO, *wrong))
    required = takes(ToolChoice("required"), first, both, *answers)
    assert required == [True, True, False, False, False]
    refused = takes(ToolChoice("none"), first, lead + first)
    assert (takes(ToolChoice("none"), *answers), refused) == ([True] * 3, [False] * 2)
    assert takes(ToolChoice(name="now"), first, answers[1]) == [False, False]
    assert takes(ToolChoice(allowed=("now",)), first, answers[1]) == [False, True]
    assert takes(ToolChoice("required", allowed=("add",)), first) == [True]
    alone = ToolChoice("required", parallel=False)
    assert takes(alone, first, two_calls(wire_format, first, more)) == [True, False]


@pytest.mark.parametrize(("tokenizer", "wire_format", "first", "more"), IN_VOCABULARIES)
def test_thoughts_come_before_all_else(
    tokenizer: Tokenizer, wire_format: WireFormat, first: str, more: str | None
) -> None:
    reasoning = wire_format.reasoning or THINK
    thought = f"\nHm, <b>\n{reasoning.closes}"
    texts = [first, f"{reasoning.opens}{thought}{first}", f"{thought}\n\n{first}", thought]
    # Spelled, what opens thoughts may stand in them.
    is_spelled = tokenizer is AS_BYTES
    for is_open, expected in ((False, [True, True, False]), (True, [False, is_spelled, True])):
        took = [
            accepted(
                tokenizer,
                wire_format,
                ToolChoice("required"),
                text,
                thinks=True,
                is_open=is_open,
            )
            for text in texts[:3]
        ]
        assert took == expected
    bound = bound_in(tokenizer, wire_format)
    assert bound.wire.reasoning is not None
    for text, is_open in ((texts[1], False), (texts[2], True)):
        parser = parsed(tokenizer, wire_format, text, Thinking(bound.wire.reasoning, is_open))
        assert (parser.reasoning, parser.text) == ("Hm, <b>", "")
        assert [call.name for call in parser.calls] == ["add"]


@pytest.mark.parametrize(("tokenizer", "wire_format", "first", "more"), IN_VOCABULARIES)
def test_written_calls_are_read_back(
    tokenizer: Tokenizer, wire_format: WireFormat, first: str, more: str | None
) -> None:
    text = two_calls(wire_format, first, more) or first
    lead = wire_format.lead_opens + "so: " + wire_format.lead_closes
    expected = CALLS if more is not None else CALLS[:1]
    for written, visible in ((text, ""), (lead + text, "so: ")):
        parser = parsed(tokenizer, wire_format, written)
        assert not parser.is_cut
        assert [(call.name, call.arguments) for call in parser.calls] == [
            (call.name, call.arguments) for call in expected
        ]
        if wire_format.has_call_ids:
            ids = [native_call_id(call.call_id) for call in parser.calls]
            assert ids == [call.call_id for call in expected]
        assert parser.text == visible


@pytest.mark.parametrize(("tokenizer", "wire_format", "first", "more"), IN_VOCABULARIES)
def test_every_cut_short_of_the_end_shows(
    tokenizer: Tokenizer, wire_format: WireFormat, first: str, more: str | None
) -> None:
    token_ids = tokenizer.encode(first, parse_special=True)
    num_opening = len(tokenizer.encode(wire_format.opens, parse_special=True))
    num_closing = len(tokenizer.encode(wire_format.closes, parse_special=True))
    for length in range(num_opening, len(token_ids)):
        parser = parsed(tokenizer, wire_format, token_ids[:length])
        assert parser.is_cut
        assert len(parser.calls) == (length >= len(token_ids) - num_closing)


def test_ids_that_a_model_wrote_stay_apart_and_come_back() -> None:
    ids = []
    for _ in range(2):
        text = next(first for wire, first, _ in SPELLED if wire is MISTRAL_V3)
        parser = parsed(AS_BYTES, MISTRAL_V3, text)
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
    alike = {MISTRAL_V3_TEKKEN.name: MISTRAL_V3, DEEPSEEK_R1.name: DEEPSEEK_V31}
    same = alike.get(wire_format.name, wire_format)
    assert prompts.wire_format == same
    found = set(prompts.bound.spellings.values())
    assert found == set(wire_format.vocabulary) & set(wire_format.markers)


def test_several_calls_become_turns_of_one_where_the_family_knows_no_other() -> None:
    tokenizer = tiny_tokenizer(chat_template=LLAMA_TEMPLATE)
    messages = [
        Message("user", "go"),
        Message("assistant", "", CALLS),
        Message("tool", "seven", call_id="aaaaaaaa1", name="add"),
        Message("tool", "noon", call_id="bbbbbbbb2", name="now"),
    ]
    assert spell(tokenizer, PromptBuilder(tokenizer).build(messages).token_ids) == (
        "«<|im_start|>»user\ngo«<|im_end|>»"
        f'«<|im_start|>»assistant\n{{"name": "add", "parameters": {ARGUMENTS}}}«<|im_end|>»'
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
    assert again.token_ids == (*asked.token_ids, *said, prompts.end_of_turn_id)


def test_calls_are_rendered_again_where_a_template_misses_them_in_a_spliced_turn() -> None:
    tokenizer = tiny_tokenizer(chat_template=MISTRAL_TEMPLATE)
    call = replace(CALLS[1], call_id="bbbbbbbb2-call_1")
    messages = [
        Message("user", "Hi"),
        Message("assistant", "", (call,), token_ids=tuple(tokenizer.encode("spliced"))),
        Message("tool", "noon", call_id=call.call_id, name="now"),
        Message("assistant", "Noon."),
    ]
    assert spell(tokenizer, PromptBuilder(tokenizer).build(messages).token_ids) == (
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
    assert spell(tokenizer, prompts.build(said).token_ids) == expected


def test_model_of_no_family_without_template_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.special_ids = {"<s>": 1}
    with pytest.raises(TemplateError, match="no chat template"):
        PromptBuilder(tokenizer)
