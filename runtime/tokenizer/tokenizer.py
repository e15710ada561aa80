"""Text to token ids and back. Adds nothing: no BOS, no template."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain, islice

import tokenizers

from runtime.tokenizer.decoder import IncrementalDecoder
from tools.errors import InvalidRequestError

PART_CHARS = 16_384
"""Length from which on a text is cut at the next end of a word."""
PARTS_AT_ONCE = 16
MAX_PART_CHARS = 2**20
"""Of a part without such a place; it takes a second, in which no other text is split."""

_LETTER = r"[^\W\d_]"
_AFTER_WORDS = " \n。，、"  # noqa: RUF001 - Chinese and Japanese put no spaces between words


class Tokenizer:
    """A model's tokenizer; may be used from any thread.

    Attributes:
        json: the `tokenizer.json` it was built from.
        vocab_size: number of token ids.
        bos_id: begins a sequence; None where the model has none.
        eos_id: ends a sequence or turn.
        adds_bos: whether prompts start with `bos_id`; `encode` leaves that to its caller.
        stop_ids: every token that ends a turn or text, `eos_id` included.
        max_token_bytes: of the longest token, as text or as it is spelled.
        special_ids: control tokens by their spelling, e.g. "<|im_start|>".
        chat_template: the model's own Jinja template; None where the file has none.
    """

    def __init__(
        self,
        json: str,
        token_bytes: tuple[bytes, ...],
        *,
        bos_id: int | None,
        eos_id: int,
        adds_bos: bool,
        stop_ids: frozenset[int],
        special_ids: Mapping[str, int],
        chat_template: str | None,
    ) -> None:
        self.json = json
        self.vocab_size = len(token_bytes)
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.adds_bos = adds_bos
        self.stop_ids = stop_ids
        self.special_ids = special_ids
        self.chat_template = chat_template
        self.max_token_bytes = max(map(len, (*token_bytes, *map(str.encode, special_ids))))
        self._token_bytes = token_bytes
        self._names = {token_id: name for name, token_id in special_ids.items()}
        self._backend = tokenizers.Tokenizer.from_str(json)
        # Whether specials are parsed is a setting of the backend, not of a call.
        self._lock = threading.Lock()
        self._next = threading.Lock()

    def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Split `text` into token ids.

        Args:
            text: any text.
            parse_special: turn control tokens spelled in `text` into their ids; else they
                are text like any other.

        Raises:
            InvalidRequestError: a lone surrogate, which no UTF-8 text has.
        """
        return list(chain.from_iterable(self.encode_parts(text, parse_special=parse_special)))

    def encode_parts(self, text: str, *, parse_special: bool = False) -> Iterator[list[int]]:
        """As `encode`, bit by bit: of the seconds that 10 MB take, others wait for a fraction.

        Raises:
            InvalidRequestError: as `encode`.
        """
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            problem = f"wanted Unicode text, found the lone surrogate {text[exc.start]!r}"
            raise InvalidRequestError(f"{problem} at character {exc.start}") from exc
        parts = self._cut(text)
        while batch := list(islice(parts, PARTS_AT_ONCE)):
            with self._next:  # else who goes on would overtake who waits
                self._lock.acquire()
            try:
                self._backend.encode_special_tokens = not parse_special
                # On all cores; unlike `encode`, this one lets other threads run.
                found = self._backend.encode_batch_fast(batch, add_special_tokens=False)
            finally:
                self._lock.release()
            yield [token_id for one in found for token_id in one.ids]

    def _cut(self, text: str) -> Iterator[str]:
        """Parts of a text whose tokens, one after the other, are those of the text."""
        begin = 0
        while len(text) - begin > PART_CHARS and self._word_end is not None:
            found = self._word_end.search(text, begin + PART_CHARS - 1)
            end = len(text) if found is None else found.end()
            yield _check_part(text[begin:end])
            begin = end
        if begin < len(text):
            yield _check_part(text[begin:])

    @cached_property
    def _word_end(self) -> re.Pattern[str] | None:
        """Finds a word's last letter before a character which no token has after a letter.

        There nothing is merged, and every way of splitting text into words that we know splits it.
        None where there is no such character, or where each text gets a space of its own before it,
        which an example shows.
        """
        spelled = (*self._token_bytes, *map(str.encode, self.special_ids))
        known = b"\0".join(spelled).decode("utf-8", "ignore")
        crossed = re.findall(f"{_LETTER}([{_AFTER_WORDS}])", known)
        ends = [end for end in _AFTER_WORDS if end not in crossed]
        parts = ["a", *(f"{end}b" for end in ends)]
        batch = ["".join(parts), *parts]
        whole, *found = self._backend.encode_batch_fast(batch, add_special_tokens=False)
        if not ends or whole.ids != [token_id for one in found for token_id in one.ids]:
            return None
        return re.compile(f"{_LETTER}(?=[{''.join(ends)}])")

    def encode_whole(self, text: str, *, parse_special: bool = False) -> list[int]:
        """As `encode`, after `bos_id` where texts begin with it and this one does not yet."""
        return self.with_bos(self.encode(text, parse_special=parse_special))

    def with_bos(self, token_ids: list[int]) -> list[int]:
        """A text's tokens after `bos_id`, where texts begin with it and this one does not yet."""
        if self.bos_id is None or not self.adds_bos or token_ids[:1] == [self.bos_id]:
            return token_ids
        return [self.bos_id, *token_ids]

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of all these tokens; special ones have none, broken UTF-8 is U+FFFD."""
        joined = b"".join([self._token_bytes[token] for token in token_ids])
        return joined.decode("utf-8", "replace")

    def spell(self, token_id: int) -> bytes:
        """A token by itself: the bytes of its text, or how a special one is written."""
        return self._token_bytes[token_id] or self._names.get(token_id, "").encode()

    def decoder(self) -> IncrementalDecoder:
        """A decoder for one sequence of tokens that come bit by bit."""
        return IncrementalDecoder(self._token_bytes)


def _check_part(part: str) -> str:
    if len(part) > MAX_PART_CHARS:
        raise InvalidRequestError(
            f"{len(part)} characters follow each other without a place where a text can be cut, a"
            f" word and white space; at most {MAX_PART_CHARS} may: cut the text"
        )
    return part
