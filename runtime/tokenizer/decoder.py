"""Token ids to text as they come, cut at UTF-8 boundaries."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence


class IncrementalDecoder:
    """Decodes one sequence of tokens; the joined texts equal decoding all of them at once.

    Each token costs the length of its own bytes, however many came before.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._token_bytes = token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_ids: Iterable[int]) -> str:
        """The text that these tokens complete; "" while a character is unfinished."""
        return self._utf8.decode(b"".join([self._token_bytes[token] for token in token_ids]))

    def flush(self) -> str:
        """End the sequence: an unfinished character becomes U+FFFD."""
        return self._utf8.decode(b"", final=True)


def overlap(text: str, marker: str) -> int:
    """Length of the longest end of `text` that begins `marker` without being all of it."""
    longest = min(len(text), len(marker) - 1)
    return next((n for n in range(longest, 0, -1) if marker.startswith(text[-n:])), 0)


class StopStrings:
    """Passes text on up to, and without, the first of some strings.

    Text that may be the beginning of one is held back until it is certain.

    Attributes:
        found: the string that ended the text; None while it goes on.
    """

    def __init__(self, stop: Iterable[str]) -> None:
        self._stop = tuple(filter(None, stop))
        self._held = ""
        self.found: str | None = None

    @property
    def is_stopped(self) -> bool:
        return self.found is not None

    def push(self, text: str) -> str:
        """Take more text; return what is certain now."""
        if not self._stop:
            return text
        if self.is_stopped:
            return ""
        text = self._held + text
        ends = [(at, string) for string in self._stop if (at := text.find(string)) >= 0]
        if ends:
            end, self.found = min(ends)
            self._held = ""
            return text[:end]
        keep = max(overlap(text, string) for string in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what is held back; the text is over."""
        held, self._held = self._held, ""
        return held
