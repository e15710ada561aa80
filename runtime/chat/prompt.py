"""Conversations to prompt tokens, so that no content can pass for a control token.

Contents are rendered as markers; the template's own text around them is the only place where
control tokens are read. Assistant turns go in as the very tokens they were decoded as.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runtime.chat.messages import Message, ToolCall
from runtime.chat.support import TemplateFeatures
from runtime.chat.template import ChatTemplate
from runtime.chat.wire_formats.families import (
    FALLBACK,
    WIRE_FORMATS,
    default_template,
    format_of_vocabulary,
    reasoning_of,
)
from runtime.chat.wire_formats.format import Reasoning, Thinking, WireFormat, bind
from runtime.chat.wire_formats.hermes import HERMES
from runtime.chat.wire_formats.render import (
    Dialect,
    add_to_system,
    describe_tool,
    describe_tools,
    dump_compact,
    dump_spaced,
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
PROBE_CALL = ToolCall("probe0000", "zonda_probe", {"zonda_key": "zonda-value"})
"""The call by which one sees in what format a template writes calls."""
_ASKED = Message("user", _PROBE)
_MAX_OPENING_CHARS = 256
_DIALECTS = tuple(Dialect(text, empty) for text in (False, True) for empty in (False, True))

Segment = str | tuple[int, ...]
"""A text to encode without control tokens, or tokens to take as they are."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation.

    Attributes:
        token_ids: its tokens, up to where the assistant's turn goes on.
        thinking: how the turn may begin with thoughts; None where it may not.
        opened: the last tokens of the prompt, where they open the thoughts: they belong to the
            turn when it is rendered again.
    """

    token_ids: tuple[int, ...]
    thinking: Thinking | None = None
    opened: tuple[int, ...] = ()


class PromptBuilder:
    """Renders and tokenizes for one model; safe to use from several threads.

    Attributes:
        wire_format: how this model writes calls.
        bound: the same in the model's vocabulary.
        reasoning: what is around the model's thoughts; None where it has none.
        end_of_turn_id: the token that the template puts after an assistant's turn.
        has_native_tools: whether the template itself renders tools.
        has_native_calls: whether it renders calls, in this format.
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
        found = self._probe_calls()
        vocabulary = tokenizer.special_ids
        self.wire_format, self._dialect = found or (format_of_vocabulary(vocabulary), Dialect())
        self.has_native_calls = found is not None
        # A template may describe another format than the one that we fall back to.
        is_known = self.has_native_calls or self.wire_format is not FALLBACK
        self.has_native_tools = is_known and self._probe_tools()
        self.reasoning = reasoning_of(self.wire_format, vocabulary, source)
        self.bound = bind(
            replace(self.wire_format, reasoning=self.reasoning),
            _marker_ids(tokenizer, self.wire_format, self.reasoning),
        )
        self._has_system_role = self._probe_system_role()
        self._trims_contents = self._probe_trimming()
        self._answer_lead = self._probe_answer_lead()
        self.end_of_turn_id = self._probe_end_of_turn()
        by = "the model's own template" if found else "a description in the system turn"
        logger.info("tool calls are written as %s, by %s", self.wire_format.name, by)

    def features(self) -> TemplateFeatures:
        """What the model's template does itself."""
        return TemplateFeatures(
            wire_format=self.wire_format.name,
            renders_tools=self.has_native_tools,
            renders_calls=self.has_native_calls,
            renders_system=self._has_system_role,
            has_parallel_calls=self.wire_format.between_calls is not None,
            has_reasoning=self.reasoning is not None,
        )

    def build(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        thinks: bool | None = None,
    ) -> Prompt:
        """Render a conversation up to where the assistant's turn begins.

        `thinks` asks for thoughts, or for none, of a model whose template has that choice.

        Raises:
            TemplateError: the template cannot render these messages.
        """
        if self.wire_format.between_calls is None:
            messages = one_call_a_turn(messages)
        messages = _without_old_thoughts(messages)
        variables = {} if thinks is None else {"enable_thinking": thinks, "thinking": thinks}
        try:
            prompt, end = self._build_spliced(messages, tools, variables)
        except TemplateError:
            if not any(message.token_ids for message in messages):
                raise
            # A template that checks the order of turns may miss the calls of a spliced one.
            unspliced = [replace(message, token_ids=()) for message in messages]
            prompt, end = self._build_spliced(unspliced, tools, variables)
        bos_id = self._tokenizer.bos_id
        if self._tokenizer.adds_bos and bos_id is not None and prompt[:1] != [bos_id]:
            prompt.insert(0, bos_id)
        return self._find_thinking(tuple(prompt), end)

    def up_to_answer(self, prompt: Prompt) -> tuple[int, ...]:
        """The tokens of a prompt, and of what stands before an answer without thoughts."""
        text = self.wire_format.answer_opens
        if self.reasoning is not None and prompt.thinking is not None and prompt.thinking.is_open:
            text = self.reasoning.closes + "\n\n" + text
        return (*prompt.token_ids, *self._tokenizer.encode(text, parse_special=True))

    def _find_thinking(self, prompt: tuple[int, ...], end: str) -> Prompt:
        """See in the last text of a prompt whether its thoughts are open, or over."""
        if self.reasoning is None or self.bound.wire.reasoning is None:
            return Prompt(prompt)
        opens, closes = self.reasoning.opens.strip(), self.reasoning.closes
        # Harmony's answers begin like its thoughts end, with the assistant's turn.
        if end.rstrip().endswith(closes) and not self.wire_format.answer_opens:
            return Prompt(prompt)
        if not end.rstrip().endswith(opens):
            return Prompt(prompt, Thinking(self.bound.wire.reasoning))
        opened = self._tokenizer.encode(end[end.rindex(opens) :], parse_special=True)
        return Prompt(prompt, Thinking(self.bound.wire.reasoning, is_open=True), tuple(opened))

    def _build_spliced(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], variables: JsonObject
    ) -> tuple[list[int], str]:
        """The tokens, and the template's own text at their end."""
        nonce = secrets.token_hex(8)
        segments: list[Segment] = []

        def hide(segment: Segment) -> str:
            if not segment:
                return ""
            segments.append(segment)
            return f"{_OPEN}{nonce}.{len(segments) - 1}{_CLOSE}"

        def mark(message: Message) -> Message:
            segment: Segment = message.token_ids or message.content
            if isinstance(segment, str) and self._trims_contents:
                segment = segment.strip()
            return replace(message, content=hide(segment)) if segment else message

        text = self._render([mark(message) for message in messages], tools, variables, hide)
        pieces = re.split(f"{_OPEN}{nonce}\\.(\\d+){_CLOSE}", text)
        if sorted(map(int, pieces[1::2])) == list(range(len(segments))):
            return self._join(pieces, segments), pieces[-1]
        text = self._render_unmarked(messages, tools, variables)
        return self._join([text], []), text[-_MAX_OPENING_CHARS:]

    def _render_unmarked(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], variables: JsonObject
    ) -> str:
        """For a template that cuts, drops or doubles contents."""
        for text in _texts_of(messages):
            found = self._specials.search(text)
            if found:
                raise TemplateError(
                    f"the chat template rewrites messages, so the text {found[0]!r} in one would"
                    " become a control token; take it out of the message"
                )
        unspliced = [replace(message, token_ids=()) for message in messages]
        return self._render(unspliced, tools, variables)

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        variables: JsonObject,
        hide: Callable[[str], str] = str,
    ) -> str:
        wire, listed = self.wire_format, None
        if self.has_native_calls:
            rendered = native_messages(wire, messages, dialect=self._dialect, hide=hide)
        else:
            rendered = plain_messages(wire, messages, hide)
        if tools and self.has_native_tools:
            listed = [describe_tool(tool) for tool in tools]
        elif tools:
            add_to_system(rendered, describe_tools(wire, tools, self._write_safe_json))
        if not self._has_system_role:
            rendered = fold_system(rendered)
        return self._template.render(rendered, listed, variables=variables)

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

    def _probe_tools(self) -> bool:
        """Whether the template itself lists the tools."""
        described = [describe_tool(_PROBE_TOOL)]
        return _PROBE_TOOL.name in self._probe(*native_messages(HERMES, [_ASKED]), tools=described)

    def _probe_calls(self) -> tuple[WireFormat, Dialect] | None:
        """Return the format in which the template itself renders calls, and what it wants."""
        called = Message("assistant", tool_calls=(PROBE_CALL,))
        for dialect in _DIALECTS:
            messages = native_messages(HERMES, [_ASKED, called], dialect=dialect)
            text = self._probe(*messages, tools=[describe_tool(_PROBE_TOOL)])
            for wire_format in WIRE_FORMATS:
                if _is_written(wire_format, text):
                    return wire_format, dialect
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
        raise TemplateError(
            "the model has no chat template, and its vocabulary is of no family that we have one"
            " for; use a chat or instruct model"
        )
    family, source = default
    logger.warning(
        "the model has no chat template (it may be a base model); the %s template is used", family
    )
    return source


