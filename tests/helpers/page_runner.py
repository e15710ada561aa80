"""A runner without a model: it reads its pages back and hashes what it finds.

Each next token depends on every token of the sequence as it stands in the pages, so a wrong
page, a stale page or a lost token changes the text; positions are checked on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from runtime.engine.engine import DrawnTokens
from runtime.engine.prefix_pages import PageBytes, PageMemory
from runtime.kernels import ForwardBatch, SamplingBatch

VOCAB_SIZE = 64
END = 0
PERIOD = 5


def next_token(token_ids: Sequence[int], allowed: npt.ArrayLike | None = None) -> int:
    """The token that follows `token_ids` in the runner's language: mostly what stood 5 before."""
    digest = hashlib.blake2b(np.asarray(token_ids, np.int64).tobytes(), digest_size=8).digest()
    choices = np.arange(VOCAB_SIZE) if allowed is None else np.flatnonzero(allowed)
    if digest[0] % 4 and len(token_ids) > PERIOD and token_ids[-PERIOD] in choices:
        return int(token_ids[-PERIOD])
    return int(choices[int.from_bytes(digest, "big") % len(choices)]) if len(choices) else END


class PageRunner:
    """Keeps a (token, position) pair in every slot."""

    def __init__(self, num_pages: int, page_size: int = 4) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.vocab_size = VOCAB_SIZE
        self.identity = "pages"
        self.num_tokens_run: list[int] = []
        self.last_position = 0
        self._slots = np.full((num_pages * page_size, 2), -1, np.int64)
        self.page_memory: PageMemory | None = SlotMemory(self._slots, page_size)

    def run(self, batch: ForwardBatch, sampling: SamplingBatch) -> DrawnTokens:
        self.num_tokens_run.append(len(batch.token_ids))
        self.last_position = max(self.last_position, *batch.positions.tolist())
        assert len(set(batch.slot_mapping.tolist())) == len(batch.slot_mapping)
        self._slots[batch.slot_mapping] = np.stack((batch.token_ids, batch.positions), axis=1)
        token_ids = np.zeros(len(batch.logits_rows), np.int64)
        logprobs = np.zeros(len(batch.logits_rows), np.float32)
        for index, row in enumerate(batch.logits_rows):
            sequence = np.searchsorted(batch.cu_seqlens_q, row, side="right") - 1
            context = self._read(batch.page_tables[sequence], int(batch.positions[row]) + 1)
            allowed = None
            if sampling.token_bitmask is not None:
                words = np.ascontiguousarray(sampling.token_bitmask[index])
                allowed = np.unpackbits(words.view(np.uint8), bitorder="little")[:VOCAB_SIZE]
            token_ids[index] = next_token(context, allowed)
            if sampling.targets[index] >= 0:
                logprobs[index] = -1.0 if token_ids[index] == sampling.targets[index] else -2.0
                token_ids[index] = sampling.targets[index]
        return DrawnTokens(token_ids, logprobs)

    def _read(self, page_table: np.ndarray, num_tokens: int) -> list[int]:
        position = np.arange(num_tokens)
        slots = page_table[position // self.page_size] * self.page_size
        read = self._slots[slots + position % self.page_size]
        assert (read[:, 1] == position).all(), f"positions {read[:, 1]}"
        return [int(token_id) for token_id in read[:, 0]]


class SlotMemory:
    """The bytes of a `PageRunner`'s pages."""

    identity: str = "pages"

    def __init__(self, slots: npt.NDArray[np.int64], page_size: int) -> None:
        self._pages = slots.view(np.uint8).reshape(len(slots) // page_size, -1)
        self.page_bytes = self._pages.shape[1]

    def read(self, page_ids: Sequence[int], out: PageBytes) -> None:
        out[:] = self._pages[page_ids]

    def write(self, page_ids: Sequence[int], data: PageBytes) -> None:
        self._pages[page_ids] = data


class LetterDecoder:
    """One letter a token."""

    def push(self, token_ids: Sequence[int]) -> str:
        return "".join(chr(ord("0") + token_id) for token_id in token_ids if token_id != END)

    def flush(self) -> str:
        return ""
