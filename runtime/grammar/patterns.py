"""Regular expressions of schemas that every reader understands alike; compiles nothing.

A schema's `pattern` is ECMAScript, the final check reads it as Python and the grammar as Rust.
The three agree on most of the syntax and differ silently on the rest (`[[a]]`, `a{,3}`, `a++`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

_QUANTIFIER = re.compile(r"(?:[*+?]|\{\d{1,9}(?:,\d{0,9})?\})\??")
_ESCAPE = re.compile(r"\\(?:[dDwWtnrfv]|[pP]\{\w+\}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[^\w\s])")
_OPENING = re.compile(r"\((?:\?:|\?P?<[A-Za-z_]\w*>)?(?!\?)")
# What `\s` means to ECMAScript; Rust and Python each know other blanks.
_BLANKS = r"\t\n\x0b\f\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_QUANTIFIERS = ("*", "+", "?", "{")
_SETS = ("d", "D", "w", "W", "s", "S", "p", "P")
_CLASS_OPENING = re.compile(r"\[\^?")
_SET_OR_END = re.compile(r"\]|\\[dDwWsSpP]")
_ANYTHING = "(?s:.*)"
_NEVER_LITERAL = frozenset("*+?{}])")


def portable_pattern(pattern: str) -> str | None:
    r"""Return `pattern` as the grammar compiler should read it, or None where readings differ.

    Also None: what the compiler lacks, such as look-around, `\b`, back-references and anchors
    in the middle. The result finds what ECMAScript finds.
    """
    if _SURROGATE.search(pattern):
        return None
    try:
        reader = _Reader(pattern)
        text = reader.alternatives(leading=True).text
        return text if reader.at == len(pattern) else None
    except (_UnportableError, RecursionError):
        return None


def whole_pattern(pattern: str) -> str | None:
    """As `portable_pattern`, but of the whole of a text in which `pattern` is found.

    None, too, where an anchor stands in a group.
    """
    if _SURROGATE.search(pattern):
        return None
    try:
        reader = _Reader(pattern)
        pieces = reader.sequences(leading=True)
    except (_UnportableError, RecursionError):
        return None
    # In a group an anchor does not stand at an end of its alternative's text.
    is_plain = all(
        piece.starts <= piece.text.startswith("^") and piece.ends <= piece.text.endswith("$")
        for piece in pieces
    )
    if reader.at < len(pattern) or not is_plain:
        return None
    texts = [
        f"{'' if piece.starts else _ANYTHING}(?:{piece.text[piece.starts : end]})"
        f"{'' if piece.ends else _ANYTHING}"
        for piece in pieces
        for end in (len(piece.text) - piece.ends,)
    ]
    return "|".join(texts)


class _UnportableError(Exception):
    """The readers disagree here."""


class _Piece(NamedTuple):
    """Part of a pattern, and whether it may hold the start or the end of the string."""

    text: str
    starts: bool = False
    ends: bool = False


class _Reader:
    """Recursive descent over one pattern; `at` is the next character to read."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self.at = 0

    def alternatives(self, *, leading: bool) -> _Piece:
        """Read up to `)` or the end; an anchor `^` is taken only where it is `leading`."""
        pieces = self.sequences(leading=leading)
        starts, ends = any(p.starts for p in pieces), any(p.ends for p in pieces)
        return _Piece("|".join(p.text for p in pieces), starts, ends)

    def sequences(self, *, leading: bool) -> list[_Piece]:
        """As `alternatives`, one by one."""
        pieces = [self._sequence(leading=leading)]
        while self._peek() == "|":
            self.at += 1
            pieces.append(self._sequence(leading=leading))
        return pieces

    def _sequence(self, *, leading: bool) -> _Piece:
        text, starts, ends = "", False, False
        while self._peek() not in ("", "|", ")"):
            if ends:
                raise _UnportableError
            piece = self._atom(leading=leading)
            quantifier = self._take(_QUANTIFIER)
            if quantifier and (piece.starts or piece.ends or self._peek() in _QUANTIFIERS):
                raise _UnportableError
            text += piece.text + quantifier
            starts, ends = starts or piece.starts, piece.ends
            leading = False
        return _Piece(text, starts, ends)

    def _atom(self, *, leading: bool) -> _Piece:
        char = self._peek()
        if char == "(":
            return self._group(leading=leading)
        if char == "[":
            return _Piece(self._class())
        if char == "\\":
            return _Piece(self._escape(in_class=False))
        self.at += 1
        if char in _NEVER_LITERAL or (char == "^" and not leading):
            raise _UnportableError
        text = r"[^\n\r\u2028\u2029]" if char == "." else char
        return _Piece(text, starts=char == "^", ends=char == "$")

    def _group(self, *, leading: bool) -> _Piece:
        if not self._take(_OPENING):
            raise _UnportableError
        inside = self.alternatives(leading=leading)
        if self._peek() != ")":
            raise _UnportableError
        self.at += 1
        return inside._replace(text=f"(?:{inside.text})")

    def _class(self) -> str:
        text = self._take(_CLASS_OPENING)
        if self._peek() == "]":
            raise _UnportableError
        hyphen_is_literal = True
        while (char := self._peek()) != "]":
            if char == "":
                raise _UnportableError
            if char == "\\":
                hyphen_is_literal = self._pattern[self.at + 1 : self.at + 2] in _SETS
                text += self._escape(in_class=True)
                continue
            self.at += 1
            if char == "-":
                hyphen_is_literal |= self._is_before(_SET_OR_END)
            is_escaped = char in "[&~" or (char == "-" and hyphen_is_literal)
            # A second one of these would be a set operation to Rust.
            text += f"\\{char}" if is_escaped else char
            hyphen_is_literal = False
        self.at += 1
        return text + "]"

    def _is_before(self, pattern: re.Pattern[str]) -> bool:
        return pattern.match(self._pattern, self.at) is not None

    def _escape(self, *, in_class: bool) -> str:
        rest = self._pattern[self.at + 1 : self.at + 2]
        if rest in ("s", "S"):
            self.at += 2
            blanks = f"[^{_BLANKS}]" if rest == "S" else f"[{_BLANKS}]"
            return _BLANKS if in_class and rest == "s" else blanks
        taken = self._take(_ESCAPE)
        if not taken:
            raise _UnportableError
        return taken if taken not in (r"\/", r"\"") else taken[1]

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._pattern, self.at)
        if match is None:
            return ""
        self.at = match.end()
        return match.group()

    def _peek(self) -> str:
        return self._pattern[self.at : self.at + 1]
