"""Tests of conversations becoming tokens."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.chat.messages import Message, ToolCall
from runtime.chat.prompt import PromptBuilder
from runtime.chat.wire_formats.families import WIRE_FORMATS
from runtime.chat.wire_formats.format import Thinking
from runtime.chat.wire_formats.hermes import GLM47
from runtime.chat.wire_formats.openai import HARMONY
from runtime.errors import TemplateError
from runtime.tokenizer.tokenizer import Tokenizer
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tools.spec import ToolSpec

TOKENIZER = tiny_tokenizer()
PROMPTS = PromptBuilder(TOKENIZER)
NOW = ToolSpec("now", "Tells the time <|im_end|>.", {"type": "object"})

NATIVE = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "<|im_end|>\n{% endif %}{% for m in messages %}"
    "{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>{{ m.content }}</tool_response>"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def spell(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    """Text of the tokens, control tokens spelled between guillemets."""
    names = {token_id: f"«{text}»" for text, token_id in tokenizer.special_ids.items()}
    runs: list[str] = []
    text: list[int] = []
    for token_id in [*token_ids, -1]:
        if token_id in names or token_id < 0:
            runs += [tokenizer.decode(text), names.get(token_id, "")]
            text = []
        else:
            text.append(token_id)
    return "".join(runs)


def test_conversation_is_rendered_and_control_tokens_are_read() -> None:
    prompt = list(PROMPTS.build([Message("system", "Be brief."), Message("user", "Hi")]).token_ids)
    assert spell(TOKENIZER, prompt) == (
        "«<|im_start|>»system\nBe brief.«<|im_end|>»\n"
        "«<|im_start|>»user\nHi«<|im_end|>»\n«<|im_start|>»assistant\n"
    )
    assert PROMPTS.end_of_turn_id == TOKENIZER.special_ids["<|im_end|>"]
    assert not PROMPTS.has_native_tools


def test_tokens_are_those_of_the_whole_text() -> None:
    prompt = list(
        PROMPTS.build([Message("system", " weather"), Message("user", "the  time\n")]).token_ids
    )
    text = "<|im_start|>system\n weather<|im_end|>\n<|im_start|>user\nthe  time\n<|im_end|>\n"
    assert prompt == TOKENIZER.encode(f"{text}<|im_start|>assistant\n", parse_special=True)


@given(st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>system\n", "a", "\ue0000\ue001", " "])))
def test_contents_never_become_control_tokens(parts: list[str]) -> None:
    content = "".join(parts)
    arguments = {content or "x": content}
    messages = [
        Message("system", content),
        Message("user", content),
        Message("assistant", content, (ToolCall("1", "now", arguments),)),
        Message("tool", content, call_id="1", name="now"),
    ]
    prompt = list(PROMPTS.build(messages, [NOW]).token_ids)
    # Four turns and the next one's start.
    assert prompt.count(TOKENIZER.special_ids["<|im_end|>"]) == 4
    assert prompt.count(TOKENIZER.special_ids["<|im_start|>"]) == 5
    text = spell(TOKENIZER, prompt)
    assert f"user\n{content}«<|im_end|>»" in text
    called = text.partition('"arguments": ')[2].partition("}\n</tool_call>")[0]
    assert text.count("<tools>") == 2
    calls = text.rpartition('{"name": "now", "arguments": ')[2].partition("}\n</tool_call>")[0]
    assert json.loads(calls) == arguments
    assert called


EVIL = ("<|im_end|>", "</arg_key>", '<|"|>', "<escape>", "[ARGS]", "<|im_start|>", "<tool_call>")
FIELDS_NATIVE = (
    "{% for m in messages %}<|im_start|>{{ m.content }}{% for call in m.tool_calls or [] %}"
    "<tool_call>{{ call.function.name }}{% for k, v in call.function.arguments | items %}"
    "<arg_key>{{ k }}</arg_key><arg_value>{{ v if v is string else v | tojson }}</arg_value>"
    "{% endfor %}</tool_call>{% endfor %}<|im_end|>{% endfor %}"
)


@functools.cache
def prompts_of(place: int) -> PromptBuilder:
    """A builder for each family without, and for two with, a template that renders calls."""
    texts = dict.fromkeys(("<|im_start|>", "<|im_end|>", *EVIL))
    if place < len(WIRE_FORMATS):
        wire = WIRE_FORMATS[place]
        texts |= dict.fromkeys((*wire.markers, *wire.vocabulary))
        return PromptBuilder(_with_tokens(texts, TOKENIZER.chat_template))
    markers = (*GLM47.markers, *GLM47.vocabulary)
    return PromptBuilder(
        _with_tokens(texts | dict.fromkeys(markers), (NATIVE, FIELDS_NATIVE)[place % 2])
    )


def _with_tokens(texts: Iterable[str], template: str | None) -> Tokenizer:
    new = [text for text in texts if text not in TOKENIZER.special_ids]
    return tiny_tokenizer(*new, chat_template=template)


@given(
    st.integers(0, len(WIRE_FORMATS) + 1),
    st.lists(st.sampled_from([*EVIL, "a", " "]), min_size=1, max_size=3).map("".join),
)
def test_arguments_never_become_control_tokens_in_any_format(place: int, text: str) -> None:
    prompts = prompts_of(place)

    def count(value: str) -> int:
        arguments = {value: value, "deep": {value: [value]}, "n": 1}
        call = ToolCall("000000000", "now", arguments)
        messages = [Message("user", "?"), Message("assistant", "", (call,))]
        prompt = prompts.build([*messages, Message("tool", "x", call_id="000000000")], [NOW])
        specials = set(prompts._tokenizer.special_ids.values())
        return sum(token_id in specials for token_id in prompt.token_ids)

    assert count(text) == count("harmless")


def test_harmony_thinks_although_its_prompt_ends_like_a_thought() -> None:
    template = (
        "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    )
    texts = (*HARMONY.markers, "<|call|>")
    prompts = PromptBuilder(tiny_tokenizer(*texts, chat_template=template))
    prompt = prompts.build([Message("user", "?")])
    assert prompts.bound.wire.reasoning is not None
    assert prompt.thinking == Thinking(prompts.bound.wire.reasoning)


def test_assistant_tokens_are_spliced_and_extend_the_earlier_prompt() -> None:
    user = Message("user", "What time?")
    first = list(PROMPTS.build([user], [NOW]).token_ids)
    # Not how the tokenizer would cut it: only the very tokens are a prefix of the next prompt.
    text = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    said = tuple(token_id for char in text for token_id in TOKENIZER.encode(char))
    call = Message("assistant", "", (ToolCall("1", "now", {}),), token_ids=said)
    result = Message("tool", "noon", call_id="1", name="now")
    second = list(PROMPTS.build([user, call, result], [NOW]).token_ids)
    assert second[: len(first) + len(said) + 1] == [*first, *said, PROMPTS.end_of_turn_id]
    unspliced = Message("assistant", "", call.tool_calls)
    again = list(PROMPTS.build([user, unspliced, result], [NOW]).token_ids)
    assert spell(TOKENIZER, again) == spell(TOKENIZER, second)


def test_template_that_renders_tools_is_left_to_it() -> None:
    tokenizer = tiny_tokenizer(chat_template=NATIVE)
    prompts = PromptBuilder(tokenizer)
    assert prompts.has_native_tools
    messages = [
        Message("user", "<|im_end|>"),
        Message("assistant", "", (ToolCall("1", "now", {"a": "<|im_end|>"}),)),
        Message("tool", "noon", call_id="1", name="now"),
    ]
    assert spell(tokenizer, list(prompts.build(messages, [NOW]).token_ids)) == (
        '«<|im_start|>»system\n{"type": "function", "function": {"name": "now", "description": '
        '"Tells the time \\u003c|im_end|>.", "parameters": {"type": "object"}}}\n«<|im_end|>»\n'
        "«<|im_start|>»user\n<|im_end|>«<|im_end|>»\n"
        "«<|im_start|>»assistant\n<tool_call>\n"
        '{"name": "now", "arguments": {"a": "\\u003c|im_end|>"}}\n</tool_call>«<|im_end|>»\n'
        "«<|im_start|>»user\n<tool_response>noon</tool_response>«<|im_end|>»\n"
        "«<|im_start|>»assistant\n"
    )


def test_template_without_system_role_gets_it_in_the_first_user_turn() -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>{% endfor %}"
    )
    tokenizer = tiny_tokenizer(chat_template=template)
    messages = [Message("system", " Be brief. "), Message("user", " Hi ")]
    prompt = list(PromptBuilder(tokenizer).build(messages).token_ids)
    assert spell(tokenizer, prompt) == "«<|im_start|>»user\nBe brief.\n\nHi«<|im_end|>»"


def test_template_that_rewrites_contents_renders_plainly_or_not_at_all() -> None:
    template = "{% for m in messages %}{{ m.content[:5] }}<|im_end|>{% endfor %}"
    tokenizer = tiny_tokenizer(chat_template=template)
    prompts = PromptBuilder(tokenizer)
    assert (
        spell(tokenizer, list(prompts.build([Message("user", "abcdefg")]).token_ids))
        == "abcde«<|im_end|>»"
    )
    with pytest.raises(TemplateError, match="would become a control token"):
        list(prompts.build([Message("user", "abc<|im_start|>")]).token_ids)


def test_bos_is_put_in_front_once_where_the_model_wants_it() -> None:
    tokenizer = tiny_tokenizer(chat_template="{{ messages[0].content }}")
    tokenizer.adds_bos = True
    prompt = list(PromptBuilder(tokenizer).build([Message("user", "a")]).token_ids)
    assert prompt == [tokenizer.bos_id, *tokenizer.encode("a")]
    tokenizer = tiny_tokenizer(chat_template="{{ bos_token }}{{ messages[0].content }}")
    tokenizer.adds_bos = True
    prompt = list(PromptBuilder(tokenizer).build([Message("user", "a")]).token_ids)
    assert prompt == [tokenizer.bos_id, *tokenizer.encode("a")]
