"""Writes Lark grammars rule by rule, in llguidance's dialect; knows no schema and no format."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from runtime.errors import UnsupportedSchemaError
from runtime.grammar.compile import GrammarSource

ANY_TEXT = "(?s:.*)"
"""A pattern of any text; it never matches a special token."""


_META = re.compile(r"[\\.+*?()|\[\]{}^$#&~-]")


class Rules:
    """Collects rules; equal ones are written once.

    An *expression* is what may stand on the right of a rule: names, literals, groups.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        """`ids` has the tokens of the characters that stand for markers (`BoundFormat`)."""
        self._ids = ids
        self._markers = re.compile(f"([{''.join(ids)}])" if ids else "((?!))")
        self._names: dict[str, str] = {}
        self._lines: list[str] = []

    def rule(self, expression: str, attributes: str = "") -> str:
        """Return the name of a rule of that expression; `attributes` is like `suffix="x"`."""
        return self._name("r", expression, f"[{attributes}]" if attributes else "")

    def terminal(self, *patterns: str) -> str:
        """Return the name of a lexeme that matches all of these patterns."""
        return self._name("T", " & ".join(map(in_slashes, patterns)))

    def lexeme(self, expression: str) -> str:
        """Return the name of a lexeme written as it is."""
        return self._name("T", expression)

    def declare(self, key: str) -> tuple[str, bool]:
        """Return the rule of that name of the caller's, and whether it is new, not defined yet."""
        is_new = f"\0{key}" not in self._names
        if is_new:
            self._names[f"\0{key}"] = f"r{len(self._names)}"
        return self._names[f"\0{key}"], is_new

    def define(self, name: str, expression: str) -> None:
        """Write the rule that `declare` named."""
        self._lines.append(f"{name}: {expression}")

    def literal(self, text: str) -> str:
        """The text, its markers as tokens."""
        pieces = [piece for piece in self._markers.split(text) if piece] or [""]
        return " ".join(self._terminal(piece) for piece in pieces)

    def text_before(self, closing: str, *terminals: str) -> str:
        """A text that matches all of these terminals up to the first `closing`, and that."""
        plain = self._markers.split(closing)[0]
        rest = closing.removeprefix(plain)
        if not plain:  # a token ends it, which no text can hold
            text = self.lexeme(" & ".join(terminals or [in_slashes(ANY_TEXT)]))
            return f"{text} {self.literal(closing)}"
        if not terminals:
            return self.text_up_to(plain) + (f" {self.literal(rest)}" if rest else "")
        # A greedy lexeme would swallow the closing text; `suffix` ends it at the first one at
        # which the terminals match, so these must not match what holds an earlier one.
        early = [f"{escape(plain)}{ANY_TEXT}"] + [
            escape(plain[:-length])
            for length in range(1, len(plain))
            if plain.startswith(plain[-length:])
        ]
        refused = [f"~{in_slashes(ANY_TEXT + pattern)}" for pattern in early]
        text = self.lexeme(" & ".join([*terminals, *refused]))
        rule = self.rule(text, f"suffix={_quote(plain)}")
        return f"{rule} {self.literal(rest)}" if rest else rule

    def text_up_to(self, closing: str) -> str:
        """Any text up to the first `closing`, and that; it has no markers."""
        if _may_overlap(closing):
            return self.rule(self.terminal(ANY_TEXT), f"suffix={_quote(closing)}")
        before, opened, _ = _before(closing)
        return self.terminal(f"{before}{opened}{escape(closing[1:])}")

    def chain(self, items: Sequence[tuple[str, bool]], separator: str) -> str:
        """The items in their order, a separator between two; (expression, is required) each."""
        if not separator:
            return " ".join(item if must else f"({item})?" for item, must in items) or '""'
        following, leading = "", '""'
        for item, must in reversed(items):
            alternative = "" if must else f" | {leading}"
            leading = self.rule(f"{item} {following}{alternative}")
            link = f"{self.literal(separator)} {item}"
            following = self.rule(f"{link if must else f'({link})?'} {following}")
        return leading

    def any_of(self, expressions: Sequence[str]) -> str:
        """One of the expressions.

        Raises:
            UnsupportedSchemaError: there is none.
        """
        if not expressions:
            raise UnsupportedSchemaError("no value satisfies the schema")
        one, *others = dict.fromkeys(expressions)
        return self.rule(" | ".join([one, *others])) if others else one

    def source(self, start: str, **parts: GrammarSource) -> GrammarSource:
        """The grammar that begins with `start`; expressions refer to `parts` as `@name`."""
        text = "\n".join([f"start: {start}", *self._lines])
        return GrammarSource("lark", text, tuple(parts.items()))

    def _name(self, kind: str, body: str, attributes: str = "") -> str:
        key = f"{kind}{attributes}: {body}"
        if key not in self._names:
            self._names[key] = f"{kind}{len(self._names)}"
            self._lines.append(f"{self._names[key]}{attributes}: {body}")
        return self._names[key]

    def _terminal(self, piece: str) -> str:
        return f"<[{self._ids[piece]}]>" if piece in self._ids else _quote(piece)


def text_without(text: str) -> str:
    """A terminal of the texts that do not hold `text`."""
    if _may_overlap(text):
        return f"{in_slashes(ANY_TEXT)} & ~{in_slashes(ANY_TEXT + escape(text) + ANY_TEXT)}"
    before, opened, begun = _before(text)
    return in_slashes(f"{before}(?:{opened}{begun})?")


def _may_overlap(text: str) -> bool:
    """Whether a text could begin within itself; also of a single character."""
    return len(text) < 2 or text[0] in text[1:]


def _before(text: str) -> tuple[str, str, str]:
    """Patterns of what stands before `text`, of its first character there, and of a part more.

    Spelled out, the mask engine sees that plain text may follow (`SLICES` of the vocabulary).
    `text` can begin wherever its first character stands, and nowhere else.
    """
    first, rest = escape(text[0]), text[1:]
    other, begun = _none_of(text[0] + rest[-1]), ""
    for char in reversed(rest[:-1]):
        other = f"(?:{_none_of(text[0] + char)}|{escape(char)}{other})"
        begun = f"(?:{escape(char)}{begun})?"
    opened = f"(?:{first}{begun})*{first}"
    return f"(?:{_none_of(text[0])}|{opened}{other})*", opened, begun


def any_text_of(texts: Iterable[str]) -> str:
    """A terminal of these texts."""
    return in_slashes(f"(?:{'|'.join(map(escape, texts))})")


def escape(text: str) -> str:
    """Escape for a pattern."""
    return _META.sub(r"\\\g<0>", text)


def _none_of(chars: str) -> str:
    return f"[^{''.join(map(escape, chars))}]"


def in_slashes(pattern: str) -> str:
    """A pattern as a terminal, its slashes and line breaks escaped."""
    spelled = {"/": "\\/", "\n": "\\n", "\r": "\\r", "\\\n": "\\n", "\\\r": "\\r"}
    escaped = re.sub(
        r"\\.|[/\n\r]", lambda found: spelled.get(found[0], found[0]), pattern, flags=re.DOTALL
    )
    return f"/{escaped}/"


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