def _is_written(wire_format: WireFormat, rendered: str) -> bool:
    """Whether a rendered turn has the probe's call in that format, however JSON is spaced."""
    # Some templates forget to close a single call.
    written = write_calls(wire_format, [PROBE_CALL]).removesuffix(wire_format.closes)
    spaced, compact = dump_spaced(PROBE_CALL.arguments), dump_compact(PROBE_CALL.arguments)
    return written in rendered or written.replace(spaced, compact) in rendered


def _texts_of(messages: Sequence[Message]) -> Iterator[str]:
    """What somebody else than the template wrote."""
    for message in messages:
        yield message.content
        yield from (dump_spaced(call.arguments) for call in message.tool_calls)


def _without_old_thoughts(messages: Sequence[Message]) -> list[Message]:
    """Thoughts are kept since the last question; of turns before it what they said remains."""
    last = max((at for at, one in enumerate(messages) if one.role == "user"), default=-1)
    return [
        replace(message, reasoning="", token_ids=()) if message.reasoning and at < last else message
        for at, message in enumerate(messages)
    ]


def _marker_ids(
    tokenizer: Tokenizer, wire_format: WireFormat, reasoning: Reasoning | None
) -> dict[str, int]:
    texts = dict.fromkeys(wire_format.markers)
    if reasoning is not None:
        texts |= dict.fromkeys((reasoning.opens, reasoning.closes))
    encoded = {text: tokenizer.encode(text, parse_special=True) for text in texts}
    return {text: token_ids[0] for text, token_ids in encoded.items() if len(token_ids) == 1}


def _any_of(special_ids: Mapping[str, int]) -> re.Pattern[str]:
    """A pattern of one group that finds the longest special token at each place."""
    texts = sorted(filter(None, special_ids), key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, texts))})" if texts else "((?!))")


def _dump_spaced(value: Any, indent: int | None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
