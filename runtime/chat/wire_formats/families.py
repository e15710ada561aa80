"""Which formats there are, whose they are, and what stands in for a missing chat template."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from runtime.chat.wire_formats.format import JsonArguments, Reasoning, WireFormat
from runtime.chat.wire_formats.gemma import FUNCTION_GEMMA, GEMMA3, GEMMA4
from runtime.chat.wire_formats.hermes import GLM45, GLM47, HERMES, QWEN_CODER
from runtime.chat.wire_formats.llama import LLAMA3
from runtime.chat.wire_formats.mistral import (
    MISTRAL_V3,
    MISTRAL_V3_TEKKEN,
    MISTRAL_V11,
    MISTRAL_V13,
)
from runtime.chat.wire_formats.openai import HARMONY
from runtime.chat.wire_formats.sections import DEEPSEEK_R1, DEEPSEEK_V31, KIMI_K2, PHI4

WIRE_FORMATS = (
    HARMONY,
    GEMMA4,
    FUNCTION_GEMMA,
    KIMI_K2,
    DEEPSEEK_V31,
    DEEPSEEK_R1,
    PHI4,
    GLM47,
    GLM45,
    QWEN_CODER,
    MISTRAL_V11,
    MISTRAL_V13,
    MISTRAL_V3,
    MISTRAL_V3_TEKKEN,
    LLAMA3,
    GEMMA3,
    HERMES,
)
"""Of two that fit a model, the earlier one is its."""

FALLBACK = replace(HERMES, arguments=JsonArguments(is_spaced=False))
"""For a model that knows no format; it has no habit of blanks, so there are none."""

_REASONING = (Reasoning("<think>", "</think>"), Reasoning("[THINK]", "[/THINK]"))

_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
_TEMPLATES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "Gemma": (("<start_of_turn>", "<end_of_turn>"), _GEMMA),
    "ChatML": (("<|im_start|>", "<|im_end|>"), _CHATML),
    "Llama 3": (("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), _LLAMA3),
    "Mistral": (("[INST]", "[/INST]"), _MISTRAL),
}


def format_of_vocabulary(special_tokens: Collection[str]) -> WireFormat:
    """Return the format of the family that has these control tokens, else a compact Hermes."""
    for one in WIRE_FORMATS:
        if one.vocabulary and all(text in special_tokens for text in one.vocabulary):
            return one
    return FALLBACK


def reasoning_of(
    wire_format: WireFormat, special_tokens: Collection[str], template: str
) -> Reasoning | None:
    """Return how a model marks its thoughts; None where nothing says that it has any."""
    known = (wire_format.reasoning, *_REASONING)
    for one in known:
        opens = one.opens.strip("\n") if one is not None else ""
        if one is not None and (opens in special_tokens or opens in template):
            return one
    return wire_format.reasoning


def default_template(special_tokens: Collection[str]) -> tuple[str, str] | None:
    """Return name and source of the template of the family that has these control tokens."""
    for family, (needed, template) in _TEMPLATES.items():
        if all(text in special_tokens for text in needed):
            return family, template
    return None
