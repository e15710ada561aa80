"""What the scheduler and sampler know of a grammar: six members, no library behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

ConstraintState = Literal["open", "accepting", "done", "failed"]
"""open: more tokens are needed; accepting: the end token is legal now; done: nothing may
follow (the end token was taken); failed: the matcher gave up, takes and dictates nothing, and
`error` of its class says why."""


class Constraint(Protocol):
    """The legal continuations of one sequence."""

    def fill(self, token_bitmask: npt.NDArray[np.int32], row: int) -> None:
        """Write the legal next tokens: bit `i % 32` of word `i // 32` of `token_bitmask[row]`.

        `token_bitmask` is [rows, ceil(vocab_size / 32)], C-contiguous.
        """
        ...

    def advance(self, token_ids: Sequence[int]) -> int:
        """Take tokens; return how many were legal. The first illegal one is not taken."""
        ...

    def forced(self) -> list[int]:
        """Tokens that must come next, canonical for the tokenizer; they are not taken yet."""
        ...

    def rollback(self, num_tokens: int) -> None:
        """Untake the last `num_tokens` tokens."""
        ...

    def fork(self) -> Constraint:
        """Return an independent copy in the same state."""
        ...

    @property
    def state(self) -> ConstraintState: ...


def guess_token(constraint: Constraint) -> int | None:
    """The token that likely comes next where the text is dictated, and not how it is spelled.

    None elsewhere, and of a constraint that has no `guess`. One that has it is forked in
    microseconds.
    """
    guess = getattr(constraint, "guess", None)
    token_id: int | None = None if guess is None else guess()
    return token_id
