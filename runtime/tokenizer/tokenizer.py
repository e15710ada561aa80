"""Text to token ids and back. Adds nothing: no BOS, no template."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

import tokenizers

from runtime.tokenizer.decoder import IncrementalDecoder
from tools.errors import InvalidRequestError


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

    def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Split `text` into token ids.

        Args:
            text: any text.
            parse_special: turn control tokens spelled in `text` into their ids; else they
                are text like any other.

        Raises:
            InvalidRequestError: a lone surrogate, which no UTF-8 text has.
        """
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            problem = f"wanted Unicode text, found the lone surrogate {text[exc.start]!r}"
            raise InvalidRequestError(f"{problem} at character {exc.start}") from exc
        with self._lock:
            self._backend.encode_special_tokens = not parse_special
            # Unlike `encode`, this one lets other threads run: 10 MB of text take seconds.
            (found,) = self._backend.encode_batch_fast([text], add_special_tokens=False)
        token_ids: list[int] = found.ids
        return token_ids

    def encode_whole(self, text: str, *, parse_special: bool = False) -> list[int]:
        """As `encode`, after `bos_id` where texts begin with it and this one does not yet."""
        token_ids = self.encode(text, parse_special=parse_special)
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
