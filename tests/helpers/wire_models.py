"""Tokenizers of models that write one wire format."""

from __future__ import annotations

import functools

from runtime.chat.prompt import PROBE_CALL
from runtime.chat.wire_formats.families import WIRE_FORMATS
from runtime.chat.wire_formats.format import WireFormat
from runtime.chat.wire_formats.render import write_calls
from runtime.tokenizer.tokenizer import Tokenizer
from tests.helpers.tiny_tokenizer import tiny_tokenizer

MARKERS = tuple(dict.fromkeys(marker for wire in WIRE_FORMATS for marker in wire.markers))


def format_named(name: str) -> WireFormat:
    return next(one for one in WIRE_FORMATS if one.name == name)


def template_of(name: str) -> str:
    """A template that writes calls as that format does.

    It knows the one call by which formats are told apart, and no other.
    """
    call = write_calls(format_named(name), [PROBE_CALL])
    return (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.tool_calls is defined %}{% raw %}"
        + call
        + "{% endraw %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


@functools.cache
def tokenizer_of(name: str) -> Tokenizer:
    """A tokenizer whose template writes calls as that format does, its markers being tokens."""
    return tiny_tokenizer(*MARKERS, chat_template=template_of(name))


def spell(tokenizer: Tokenizer, token_ids: tuple[int, ...]) -> str:
    """The text of tokens, control tokens spelled."""
    names = {token_id: text for text, token_id in tokenizer.special_ids.items()}
    decoder = tokenizer.decoder()
    pieces: list[str] = [
        names[token_id] if token_id in names else decoder.push([token_id]) for token_id in token_ids
    ]
    return "".join(pieces)
