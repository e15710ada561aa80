"""Conversations to prompt tokens, so that no content can pass for a control token.

Contents are rendered as markers; the template's own text around them is the only place where
control tokens are read. Assistant turns go in as the very tokens they were decoded as.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from runtime.chat.messages import Message, ToolCall
from runtime.chat.template import ChatTemplate
from runtime.chat.wire_formats.families import (
    WIRE_FORMATS,
    default_template,
    format_of_vocabulary,
)
from runtime.chat.wire_formats.format import WireFormat
from runtime.chat.wire_formats.render import (
    describe_tool,
    dump_compact,
    fold_system,
    native_messages,
    one_call_a_turn,
    plain_messages,
    write_calls,
)
from runtime.errors import TemplateError
from runtime.tokenizer.tokenizer import Tokenizer
from tools.spec import JsonObject, ToolSpec

logger = logging.getLogger(__name__)

# Private-use characters around a nonce: no content holds one, no template alters one.
_OPEN, _CLOSE = "\ue000", "\ue001"
_PROBE = "zonda-probe"
_PROBE_TOOL = ToolSpec("zonda_probe", "zonda-probe", {"type": "object", "properties": {}})
_PROBE_CALL = ToolCall("probe0000", "zonda_probe", {})

Segment = str | tuple[int, ...]
"""A text to encode without control tokens, or tokens to take as they are."""


class PromptBuilder:
    """Renders and tokenizes for one model; safe to use from several threads.

    Attributes:
        wire_format: how this model writes calls.
        marker_ids: the format's markers that are single tokens of the vocabulary.
        end_of_turn_id: the token that the template puts after an assistant's turn.
        has_native_tools: whether the template itself renders tools, in this format.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Compile the template and find out what it can render.

        Raises:
            TemplateError: the model has no chat template and is of no family that has one, or
                the template is broken.
        """
        self._tokenizer = tokenizer
        self._specials = _any_of(tokenizer.special_ids)
        names = {token_id: text for text, token_id in tokenizer.special_ids.items()}
        variables = {
            "bos_token": "" if tokenizer.bos_id is None else names.get(tokenizer.bos_id, ""),
            "eos_token": names.get(tokenizer.eos_id, ""),
        }
        source = _template_source(tokenizer)
        self._template = ChatTemplate(source, variables, self._write_template_json)
        native = self._probe_tools()
        self.has_native_tools = native is not None
        self.wire_format = native or format_of_vocabulary(tokenizer.special_ids)
        self.marker_ids = _marker_ids(tokenizer, self.wire_format)
        self._has_system_role = self._probe_system_role()
        self._trims_contents = self._probe_trimming()
        self._answer_lead = self._probe_answer_lead()
        self.end_of_turn_id = self._probe_end_of_turn()
        by = "the model's own template" if native else "a description in the system turn"
        logger.info("tool calls are written as %s, by %s", self.wire_format.name, by)

    def build(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> list[int]:
        """Return the prompt's tokens, up to where the assistant's turn begins.

        Raises:
            TemplateError: the template cannot render these messages.
        """
        if self.wire_format.between_calls is None:
            messages = one_call_a_turn(messages)
        try:
            prompt = self._build_spliced(messages, tools)
        except TemplateError:
            if not any(message.token_ids for message in messages):
                raise
            # A template that checks the order of turns may miss the calls of a spliced one.
            unspliced = [replace(message, token_ids=()) for message in messages]
            prompt = self._build_spliced(unspliced, tools)
        bos_id = self._tokenizer.bos_id
        if self._tokenizer.adds_bos and bos_id is not None and prompt[:1] != [bos_id]:
            prompt.insert(0, bos_id)
        return prompt

    def _build_spliced(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> list[int]:
        nonce = secrets.token_hex(8)
        segments: list[Segment] = []

        def mark(message: Message) -> Message:
            segment: Segment = message.token_ids or message.content
            if isinstance(segment, str) and self._trims_contents:
                segment = segment.strip()
            if not segment:
                return message
            segments.append(segment)
            return replace(message, content=f"{_OPEN}{nonce}.{len(segments) - 1}{_CLOSE}")

        text = self._render([mark(message) for message in messages], tools)
        pieces = re.split(f"{_OPEN}{nonce}\\.(\\d+){_CLOSE}", text)
        if sorted(map(int, pieces[1::2])) == list(range(len(segments))):
            return self._join(pieces, segments)
        return self._build_unmarked(messages, tools)

    def _build_unmarked(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> list[int]:
        """For a template that cuts, drops or doubles contents."""
        for message in messages:
            found = self._specials.search(message.content)
            if found:
                raise TemplateError(
                    f"the chat template rewrites messages, so the text {found[0]!r} in one would"
                    " become a control token; take it out of the message"
                )
        unspliced = [replace(message, token_ids=()) for message in messages]
        return self._join([self._render(unspliced, tools)], [])

    def _render(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> str:
        if self.has_native_tools:
            described = [describe_tool(tool) for tool in tools] or None
            return self._template.render(native_messages(self.wire_format, messages), described)
        plain = plain_messages(self.wire_format, messages, tools, self._write_safe_json)
        return self._template.render(plain if self._has_system_role else fold_system(plain))

    def _join(self, pieces: Sequence[str], segments: Sequence[Segment]) -> list[int]:
        """Tokenize `pieces`: template text at even places, numbers of segments at odd ones.

        Texts that touch are encoded together, as if the whole had been encoded at once.
        """
        token_ids: list[int] = []
        text = ""

        def flush() -> None:
            nonlocal text
            token_ids.extend(self._tokenizer.encode(text) if text else ())
            text = ""

        for place, piece in enumerate(pieces):
            if place % 2:
                segment = segments[int(piece)]
                if isinstance(segment, str):
                    text += segment
                    continue
                # The template writes in front of a turn what the model wrote itself.
                text = text.removesuffix(self._answer_lead)
                flush()
                token_ids.extend(segment)
                continue
            for index, part in enumerate(self._specials.split(piece)):
                if index % 2:
                    flush()
                    token_ids.append(self._tokenizer.special_ids[part])
                else:
                    text += part
        flush()
        return token_ids

    def _write_safe_json(self, value: Any) -> str:
        return self._escape_specials(dump_compact(value))

    def _write_template_json(self, value: Any, indent: int | None) -> str:
        return self._escape_specials(_dump_spaced(value, indent))

    def _escape_specials(self, text: str) -> str:
        """Escape the first character of control tokens spelled in JSON strings."""
        return self._specials.sub(lambda found: f"\\u{ord(found[0][0]):04x}{found[0][1:]}", text)

    def _probe(self, *messages: JsonObject, tools: Sequence[JsonObject] | None = None) -> str:
        """Render; "" where the template refuses."""
        try:
            return self._template.render(messages, tools, add_generation_prompt=False)
        except TemplateError:
            return ""

    def _probe_tools(self) -> WireFormat | None:
        """Return the format in which the template itself renders tools and calls."""
        user = Message("user", _PROBE)
        call = Message("assistant", tool_calls=(_PROBE_CALL,))
        described = [describe_tool(_PROBE_TOOL)]
        for wire_format in WIRE_FORMATS:
            offered = self._probe(*native_messages(wire_format, [user]), tools=described)
            called = self._probe(*native_messages(wire_format, [user, call]), tools=described)
            written = write_calls(wire_format, [_PROBE_CALL], dump_compact)
            if _PROBE_TOOL.name in offered and written in called:
                return wire_format
        return None

    def _probe_system_role(self) -> bool:
        system = {"role": "system", "content": _PROBE}
        return _PROBE in self._probe(system, {"role": "user", "content": "?"})

    def _probe_trimming(self) -> bool:
        text = self._probe({"role": "user", "content": f"  {_PROBE}  "})
        return _PROBE in text and f"  {_PROBE}  " not in text

    def _probe_answer_lead(self) -> str:
        """Return the blanks a template puts between a past turn's start and its answer."""
        user = {"role": "user", "content": "?"}
        answered = self._probe(user, {"role": "assistant", "content": _PROBE})
        try:
            asked = self._template.render([user])
        except TemplateError:
            return ""
        lead = answered.removeprefix(asked).partition(_PROBE)[0]
        return lead if answered.startswith(asked) and lead.isspace() else ""

    def _probe_end_of_turn(self) -> int:
        text = self._probe(
            {"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}
        )
        found = self._specials.search(text.rpartition(_PROBE)[2])
        token_id = self._tokenizer.special_ids[found[0]] if found else self._tokenizer.eos_id
        return token_id if token_id in self._tokenizer.stop_ids else self._tokenizer.eos_id


def _template_source(tokenizer: Tokenizer) -> str:
    """The model's own template, or its family's."""
    if tokenizer.chat_template is not None:
        return tokenizer.chat_template
    default = default_template(tokenizer.special_ids)
    if default is None:
        raise TemplateError("the model has no chat template; use a chat or instruct model")
    family, source = default
    logger.warning(
        "the model has no chat template (it may be a base model); the %s template is used", family
    )
    return source


def _marker_ids(tokenizer: Tokenizer, wire_format: WireFormat) -> dict[str, int]:
    encoded = {text: tokenizer.encode(text, parse_special=True) for text in wire_format.markers}
    return {text: token_ids[0] for text, token_ids in encoded.items() if len(token_ids) == 1}


def _any_of(special_ids: Mapping[str, int]) -> re.Pattern[str]:
    """A pattern of one group that finds the longest special token at each place."""
    texts = sorted(filter(None, special_ids), key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, texts))})" if texts else "((?!))")


def _dump_spaced(value: Any, indent: int | None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
